"""What stands beside an entry, looked up in tables: whole windows of neighbours as one number each."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError

MOST_ROWS = 2_000_000
"""A table of more windows than this is hardly ever visited twice at the same row."""


def windows(width: int, causal: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two windows of ``width`` neighbours: one on either side; the last entries and those before, if causal.

    >>> windows(3, causal=False)
    ((-3, -2, -1), (1, 2, 3))
    >>> windows(2, causal=True)
    ((-1, 0), (-3, -2))
    """
    here = tuple(range(-width, 0))
    if not causal:
        return here, tuple(range(1, width + 1))
    return tuple(place + 1 for place in here), tuple(place + 1 - width for place in here)


def shifted(x: Tensor, by: int, fill: int | float) -> Tensor:
    """``x[:, i + by]`` at i, ``fill`` beyond the ends; (B, L) or (B, L, dim).

    >>> shifted(torch.tensor([[1, 2, 3]]), -1, 0), shifted(torch.tensor([[1, 2, 3]]), 2, 9)
    (tensor([[0, 1, 2]]), tensor([[3, 9, 9]]))
    """
    length = x.shape[1]
    ends = (0, 0) * (x.dim() - 2) + (max(-by, 0), max(by, 0))
    return F.pad(x, ends, value=fill).narrow(1, max(by, 0), length)


class WindowEmbedding(nn.Module):
    r"""Entries (B, L) -> (B, L, dim): the embedding of the entry beside those of two windows next to it.

    A window of n states is one of :math:`(K + 1)^n` (the last state is "beyond the end") and has a row of its own:
    what follows from a few neighbours is learnt as fast as it is counted, and costs no arithmetic to look up. The
    three vectors side by side go through one linear map.

    Args:
        num_states: K.
        dim: Width of what is given.
        width: States in a window; 0 for none.
        window_dim: Width of a row of the windows' tables.
        causal: Whether to look at no entry to the right.

    Raises:
        ConfigError: If the tables would have more than two million rows.

    References:
        Roy et al., *N-Grammer: Augmenting Transformers with latent n-grams*, 2022, on causal models.
    """

    def __init__(self, num_states: int, dim: int, width: int, window_dim: int, causal: bool) -> None:
        super().__init__()
        rows = (num_states + 1) ** width
        if width < 0 or rows > MOST_ROWS:
            raise ConfigError(
                f"window={width} of {num_states} states needs tables of {rows:,} rows: take "
                f"a width with (num_states + 1) ** window of at most {MOST_ROWS:,}"
            )
        self.num_states = num_states
        self.windows = windows(width, causal) if width else ()
        self.entry = nn.Embedding(num_states, dim)
        self.tables = nn.ModuleList(nn.Embedding(rows, window_dim) for _ in self.windows)
        self.join = nn.Linear(dim + window_dim * len(self.windows), dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L), int64 -> (B, L, dim)."""
        parts = [
            table(self.index(x, window)) for table, window in zip(self.tables, self.windows, strict=True)
        ]
        return self.join(torch.cat([self.entry(x), *parts], dim=-1))

    def index(self, x: Tensor, window: tuple[int, ...]) -> Tensor:
        """The row of each entry's window, int64 (B, L)."""
        rows = torch.zeros_like(x)
        for place in window:
            rows = rows * (self.num_states + 1) + shifted(x, place, self.num_states)
        return rows
