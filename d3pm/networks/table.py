"""A transformer over the columns of a table: reads a row of states, gives logits for the states of each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.blocks import Block, zeroed
from d3pm.networks.stack import Stack
from d3pm.networks.time_embedding import TimeEmbedding
from d3pm.networks.transformer import TIME_DIM


class TableDenoiser(Stack):
    r"""Every column is a token with embeddings and a head of its own, and sees all columns in either direction.

    A column's states are told from another's by their embeddings, so there are no positions, and the order of
    columns means nothing. Every column is read in, and given, :attr:`num_states` states: the most any column
    has, and one more for a mask. What a column does not have is never read, and never learned.

    Time enters by adaptive layer norm (adaLN-Zero), as in ``TransformerDenoiser``; logits are exactly zero at
    first. Attention costs O(C² dim) time a row for C columns, embeddings and head O(C K dim) parameters.

    Args:
        cardinalities: How many symbols each column has, a mask not counted; None leaves it to :meth:`suited`.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads; ``dim`` must be a multiple of ``2 * heads``.
        mlp_ratio: Hidden width of the perceptrons, in units of ``dim``.
        dropout: Probability with which an entry of what a branch adds is dropped.
        time_conditioned: Whether ``t`` is looked at.

    Attributes:
        num_states: How many logits an entry is given; only once ``cardinalities`` are known.

    Raises:
        ConfigError: If a number is out of range, or the network is called before its columns are known.

    References:
        Peebles and Xie, *Scalable Diffusion Models with Transformers*, 2022 (conditioning and initialisation).
        Gorishniy et al., *Revisiting Deep Learning Models for Tabular Data*, 2021 (a token for each column).

    >>> network = TableDenoiser(cardinalities=[2, 9, 16], dim=32, depth=1, heads=2)
    >>> network(torch.tensor([[0, 8, 15], [2, 9, 16]]), torch.tensor([1, 1000])).shape
    torch.Size([2, 3, 17])
    """

    def __init__(
        self,
        cardinalities: list[int] | None = None,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        time_conditioned: bool = True,
    ) -> None:
        super().__init__()
        self.cardinalities = None if cardinalities is None else list(cardinalities)
        self.dim, self.depth, self.heads = dim, depth, heads
        self.mlp_ratio, self.dropout = mlp_ratio, dropout
        self.time_conditioned = time_conditioned
        if depth < 1:
            raise ConfigError(f"depth={depth} blocks cannot mix columns: take 1 or more")
        if self.cardinalities is not None:
            self._build(self.cardinalities)

    def _build(self, cardinalities: Sequence[int]) -> None:
        if not cardinalities or min(cardinalities) < 1:
            raise ConfigError(
                f"cardinalities={list(cardinalities)}: take one column or more, of 1 symbol or more"
            )
        columns, self.num_states = len(cardinalities), max(cardinalities) + 1
        cond_dim = TIME_DIM if self.time_conditioned else None
        self.blocks = nn.ModuleList(
            Block(self.dim, self.heads, self.mlp_ratio, self.dropout, cond_dim) for _ in range(self.depth)
        )
        self.embedding = nn.Embedding(columns * self.num_states, self.dim)
        self.time_embedding = TimeEmbedding(TIME_DIM) if self.time_conditioned else None
        self.norm = nn.LayerNorm(self.dim, elementwise_affine=not self.time_conditioned)
        self.modulation = zeroed(nn.Linear(TIME_DIM, 2 * self.dim)) if self.time_conditioned else None
        self.head_weight = nn.Parameter(torch.zeros(columns, self.dim, self.num_states))
        self.head_bias = nn.Parameter(torch.zeros(columns, 1, self.num_states))

    def suited(self, data: Any) -> TableDenoiser:
        """The same network for the columns of a table's data source; itself where they were given."""
        if self.cardinalities is not None:
            return self
        theirs = getattr(data.codec, "cardinalities", None)
        if theirs is None:
            raise ConfigError(
                "network is a TableDenoiser, but the data have no columns: take another network"
            )
        return TableDenoiser(
            list(theirs),
            self.dim,
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.dropout,
            self.time_conditioned,
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits (B, C, num_states) for states x_t (B, C), int64, at times t (B,), integer or float."""
        if self.cardinalities is None:
            raise ConfigError(
                "TableDenoiser has no columns yet: give cardinalities, or take network.suited(data)"
            )
        if x_t.ndim != 2 or x_t.shape[1] != len(self.cardinalities):
            raise ConfigError(
                f"x_t has shape {tuple(x_t.shape)}: this network is for rows of {len(self.cardinalities)} columns"
            )
        first = torch.arange(x_t.shape[1], device=x_t.device) * self.num_states
        cond = None if self.time_embedding is None else self.time_embedding(t)
        x = self.through(self.embedding(x_t + first), cond)
        return torch.baddbmm(self.head_bias, x.transpose(0, 1), self.head_weight).transpose(0, 1)
