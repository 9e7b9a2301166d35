"""Rows of a table as integers: one variable a column, each with its own symbols."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.data.column_fit import chosen_kinds, fit_column
from d3pm.data.columns import Column, listed
from d3pm.data.records import record_file, write_record
from d3pm.data.table_files import read_table, without_signs
from d3pm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

FILE = "table_codec.json"


class TableCodec(Codec):
    """Rows to int64 ``(C,)`` and back to a pandas frame with the right types; saved as ``table_codec.json``.

    Entry ``c`` of a row holds one of ``cardinalities[c]`` symbols: see :class:`~d3pm.data.columns.Column` for
    what they mean. Only numeric columns lose anything: where a number lies within its bin.

    Args:
        columns: The columns, in the order of entries. :meth:`fit` finds them.
        missing: What stands for a missing value in text, besides an empty cell.

    Raises:
        ConfigError: If there is no column, or two have one name.

    Examples:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"town": ["Ulm", "Rom", "Ulm"], "age": [30, 50, 30]})
        >>> codec = TableCodec.fit(table)
        >>> x = codec.encode_frame(table)
        >>> x.tolist(), codec.cardinalities
        ([[1, 0], [0, 1], [1, 0]], (2, 2))
        >>> codec.frame(x).equals(table)
        True
        >>> codec.decode(torch.tensor([[1, 2]]))  # a mask in the second column
        [{'town': 'Ulm', 'age': None}]
    """

    columnwise: ClassVar[bool] = True

    def __init__(self, columns: Sequence[Column], missing: Sequence[str] = ()) -> None:
        self.columns, self.missing = list(columns), tuple(missing)
        names = [column.name for column in self.columns]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"columns: {listed(names)} do not name one column or more, each once: rename them"
            )
        self.cardinalities = tuple(column.num_symbols for column in self.columns)
        self.num_symbols = max(self.cardinalities)

    @classmethod
    def fit(
        cls,
        frame: "pd.DataFrame",
        nominal: Sequence[str] = (),
        ordinal: Sequence[str] | Mapping[str, Sequence[Any] | None] = (),
        numeric: Sequence[str] = (),
        bins: int = 32,
        missing: Sequence[str] = (),
    ) -> Self:
        """The codec of training rows.

        Args:
            frame: The training rows.
            nominal: Columns to take as nominal, whatever their type is.
            ordinal: Columns to take as ordinal; a mapping gives the order of a column's values, None the natural one.
            numeric: Columns to bin, however few numbers they have.
            bins: How many bins a numeric column has at most.
            missing: What stands for a missing value in text, besides an empty cell.

        Raises:
            ConfigError: If a column named is not there or named twice, or an order does not fit.
            DataError: If a column has one value only, or holds what is neither numbers nor categories.
        """
        names = [str(name) for name in frame]
        if len(set(names)) < len(names):
            raise DataError(
                f"columns: {listed(names)} are not all different: rename or drop those that are there twice"
            )
        frame = without_signs(frame.set_axis(names, axis=1), missing)
        kinds = chosen_kinds(frame, nominal, ordinal, numeric)
        orders = ordinal if isinstance(ordinal, Mapping) else {}
        columns = [fit_column(frame[name], kinds.get(name), bins, orders.get(name)) for name in frame]
        return cls(columns, missing)

    @property
    def names(self) -> list[str]:
        """The name of each column."""
        return [column.name for column in self.columns]

    def __eq__(self, other: object) -> bool:
        """Whether both have the same columns with the same symbols."""
        if not isinstance(other, TableCodec):
            return NotImplemented
        return (self.columns, self.missing) == (other.columns, other.missing)

    def __hash__(self) -> int:
        return hash((tuple(self.columns), self.missing))

    def encode(self, item: "Mapping[str, Any] | pd.Series") -> Tensor:
        """One row, by the names of columns, to int64 ``(C,)``; errors are those of :meth:`encode_frame`."""
        import pandas as pd

        return self.encode_frame(pd.DataFrame({str(name): [value] for name, value in item.items()}))[0]

    def encode_frame(self, frame: "pd.DataFrame", blanks: bool = False, extra: bool = False) -> Tensor:
        """Many rows to int64 ``(N, C)``; columns are found by name, in any order.

        Args:
            frame: The rows.
            blanks: Make a missing value 0, as something to be filled in; :meth:`blanks` tells where they are.
            extra: Pass over columns that training did not have.

        Raises:
            DataError: If a column is missing or unknown, a value was not in training, is missing where
                none was, or has the wrong type. The message names the column, the row (counted from 0) and the value.
        """
        frame = self._known(frame, extra)
        return torch.from_numpy(np.stack([c.encode(frame[c.name], blanks) for c in self.columns], axis=1))

    def blanks(self, frame: "pd.DataFrame", extra: bool = False) -> Tensor:
        """Which cells of a frame are missing, bool ``(N, C)``."""
        return torch.from_numpy(self._known(frame, extra).isna().to_numpy(dtype=bool).copy())

    def read(self, path: str | Path) -> "pd.DataFrame":
        """A .csv, .tsv or .parquet file, of which columns that held text in training are read as text."""
        text = [column.name for column in self.columns if isinstance(column.values[0], str)]
        return read_table(Path(path), self.missing, text)

    def frame(self, x: Tensor) -> "pd.DataFrame":
        """Rows ``(N, C)`` to a frame with the names and types of training.

        A mask (the symbol after a column's last) is shown as a missing value.

        Raises:
            DataError: If ``x`` has another shape, is not of integers, or has a symbol the column lacks.
        """
        import pandas as pd

        if x.ndim != 2 or x.shape[1] != len(self.columns) or x.is_floating_point():
            raise DataError(
                f"x: {x.dtype} {tuple(x.shape)} is no batch of rows: give integers (N, {len(self.columns)})"
            )
        symbols = x.cpu().numpy()
        return pd.DataFrame({c.name: c.decode(symbols[:, i]) for i, c in enumerate(self.columns)})

    def decode(self, x: Tensor) -> list[dict[str, Any]]:
        """Rows ``(B, C)`` to ``B`` dicts of plain values, with None for what is missing or masked."""
        frame = self.frame(x)
        plain = {name: frame[name].astype(object).where(frame[name].notna(), None) for name in frame}
        return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``table_codec.json``."""
        record = {"missing": self.missing, "columns": [asdict(column) for column in self.columns]}
        write_record(record, folder, FILE, indent=1)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The codec of a folder or of a repository on the hub.

        Raises:
            DataError: If there is none, it cannot be read, or the hub is out of reach.
        """
        file = record_file(name, FILE)
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return cls([_column(entry) for entry in record["columns"]], record["missing"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"codec: {file} cannot be read ({reason}): write one with codec.save_pretrained(folder)"
            ) from error

    def _known(self, frame: "pd.DataFrame", extra: bool) -> "pd.DataFrame":
        """The columns of the codec, in its order."""
        names, theirs = self.names, [str(name) for name in frame.columns]
        if lacking := [name for name in names if name not in set(theirs)]:
            raise DataError(
                f"column {lacking[0]!r} is missing ({listed(lacking)} of {listed(names)}): "
                f"add it, or train without it (drop: [{lacking[0]}])"
            )
        if (unknown := [name for name in theirs if name not in set(names)]) and not extra:
            raise DataError(f"column {unknown[0]!r} was not in training ({listed(names)}): leave it out")
        twice = [name for name in names if theirs.count(name) > 1] if len(theirs) > len(set(theirs)) else []
        if twice:
            raise DataError(
                f"column {twice[0]!r} is there {theirs.count(twice[0])} times: rename or drop all but one"
            )
        return without_signs(frame.set_axis(theirs, axis=1)[names], self.missing)


def _column(entry: dict[str, Any]) -> Column:
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Column(**arguments)
