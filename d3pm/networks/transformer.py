"""A bidirectional transformer that reads states and gives logits over states, position by position."""

import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.blocks import Block, zeroed
from d3pm.networks.labels import Labels
from d3pm.networks.stack import Stack
from d3pm.networks.time_embedding import TimeEmbedding
from d3pm.projection import Projection, project

TIME_DIM = 128  # a scalar needs no wider vector, and at width 768 this saves a quarter of the parameters


class TransformerDenoiser(Stack):
    """Transformer over rows of states of any length: every position sees every other, in both directions.

    Positions are rotary, blocks pre-norm. Time and class enter by adaptive layer norm (adaLN-Zero); with
    ``time_conditioned=False`` time is accepted and ignored. Logits are exactly zero at first, so training
    starts from the uniform belief. Attention costs O(L² dim) time and, with fused kernels, O(L dim) memory.

    Args:
        num_states: How many states an entry of ``x_t`` can be in; as many logits are given.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads; ``dim`` must be a multiple of ``2 * heads``.
        mlp_ratio: Hidden width of the perceptrons, in units of ``dim``.
        dropout: Probability with which an entry of what a branch adds is dropped.
        time_conditioned: Whether ``t`` is looked at.
        num_classes: Classes the network can be told, a null class besides them (see `Labels`).
        label_drop: Probability with which a label is hidden in training.

    Raises:
        ConfigError: If a number is out of range, or ``dim`` does not fall into heads of an even size; when
            called, if labels do not fit.

    References:
        Peebles and Xie, *Scalable Diffusion Models with Transformers*, 2022
        (conditioning and initialisation).
        Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021.

    >>> import torch
    >>> network = TransformerDenoiser(num_states=28, dim=32, depth=1, heads=2)
    >>> network(torch.randint(28, (3, 16)), torch.tensor([1, 500, 1000])).shape
    torch.Size([3, 16, 28])
    """

    def __init__(
        self,
        num_states: int,
        dim: int = 256,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        time_conditioned: bool = True,
        num_classes: int | None = None,
        label_drop: float = 0.1,
    ) -> None:
        super().__init__()
        if num_states < 2:
            raise ConfigError(f"num_states={num_states} leaves nothing to predict: take 2 or more")
        if depth < 1:
            raise ConfigError(f"depth={depth} blocks cannot mix positions: take 1 or more")
        self.num_states = num_states
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.dropout = dropout
        self.time_conditioned = time_conditioned
        self.num_classes = num_classes
        self.label_drop = label_drop

        self.labels = Labels(num_classes, label_drop)
        conditioned = time_conditioned or num_classes is not None
        cond_dim = TIME_DIM if conditioned else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, cond_dim) for _ in range(depth))
        self.embedding = nn.Embedding(num_states, dim)
        self.time_embedding = TimeEmbedding(TIME_DIM) if time_conditioned else None
        self.label_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, TIME_DIM)
        self.norm = nn.LayerNorm(dim, elementwise_affine=not conditioned)
        self.modulation = zeroed(nn.Linear(TIME_DIM, 2 * dim)) if conditioned else None
        self.head = zeroed(nn.Linear(dim, num_states))

    @property
    def defers(self) -> bool:
        """Whether hidden states are smaller than logits, so that ``defer`` is worth asking for."""
        return self.num_states > self.dim

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        defer: bool = False,
        segments: Tensor | None = None,
    ) -> Tensor | Projection:
        """Logits (B, L, num_states) for states x_t (B, L), int64, at times t (B,), integer or float.

        Where ``attention_mask`` (B, L) is 0 the entry is padding: nothing real depends on it, and its own
        logits mean nothing. ``labels`` (B,): the class of each row; None means the null class for all.
        ``segments`` (B, L): entries with equal numbers, which lie together, are a document that stands for itself.
        Under autocast the logits are in autocast's dtype. With ``defer``, the hidden states and the head instead.
        """
        cond = self._cond(t, self.labels(labels, x_t))
        hidden = self.in_order(self.embedding(x_t), cond, attention_mask, segments)
        return project(hidden, self.head) if defer else self.head(hidden)

    def _cond(self, t: Tensor, labels: Tensor | None) -> Tensor | None:
        """(B, TIME_DIM), the sum of what is told; None where nothing is."""
        time = None if self.time_embedding is None else self.time_embedding(t)
        if self.label_embedding is None:
            return time
        told = self.label_embedding(labels)
        return F.silu(told if time is None else time + told)
