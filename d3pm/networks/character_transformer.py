"""A transformer for text in few symbols that is to be good soon rather than late."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.blocks import zeroed
from d3pm.networks.rotary import Rotation, rotary_table, rotate
from d3pm.networks.windows import WindowEmbedding
from d3pm.projection import Projection, project


class CharacterTransformer(nn.Module):
    """Rows of states -> logits over states, in both directions or, ``causal``, from the left alone.

    Made for quality in little time: windows of neighbours are looked up in tables, every branch sees the entries
    next to its own, queries and keys are of unit length, perceptrons square a ReLU. Norms have no parameters, times
    are accepted and ignored (the number of masks tells the time), and logits are exactly zero at first.

    A causal one says at position i what it makes of entries 0 … i; whoever wants the next entry shifts the row.

    Args:
        num_states: How many states an entry can be in; as many logits are given.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads; ``dim`` must be a multiple of ``2 * heads``.
        mlp_ratio: Hidden width of the perceptrons, in units of ``dim``.
        window: States in a window (see `WindowEmbedding`); 0 for none.
        window_dim: Width of a row of the windows' tables.
        reach: Neighbours on either side that a branch is told of; 0 for none.
        causal: Whether a position sees only itself and what is left of it.

    Raises:
        ConfigError: If a number is out of range.

    References:
        So et al., *Primer*, 2021 (squared ReLU, convolutions beside attention).
        Henry et al., *Query-Key Normalization for Transformers*, 2020.

    >>> network = CharacterTransformer(num_states=28, dim=32, depth=1, heads=2)
    >>> network(torch.randint(28, (3, 16)), torch.tensor([1, 500, 1000])).shape
    torch.Size([3, 16, 28])
    """

    time_conditioned = False

    def __init__(
        self,
        num_states: int,
        dim: int = 256,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4,
        window: int = 3,
        window_dim: int = 64,
        reach: int = 2,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if num_states < 2 or depth < 1:
            raise ConfigError(
                f"num_states={num_states} and depth={depth}: take 2 states and 1 block, or more"
            )
        if heads < 1 or dim % (2 * heads):
            raise ConfigError(f"dim={dim} does not fall into heads={heads} of an even size: take a multiple")
        self.num_states = num_states
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.window = window
        self.window_dim = window_dim
        self.reach = reach
        self.causal = causal
        self.embedding = WindowEmbedding(num_states, dim, window, window_dim, causal)
        self.blocks = nn.ModuleList(LocalBlock(dim, heads, mlp_ratio, reach, causal) for _ in range(depth))
        self.head = zeroed(nn.Linear(dim, num_states))

    @property
    def defers(self) -> bool:
        """Whether hidden states are smaller than logits, so that ``defer`` is worth asking for."""
        return self.num_states > self.dim

    def forward(self, x_t: Tensor, t: Tensor | None = None, defer: bool = False) -> Tensor | Projection:
        """Logits (B, L, num_states) for states x_t (B, L), int64; ``t`` is not looked at.

        With ``defer``, the hidden states and the head instead.
        """
        places = torch.arange(x_t.shape[1], device=x_t.device, dtype=torch.float32)
        rotation = rotary_table(places, self.dim // self.heads)
        x = norm(self.embedding(x_t))
        for block in self.blocks:
            x = block(x, rotation)
        x = norm(x)
        return project(x, self.head) if defer else self.head(x)


class LocalBlock(nn.Module):
    """Attention, then a perceptron, each on tokens mixed with their neighbours; the identity at first."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, reach: int, causal: bool) -> None:
        super().__init__()
        self.before_attention = Neighbors(dim, reach, causal)
        self.attention = UnitAttention(dim, heads, causal)
        self.before_mlp = Neighbors(dim, reach, causal)
        self.hidden = nn.Linear(dim, int(mlp_ratio * dim), bias=False)
        self.out = zeroed(nn.Linear(int(mlp_ratio * dim), dim, bias=False))

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        x = x + self.attention(self.before_attention(norm(x)), rotation)
        return x + self.out(F.relu(self.hidden(self.before_mlp(norm(x)))).square())


class UnitAttention(nn.Module):
    """Self-attention with rotary positions between queries and keys of unit mean square."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = zeroed(nn.Linear(dim, dim, bias=False))

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)) for part in (self.query, self.key, self.value))
        q, k = (rotate(norm(part), rotation).to(v.dtype) for part in (q, k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(-2))


class Neighbors(nn.Module):
    """Every channel of a token plus some of the same channel of its neighbours: (B, L, dim) -> (B, L, dim).

    Those are ``reach`` on either side, or as many in all before it if causal; how much of each is learnt, channel
    by channel. A short convolution, depth by depth, at the cost of copying.
    """

    def __init__(self, dim: int, reach: int, causal: bool) -> None:
        super().__init__()
        steps = range(1, 2 * reach + 1) if causal else range(1, reach + 1)
        self.places = [-step for step in steps] + ([] if causal else list(steps))
        self.share = nn.Parameter(0.5 * torch.randn(len(self.places), dim))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        before, after = max([0, *(-place for place in self.places)]), max([0, *self.places])
        y, beyond = x, F.pad(x, (0, 0, before, after))
        for share, place in zip(self.share.to(x.dtype), self.places, strict=True):
            y = torch.addcmul(y, share, beyond.narrow(1, before + place, x.shape[1]))
        return y


def norm(x: Tensor) -> Tensor:
    """The last dimension at unit mean square, in the precision of ``x``."""
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)
