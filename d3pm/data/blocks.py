"""Datasets over a memory-mapped stream of tokens: blocks of it, a document a row, several documents a row."""

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
        return in_a_row([self._document(range(len(self))[index])], self.block_size, segments=False)

    def _document(self, place: int) -> np.ndarray:
        """The tokens of a document, as many as a row holds."""
        start = int(self.ends[place - 1]) if place else 0
        return self.tokens[start : int(self.ends[place])][: self.block_size]


class WholeDocuments(PaddedDocuments):
    """Several whole documents a row: ``{"x0", "attention_mask", "segments"}``, all int64 ``(block_size,)``.

    Documents are laid into rows by :func:`first_fit`, and only those longer than ``block_size`` are cut.
    ``segments`` numbers the documents of a row 1, 2, …; it is 0 where the row is filled up, as the mask is. A
    network that is told them treats each document as if it were alone. The layout takes 8 bytes a document of
    memory, and about a second for a million documents.

    Examples:
        >>> rows = WholeDocuments(np.arange(9), np.array([3, 7, 9]), block_size=5)
        >>> len(rows), rows[0]["x0"].tolist(), rows[0]["segments"].tolist()
        (2, [0, 1, 2, 7, 8], [1, 1, 1, 2, 2])
    """

    def __init__(self, tokens: Tokens, ends: Tokens, block_size: int, name: str = "text") -> None:
        super().__init__(tokens, ends, block_size, name)
        lengths = np.minimum(np.diff(self.ends, prepend=0), block_size)
        rows = first_fit(lengths.tolist(), block_size)
        self._order = np.argsort(rows, kind="stable")
        self._starts = np.searchsorted(rows[self._order], np.arange(rows.max() + 2))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Item:
        row = range(len(self))[index]
        places = self._order[self._starts[row] : self._starts[row + 1]]
        return in_a_row([self._document(int(place)) for place in places], self.block_size)


def first_fit(lengths: Sequence[int], size: int, open_rows: int = 32) -> np.ndarray:
    """Which row of ``size`` each document goes to, int64 ``(n,)``: the first that has room, in the order they come.

    At most ``open_rows`` rows are kept open; the fullest is closed when there would be more.

    >>> first_fit([3, 4, 2, 1], size=5).tolist()
    [0, 1, 0, 1]
    """
    found = np.empty(len(lengths), np.int64)
    rows: list[int] = []
    room: list[int] = []
    made = 0
    for document, length in enumerate(lengths):
        place = next((place for place, left in enumerate(room) if length <= left), None)
        if place is None:
            if len(rows) == open_rows:
                fullest = room.index(min(room))
                del rows[fullest], room[fullest]
            place = len(rows)
            rows.append(made)
            room.append(size)
            made += 1
        found[document] = rows[place]
        room[place] -= length
    return found


def in_a_row(documents: Sequence[np.ndarray], block_size: int, segments: bool = True) -> Item:
    """Documents, together no longer than ``block_size``, one after the other, filled up with symbol 0."""
    which = np.repeat(np.arange(1, len(documents) + 1), [len(document) for document in documents])
    x0, segment = torch.zeros(2, block_size, dtype=torch.int64)
    segment[: len(which)] = torch.from_numpy(which)
    x0[: len(which)] = torch.from_numpy(np.concatenate(documents).astype(np.int64))
    item = {"x0": x0, "attention_mask": (segment > 0).long()}
    return item | ({"segments": segment} if segments else {})
