"""Sinusoids of the time, then two layers: the vector by which a network knows how late it is."""

import math

import torch
from torch import Tensor, nn


def sinusoids(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of ``t`` (B,), float, at ``dim / 2`` geometrically spaced frequencies: (B, dim).

    The dtype is that of ``t``: float32 at least, since in bfloat16 the times 256 and 257 are one number.

    References:
        Vaswani et al., *Attention Is All You Need*, 2017, section 3.5.
    """
    channels = torch.arange(dim // 2, device=t.device, dtype=t.dtype)
    angles = t[:, None] * torch.exp(-math.log(max_period) * channels / (dim // 2))
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimeEmbedding(nn.Module):
    """Time (B,), integer or float -> conditioning vector (B, dim): sinusoids and a two-layer perceptron.

    The highest frequency is one radian a unit, so a clock of steps 0 … T and one of u in [0, 1] can both be
    told; a network must be used with the clock it was trained with.
    """

    def __init__(self, dim: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.project = nn.Linear(2 * num_frequencies, dim)
        self.refine = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        dtype = self.project.weight.dtype
        waves = sinusoids(t.to(torch.promote_types(dtype, torch.float32)), 2 * self.num_frequencies)
        hidden = nn.functional.silu(self.project(waves.to(dtype)))
        return nn.functional.silu(self.refine(hidden))
