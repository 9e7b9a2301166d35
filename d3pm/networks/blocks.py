"""The parts of a transformer: attention in both directions, perceptron, and the block that joins them.

A block takes tokens (B, L, dim) and, if it is conditioned, a vector (B, cond_dim): it knows nothing of what
the tokens are or where the vector comes from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.rotary import Rotation, rotate


def keep_mask(attention_mask: Tensor) -> Tensor:
    """(B, L), 1 real and 0 padding -> (B, 1, 1, L), True where attention may look.

    A row without any real token looks everywhere: its output means nothing, but it is finite.

    >>> keep_mask(torch.tensor([[1, 0], [0, 0]])).squeeze()
    tensor([[ True, False],
            [ True,  True]])
    """
    keep = attention_mask != 0
    return (keep | ~keep.any(dim=-1, keepdim=True))[:, None, None, :]


def segment_mask(segments: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Segments (B, L) -> (B, 1, L, L), True where both entries are of one segment; padding is one of its own.

    It takes B L² bytes, shared by all heads and blocks, and rules out attention kernels that know no mask.

    >>> segment_mask(torch.tensor([[1, 1, 2, 0]])).squeeze().long()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 0, 1]])
    """
    if attention_mask is not None:
        segments = segments.masked_fill(attention_mask == 0, -1)
    return (segments.unsqueeze(-1) == segments.unsqueeze(-2)).unsqueeze(1)


def segment_places(segments: Tensor) -> Tensor:
    """Segments (B, L) -> int64 (B, L), how far each entry is from the first of its segment.

    >>> segment_places(torch.tensor([[1, 1, 1, 2, 2, 0]])).tolist()
    [[0, 1, 2, 0, 1, 0]]
    """
    places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
    return places - torch.where(begins, places, 0).cummax(dim=1).values


class Attention(nn.Module):
    """Multi-head self-attention over all positions, with rotary positions if a rotation is given.

    Raises:
        ConfigError: If ``dim`` does not fall into ``heads`` heads of an even size.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % (2 * heads):
            raise ConfigError(
                f"dim={dim} does not fall into heads={heads} heads of an even size, whose channels rotary "
                f"positions turn in pairs: take one head or more and dim a multiple of 2 * heads"
            )
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rotation: Rotation | None = None, keep: Tensor | None = None) -> Tensor:
        """(B, L, dim) -> (B, L, dim); ``keep`` as `keep_mask` or `segment_mask` gives it."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        qk, v = qkv.split((2, 1), dim=-3)  # a split, not two slices: its backward is one concatenation
        if rotation is not None:
            qk = rotate(qk, rotation)
        q, k = qk.transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v.squeeze(2).transpose(1, 2), attn_mask=keep)
        return self.out(y.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Two layers with a GELU between, ``ratio`` times as wide: (…, dim) -> (…, dim).

    The GELU is the exact one: on a CPU it runs twice as fast as its tanh approximation.

    Raises:
        ConfigError: If ``ratio`` leaves no hidden unit.
    """

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = int(ratio * dim)
        if hidden < 1:
            raise ConfigError(f"mlp_ratio={ratio} leaves the perceptron no hidden unit: take 4, say")
        self.hidden = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) -> (…, dim)."""
        return self.out(F.gelu(self.hidden(x)))


class Block(nn.Module):
    r"""Pre-norm transformer block, conditioned on a vector by adaptive layer norm if ``cond_dim`` is given.

    .. math::
        x \leftarrow x + g_1 \odot \text{Attention}(s_1 + (1 + c_1) \odot \text{norm}(x)), \qquad
        x \leftarrow x + g_2 \odot \text{MLP}(s_2 + (1 + c_2) \odot \text{norm}(x))

    where shifts :math:`s`, scales :math:`c` and gates :math:`g` are one linear map of the vector, zero at
    first. Without a vector, :math:`g = 1`, the norm has its own affine map, and the last layer of either
    branch is zero at first. Either way a fresh block is the identity.

    Args:
        dim: Width of a token.
        heads: Attention heads; ``dim`` must be a multiple of ``2 * heads``.
        mlp_ratio: Hidden width of the perceptron, in units of ``dim``.
        dropout: For what each branch adds; never for attention weights, which would forbid fused kernels.
        cond_dim: Width of the conditioning vector, taken as it is: pass it through a nonlinearity before.

    References:
        Peebles and Xie, *Scalable Diffusion Models with Transformers*, 2022, section 3.2 (adaLN-Zero).
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 4, dropout: float = 0.0, cond_dim: int | None = None
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout} is not a probability below one: take a value in [0, 1)")
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=cond_dim is None)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=cond_dim is None)
        self.mlp = MLP(dim, mlp_ratio)
        self.dropout = nn.Dropout(dropout)
        self.modulation = None if cond_dim is None else zeroed(nn.Linear(cond_dim, 6 * dim))
        if self.modulation is None:
            zeroed(self.attention.out)
            zeroed(self.mlp.out)

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        rotation: Rotation | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """(B, L, dim), (B, cond_dim) -> (B, L, dim)."""
        if self.modulation is None:
            x = x + self.dropout(self.attention(self.attention_norm(x), rotation, keep))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond).unsqueeze(-2).chunk(6, dim=-1)
        y = self.attention(modulate(self.attention_norm(x), shift1, scale1), rotation, keep)
        x = torch.addcmul(x, gate1, self.dropout(y))
        y = self.mlp(modulate(self.mlp_norm(x), shift2, scale2))
        return torch.addcmul(x, gate2, self.dropout(y))


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The same layer, its weight and bias set to zero."""
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale x (B, L, dim), channel by channel; zeros leave it alone."""
    return torch.addcmul(shift, x, 1 + scale)
