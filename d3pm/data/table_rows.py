"""Encoded rows of a table as a dataset."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

Item = dict[str, Tensor]


class TableRows(Dataset[Item]):
    """Encoded rows as a dataset of ``{"x0": int64 (C,)}``.

    Args:
        symbols: int64 ``(N, C)``.

    Examples:
        >>> rows = TableRows(torch.tensor([[0, 1], [2, 3]]))
        >>> len(rows), rows[1]["x0"].tolist()
        (2, [2, 3])
    """

    def __init__(self, symbols: Tensor) -> None:
        self.symbols = symbols

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, index: int) -> Item:
        return {"x0": self.symbols[index]}

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """A batch at once, which is what a ``DataLoader`` asks for."""
        return [{"x0": row} for row in self.symbols[torch.as_tensor(indices, dtype=torch.int64)]]
