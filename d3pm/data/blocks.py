"""Datasets over a memory-mapped stream of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.errors import DataError

Item = dict[str, Tensor]


@dataclass(frozen=True)
class TokenFile:
    """Integers in a file, mapped when first used; pickles as its path, so workers map it themselves."""

    path: Path
    dtype: str

    @cached_property
    def array(self) -> np.ndarray:
        """The integers, read-only, read from the disk only where they are touched."""
        if self.path.stat().st_size == 0:
            return np.empty(0, self.dtype)
        return np.memmap(self.path, self.dtype, mode="r")

    def __getstate__(self) -> dict:
        return {"path": self.path, "dtype": self.dtype}


Tokens = np.ndarray | TokenFile


class TokenBlocks(Dataset[Item]):
    """A stream of tokens in blocks ``{"x0": int64 (block_size,)}`` that do not overlap.

    What is left over at the end (less than one block) is not shown.

    Raises:
        DataError: If the stream is shorter than one block.

    Examples:
        >>> blocks = TokenBlocks(np.arange(10), block_size=4)
        >>> len(blocks), blocks[1]["x0"].tolist()
        (2, [4, 5, 6, 7])
    """

    def __init__(self, tokens: Tokens, block_size: int, name: str = "text") -> None:
        self._source = tokens
        self.block_size = block_size
        if len(self.tokens) < block_size:
            raise DataError(
                f"block_size: the {name} has {len(self.tokens)} tokens, less than one block of {block_size}: "
                f"lower block_size or give more text"
            )

    @property
    def tokens(self) -> np.ndarray:
        """The whole stream, memory-mapped."""
        return self._source.array if isinstance(self._source, TokenFile) else self._source

    def __len__(self) -> int:
        return len(self.tokens) // self.block_size

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """A batch at once, which is what a ``DataLoader`` asks for."""
        rows = np.asarray(indices)
        blocks = self.tokens[: len(self) * self.block_size].reshape(-1, self.block_size)
        return [{"x0": row} for row in torch.from_numpy(blocks[rows].astype(np.int64))]


class PaddedDocuments(Dataset[Item]):
    """One document a row: ``{"x0", "attention_mask"}``, both int64 ``(block_size,)``.

    A longer document is cut to ``block_size``; a shorter one is filled with symbol 0, where the mask is 0.

    Args:
        tokens: All documents, one after the other.
        ends: Where each document ends in ``tokens``, int64 ``(n,)``.
        block_size: The length of a row.
        name: What to call the data in errors.
    """

    def __init__(
        self,
        tokens: Tokens,
        ends: Tokens,
        block_size: int,
        name: str = "text",
    ) -> None:
        self._tokens, self._ends = tokens, ends
        self.block_size = block_size
        if not len(self.ends):
            raise DataError(f"documents: the {name} has none: give more rows, or set documents='packed'")

    @property
    def tokens(self) -> np.ndarray:
        """All documents as one stream, memory-mapped and not cut."""
        return self._tokens.array if isinstance(self._tokens, TokenFile) else self._tokens

    @property
    def ends(self) -> np.ndarray:
        """Where each document ends in the stream."""
        return self._ends.array if isinstance(self._ends, TokenFile) else self._ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Item:
        end = int(self.ends[index])
        place = index % len(self)
        start = int(self.ends[place - 1]) if place else 0
        row = self.tokens[start:end][: self.block_size]
        x0 = torch.zeros(self.block_size, dtype=torch.int64)
        x0[: len(row)] = torch.from_numpy(row.astype(np.int64))
        return {"x0": x0, "attention_mask": (torch.arange(self.block_size) < len(row)).long()}
