"""A small transformer that tells the class of a row of noisy states."""

import torch
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.blocks import Block, zeroed
from d3pm.networks.stack import Stack
from d3pm.networks.time_embedding import TimeEmbedding

COND_DIM = 128


class TextClassifier(Stack):
    """Class logits for rows of states of any length, at any time of their ruin.

    The blocks of `TransformerDenoiser`; the mean over the real positions of the last one is read out. States
    come as whole numbers or as weights over all states (one-hot, or any floats), in which the logits are
    smooth, so that they can steer. Logits are exactly zero at first. Costs O(L² dim) a row, and O(L K dim)
    for weights.

    Args:
        num_states: K, how many states an entry can be in, a mask included.
        num_classes: How many classes there are; as many logits are given.
        dim: Width of a token; a multiple of ``2 * heads``.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the perceptrons, in units of ``dim``.
        dropout: Probability with which an entry of what a branch adds is dropped.
        time_conditioned: Whether ``t`` is looked at; of masked rows the masks tell it already.

    Raises:
        ConfigError: If a number is out of range, or ``dim`` does not fall into heads of an even size; when
            called, if weights are not over ``num_states`` states.

    >>> network = TextClassifier(num_states=28, num_classes=4, dim=32, depth=1, heads=2)
    >>> network(torch.randint(28, (3, 16)), torch.tensor([1, 500, 1000])).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        num_states: int,
        num_classes: int,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        time_conditioned: bool = True,
    ) -> None:
        super().__init__()
        if num_states < 2:
            raise ConfigError(f"num_states={num_states} leaves nothing to read: take 2 or more")
        if num_classes < 2:
            raise ConfigError(f"num_classes={num_classes} leaves nothing to tell apart: take 2 or more")
        if depth < 1:
            raise ConfigError(f"depth={depth} blocks cannot mix positions: take 1 or more")
        self.num_states = num_states
        self.num_classes = num_classes
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.dropout = dropout
        self.time_conditioned = time_conditioned

        cond_dim = COND_DIM if time_conditioned else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, cond_dim) for _ in range(depth))
        self.embedding = nn.Embedding(num_states, dim)
        self.time_embedding = TimeEmbedding(COND_DIM) if time_conditioned else None
        self.norm = nn.LayerNorm(dim, elementwise_affine=not time_conditioned)
        self.modulation = zeroed(nn.Linear(COND_DIM, 2 * dim)) if time_conditioned else None
        self.head = zeroed(nn.Linear(dim, num_classes))

    def forward(self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes) for states x_t, int64 (B, L) or float (B, L, num_states), at times t (B,).

        Where ``attention_mask`` (B, L) is 0 the entry is padding: nothing depends on it.
        """
        cond = None if self.time_embedding is None else self.time_embedding(t)
        x = self.in_order(self._embedded(x_t), cond, attention_mask)
        return self.head(_mean(x, attention_mask))

    def _embedded(self, x_t: Tensor) -> Tensor:
        if not x_t.is_floating_point():
            return self.embedding(x_t)
        if x_t.dim() != 3 or x_t.shape[-1] != self.num_states:
            raise ConfigError(
                f"x_t has shape {tuple(x_t.shape)}: give states (B, L), or weights (B, L, {self.num_states})"
            )
        weight = self.embedding.weight
        return x_t.to(weight.dtype) @ weight


def _mean(x: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mean over real positions, (B, L, dim) -> (B, dim); zero where there are none."""
    if attention_mask is None:
        return x.mean(1)
    real = (attention_mask != 0).unsqueeze(-1)
    return torch.where(real, x, 0.0).sum(1) / real.sum(1).clamp(min=1)
