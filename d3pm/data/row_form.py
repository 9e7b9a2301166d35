"""How the documents of a stream become rows."""

from dataclasses import dataclass

import numpy as np
import torch

from d3pm.data.blocks import Item, first_fit, in_a_row
from d3pm.data.lanes import Cursor, Row

DOCUMENTS = ("packed", "padded", "whole")

_LOOK_AHEAD = 64


@dataclass(frozen=True)
class RowForm:
    """Rows of ``block_size`` tokens.

    Args:
        documents: ``"packed"`` joins all text, ``"padded"`` gives each document a row, ``"whole"`` lays several
            whole documents into one.
        block_size: The length of a row.
    """

    documents: str
    block_size: int

    def arrange(self, cursor: Cursor, number: int) -> list[Row]:
        """About ``number`` rows of the text that follows; of whole documents, the rows of so many or 64 of them."""
        size = self.block_size
        if self.documents == "packed":
            tokens = cursor.tokens(number * size)
            return [[row] for row in tokens[: len(tokens) // size * size].reshape(-1, size)]
        if self.documents == "padded":
            return [[document[:size]] for document in cursor.documents(number)]
        return self._whole([part[:size] for part in cursor.documents(max(number, _LOOK_AHEAD))])

    def _whole(self, documents: list[np.ndarray]) -> list[Row]:
        where = first_fit([len(document) for document in documents], self.block_size)
        rows: list[Row] = [[] for _ in range(where.max(initial=-1) + 1)]
        for row, document in zip(where, documents, strict=True):
            rows[row].append(document)
        return rows

    def item(self, row: Row) -> Item:
        """A row as the network gets it, like those of :class:`~d3pm.data.blocks.TokenBlocks` and its siblings."""
        if self.documents == "packed":
            return {"x0": torch.from_numpy(row[0].astype(np.int64))}
        return in_a_row(row, self.block_size, segments=self.documents == "whole")
