"""Rotary positions: queries and keys turned by angles proportional to their position."""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines, each (L, head_dim) or (B, L, head_dim), as `rotary_table` gives them."""


def rotary_table(positions: Tensor, head_dim: int, base: float = 10_000.0) -> Rotation:
    r"""Cosines and signed sines of the angles by which `rotate` turns a vector at each position.

    Channels :math:`c` and :math:`c + d/2` turn together, by :math:`n\,\text{base}^{-2c/d}` at position
    :math:`n`. The table costs :math:`O(L d)`, so every forward pass makes its own, shared by all blocks:
    there is no greatest length, and no buffer that a lazy checkpoint load could leave unfilled.

    Args:
        positions: (L,), or (B, L) where rows differ; floating point, and its dtype is that of the table.
        head_dim: :math:`d`, even.
        base: The slowest pair turns once in about :math:`2\pi\,\text{base}` positions.

    References:
        Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021, section 3.2.
    """
    channels = torch.arange(head_dim // 2, device=positions.device, dtype=positions.dtype)
    angles = positions.unsqueeze(-1) * base ** (-2 * channels / head_dim)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    r"""Turn ``x`` (B, L, \*, head_dim), so that :math:`\langle R_m q, R_n k\rangle` depends on m - n alone.

    The product is formed in the table's precision and handed back in that of ``x``.

    >>> x = torch.tensor([[[1.0, 0.0]]])  # one row, one position, one pair of channels
    >>> rotate(x, rotary_table(torch.tensor([torch.pi / 6]), head_dim=2))
    tensor([[[0.8660, 0.5000]]])
    """
    shape = rotation[0].shape[:-1] + (1,) * (x.dim() - 3) + (x.shape[-1],)
    cos, sin = (table.view(shape) for table in rotation)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)
