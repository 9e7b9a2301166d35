"""Tables in files: .csv, .tsv and .parquet, read with types that know missing values."""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3pm.data.columns import text_type
from d3pm.data.files import inner_suffix, open_text, reading
from d3pm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(
    path: Path,
    missing: Sequence[str] = (),
    text: Iterable[str] = (),
    suffix: str | None = None,
    **options: Any,
) -> "pd.DataFrame":
    """A file as a frame; a .csv or .tsv may be packed (.gz, .xz, .zip), and begins with the names of its columns.

    Integers with missing cells stay integers (pandas' ``Int64``), columns without any have numpy's types.

    Args:
        path: The file. Commas, semicolons or tabs part the cells, whichever its first line has most of.
        missing: What stands for a missing value, besides an empty cell and what pandas takes for one ("NA", "null").
        text: Columns to read as text, whatever they look like.
        suffix: What kind of file it is; None goes by its name.
        options: Further ones of ``pandas.read_csv``.

    Raises:
        DataError: If it is of no such kind, or cannot be read, or is empty.
    """
    import pandas as pd

    suffix = suffix or inner_suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(f"source: {path} is no table by its name: give one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"source: {path} does not exist: give the path of a table")
    with reading(path):
        if suffix == ".parquet":
            return _named(without_signs(pd.read_parquet(path), missing), path)
        frame = pd.read_csv(
            path,
            sep=options.pop("sep", None) or _separator(path),
            skipinitialspace=True,
            na_values=list(missing),
            dtype=dict.fromkeys(text, "string"),
            dtype_backend="numpy_nullable",
            encoding="utf-8-sig",
            index_col=False,  # or a comma at the end of every line would shift all columns
            **options,
        )
    return _named(frame.apply(_narrow), path)


def without_signs(frame: "pd.DataFrame", missing: Sequence[str]) -> "pd.DataFrame":
    """The frame with missing values where its text columns have one of the signs ``missing``.

    Raises:
        DataError: If a cell holds a list or the like: it is no category.
    """
    import pandas as pd

    found = {}
    for name, dtype in frame.dtypes.items():
        if pd.api.types.is_numeric_dtype(dtype):
            continue
        if pd.api.types.is_object_dtype(dtype):
            _check_cells(frame[name])
        if missing and (where := frame[name].isin(list(missing))).any():
            found[name] = frame[name].mask(where)
    return frame.assign(**found) if found else frame


def _check_cells(series: "pd.Series") -> None:
    for row, value in enumerate(series):
        if not isinstance(value, Hashable):
            raise DataError(
                f"column {series.name!r}, row {row}: {value!r} is neither text nor a number: "
                f"give each cell one value"
            )


def _separator(path: Path) -> str:
    with open_text(path) as file:
        line = file.readline()
    return max(",;\t", key=line.count)


def _narrow(series: "pd.Series") -> "pd.Series":
    """A column of a type that knows missing values, in the usual type of numpy if that can hold it."""
    if str(series.dtype) == "string":
        return series.astype(text_type())
    whole = not series.hasnans
    if whole or str(series.dtype).startswith("Float"):
        return series.astype(series.dtype.numpy_dtype)  # type: ignore[union-attr]
    return series


def _named(frame: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    """With the names of columns as text, refused (DataError) if there are no rows."""
    if not len(frame):
        raise DataError(f"source: {path} has no rows: give a table that has some")
    return frame.set_axis([str(name) for name in frame.columns], axis=1)
