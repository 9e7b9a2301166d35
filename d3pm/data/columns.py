"""One column of a table: which symbol each of its values is, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from d3pm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("nominal", "ordinal", "numeric")


@dataclass(frozen=True)
class Column:
    """The values of a column as the symbols ``0 … num_symbols - 1``, found by :func:`d3pm.data.column_fit.fit_column`.

    *Nominal* and *ordinal* columns have a symbol for each value that training shows, in the order of ``values``;
    that is a code without loss. A *numeric* column has one for each bin: symbol ``s`` is shown as the bin's
    median in training, so ``encode(decode(s)) = s``, and a number that is encoded comes back as one of its bin.
    A missing value is the last symbol, where training has any.

    Attributes:
        name: Of the column.
        kind: ``"nominal"``, ``"ordinal"`` or ``"numeric"``.
        dtype: What pandas calls the type of the column.
        values: What each symbol is shown as, plain Python values: categories, or the medians of bins.
        edges: Where each bin but the first begins, for numeric columns: bin ``i`` is edges[i-1] ≤ value < edges[i].
        missing: Whether there is a symbol for a missing value.
        categories: All categories of a pandas ``category`` column, shown or not; else None.
        ordered: Whether these are ordered.

    Examples:
        >>> import pandas as pd
        >>> column = Column("size", "ordinal", "str", values=("S", "M", "L"), missing=True)
        >>> column.encode(pd.Series(["L", "S", None])).tolist(), column.num_symbols
        ([2, 0, 3], 4)
        >>> column.decode(np.array([1, 3])).tolist()
        ['M', nan]
    """

    name: str
    kind: str
    dtype: str
    values: tuple[Any, ...]
    edges: tuple[float, ...] = ()
    missing: bool = False
    categories: tuple[Any, ...] | None = None
    ordered: bool = False

    @property
    def num_symbols(self) -> int:
        """How many symbols there are, that of a missing value included."""
        return len(self.values) + self.missing

    def encode(self, series: "pd.Series", blanks: bool = False) -> np.ndarray:
        """The symbols of a column, int64 ``(N,)``; O(N), O(N log bins) if numeric.

        Args:
            series: The column. Rows are counted from 0 in errors, whatever its index is.
            blanks: Make a missing value 0, as something that is to be filled in, and not its own symbol.

        Raises:
            DataError: If a value was not in training (and the column is not numeric), is no finite number
                (and the column is), or is missing where none was in training: the first such row.
        """
        absent = series.isna().to_numpy(dtype=bool)
        if absent.any() and not (blanks or self.missing):
            raise DataError(
                f"column {self.name!r}, row {absent.argmax()}: the value is missing, and none was in training: "
                f"fill it in, or drop the row"
            )
        symbols = np.full(len(series), 0 if blanks else len(self.values), dtype=np.int64)
        rows = np.flatnonzero(~absent)
        there = series.iloc[rows] if len(rows) < len(series) else series
        symbols[rows] = self._bins(there, rows) if self.kind == "numeric" else self._places(there, rows)
        return symbols

    def decode(self, symbols: np.ndarray) -> "pd.Series":
        """The values of symbols ``(N,)``, of the type the column had in training.

        The symbol of a missing value is shown as one, and so is ``num_symbols``, the state that an absorbing
        kernel adds; integers and bools then become pandas' types that know missing values.

        Raises:
            DataError: If there is another symbol than ``0 … num_symbols``.
        """
        import pandas as pd

        if len(symbols) and not 0 <= symbols.min() <= symbols.max() <= self.num_symbols:
            raise DataError(
                f"column {self.name!r}: symbols {symbols.min()} … {symbols.max()} lie outside 0 … "
                f"{self.num_symbols}: decode with the codec of the model that made them"
            )
        shown = np.empty(len(self.values) + 1, dtype=object)
        shown[:] = [*self.values, None]
        picked = shown[np.minimum(symbols, len(self.values))]
        if self.dtype == "category":
            known = pd.Categorical(picked, categories=list(self.categories or ()), ordered=self.ordered)
            return pd.Series(known, name=self.name)
        gaps = len(symbols) > 0 and symbols.max() >= len(self.values)
        return pd.Series(picked, name=self.name, dtype=_pandas_type(self.dtype, bool(gaps)))

    def _places(self, there: "pd.Series", rows: np.ndarray) -> np.ndarray:
        """Which of ``values`` each value is."""
        import pandas as pd

        if self.dtype.startswith("float") and pd.api.types.is_numeric_dtype(there.dtype):
            there = there.astype(self.dtype)  # 0.1 as float32 is another number than as float64
        places = pd.Index(self.values, dtype=object).get_indexer(there.astype(object))
        if (unseen := places < 0).any():
            first = int(unseen.argmax())
            raise DataError(
                f"column {self.name!r}, row {rows[first]}: {_plain(there.iloc[first])!r} was not in training "
                f"({listed(self.values)}): {self._remedy(there.iloc[first])}"
            )
        return places

    def _remedy(self, value: Any) -> str:
        if isinstance(value, str) != isinstance(self.values[0], str):
            return f"read the column as {self.dtype}"
        number = isinstance(value, Real) and not isinstance(value, bool)
        more = f", or bin the column with numeric: [{self.name}]" if number else ""
        return f"correct or drop the row, or train on a table that has it{more}"

    def _bins(self, there: "pd.Series", rows: np.ndarray) -> np.ndarray:
        """Which bin each number lies in; what lies beyond the training values is in the first or the last."""
        numbers = as_numbers(there, rows)
        return np.searchsorted(np.array(self.edges), numbers, side="right")


def as_numbers(there: "pd.Series", rows: np.ndarray) -> np.ndarray:
    """The values of a column that holds nothing but finite numbers, refused (DataError) if it does not.

    Args:
        there: The values, none of them missing.
        rows: The row of each, for errors.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(there.dtype) and not pd.api.types.is_bool_dtype(there.dtype):
        numbers = there.to_numpy(dtype=getattr(there.dtype, "numpy_dtype", None))
    else:
        values = there.tolist()
        for row, value in zip(rows, values, strict=True):
            if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
                raise DataError(
                    f"column {there.name!r}, row {row}: {value!r} is no number: correct or drop the row, "
                    f"or read the column as numbers"
                )
        numbers = np.array(values)
    if (wrong := ~np.isfinite(numbers)).any():
        first = int(wrong.argmax())
        raise DataError(
            f"column {there.name!r}, row {rows[first]}: {numbers[first]} is not finite: "
            f"leave the cell empty if it is missing, or clip it"
        )
    return numbers


def listed(values: Sequence[Any], most: int = 6) -> str:
    """The first few of many values, and how many there are.

    >>> listed(["a", "b"]), listed(range(100), most=2)
    ("'a', 'b'", '0, 1, … 100 in all')
    """
    shown = ", ".join(repr(value) for value in list(values)[:most])
    return shown if len(values) <= most else f"{shown}, … {len(values)} in all"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def text_type() -> Any:
    """What pandas calls the usual type of text: it has one of its own only since version 3."""
    import pandas as pd

    return object if int(pd.__version__.split(".")[0]) < 3 else "str"


def _pandas_type(dtype: str, gaps: bool) -> Any:
    """The type of a decoded column; with ``gaps`` one that knows missing values, which numpy's integers do not."""
    import pandas as pd

    if dtype == "str":
        return text_type()
    plain = pd.api.types.pandas_dtype(dtype)
    if not gaps or not isinstance(plain, np.dtype) or plain.kind not in "biu":
        return plain
    return "boolean" if plain.kind == "b" else plain.name.replace("int", "Int").replace("u", "U")
