"""What a column is, found from the values it has in training: its kind, its symbols, its bins."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from d3pm.data.binning import quantile_bins
from d3pm.data.columns import Column, as_numbers, listed
from d3pm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("integer", "floating", "mixed-integer-float")
"""What pandas infers of a column of numbers, whatever its type is."""
CATEGORIES = ("string", "boolean")
_DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ].*)?"


def kind_of(series: "pd.Series", bins: int) -> str:
    """``"nominal"``, ``"ordinal"`` or ``"numeric"``, by the type of a column.

    Text, bools and pandas' categories are nominal, ordered categories are ordinal. Numbers are ordinal if there
    are no more different ones than ``bins``, else numeric.

    Raises:
        DataError: If the column holds dates, or things that are neither numbers nor categories.

    Examples:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"a": ["x", "y", "y"], "b": [True, False, True], "c": [1, 2, 2], "d": [.1, .2, .3]})
        >>> [kind_of(table[name], bins=2) for name in table]
        ['nominal', 'nominal', 'ordinal', 'numeric']
    """
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        return "ordinal" if series.cat.ordered else "nominal"
    found = pd.api.types.infer_dtype(series, skipna=True)
    if found in NUMBERS:
        return "ordinal" if series.nunique() <= bins else "numeric"
    if found in (*CATEGORIES, "empty") and not _dates_in_text(series, found):
        return "nominal"
    raise DataError(
        f"column {series.name!r}: {_what_it_holds(found)}, or leave it out with drop: [{series.name}]"
    )


def chosen_kinds(
    frame: "pd.DataFrame",
    nominal: Sequence[str],
    ordinal: Sequence[str] | Mapping[str, Any],
    numeric: Sequence[str],
) -> dict[str, str]:
    """The kind of each column that is named in one of three lists, refused (ConfigError) if there is none of it."""
    kinds: dict[str, str] = {}
    for kind, names in (("nominal", nominal), ("ordinal", ordinal), ("numeric", numeric)):
        for name in names:
            if name not in frame:
                raise ConfigError(f"{kind}: no column {name!r}: name some of {listed(list(frame), most=20)}")
            if name in kinds:
                raise ConfigError(f"{kind}: column {name!r} is named under {kinds[name]} too: name it once")
            kinds[name] = kind
    return kinds


def fit_column(
    series: "pd.Series", kind: str | None = None, bins: int = 32, order: Sequence[Any] | None = None
) -> Column:
    """The column that training values make.

    Args:
        series: The training values.
        kind: Which kind it is; None finds out with :func:`kind_of`.
        bins: How many bins a numeric column has at most.
        order: The values of an ordinal column from first to last; None: as numbers or ordered categories are.

    Raises:
        DataError: If there is only one value, values are of several types, or a numeric one has no finite numbers.
        ConfigError: If an ordinal column has no order, or ``order`` lacks a value.
    """
    kind = kind or kind_of(series, bins)
    rows = np.flatnonzero(series.notna().to_numpy(dtype=bool))
    there = series.iloc[rows] if len(rows) < len(series) else series
    missing = len(rows) < len(series)
    edges: Sequence[float] = ()
    if kind == "numeric":
        distinct, counts = np.unique(as_numbers(there, rows), return_counts=True)
        values, edges = quantile_bins(distinct, counts, bins)
    else:
        values = _ordered(there, order) if kind == "ordinal" else _sorted(there)
        _check_plain(series.name, values)
    _check_several(series, values, missing)
    categories = series.cat.categories.tolist() if str(series.dtype) == "category" else None
    return Column(
        name=str(series.name),
        kind=kind,
        dtype=str(series.dtype),
        values=tuple(values),
        edges=tuple(edges),
        missing=missing,
        categories=None if categories is None else tuple(categories),
        ordered=categories is not None and bool(series.cat.ordered),
    )


def _sorted(there: "pd.Series") -> list:
    """The different values in their natural order; those of one type have one."""
    import pandas as pd

    if isinstance(there.dtype, pd.CategoricalDtype):
        return there.cat.remove_unused_categories().cat.categories.tolist()
    found = there.drop_duplicates().tolist()
    try:
        return sorted(value.item() if isinstance(value, np.generic) else value for value in found)
    except TypeError:
        names = sorted({type(value).__name__ for value in found})
        raise DataError(
            f"column {there.name!r}: its values are of several types ({', '.join(names)}): make them of one"
        ) from None


def _check_plain(name: Any, values: Sequence[Any]) -> None:
    """Refuse categories that no file could keep: dates, lists, infinite numbers."""
    for value in values:
        if not isinstance(value, (str, bool, int, float)) or value in (float("inf"), float("-inf")):
            raise DataError(
                f"column {name!r}: {value!r} is neither text, a bool nor a finite number: turn it into one, "
                f"or leave the column out with drop: [{name}]"
            )


def _ordered(there: "pd.Series", order: Sequence[Any] | None) -> list:
    found = _sorted(there)
    if order is not None:
        if unknown := [value for value in found if value not in order]:
            raise ConfigError(
                f"ordinal: the order of column {there.name!r} lacks {listed(unknown)}: name all of its values"
            )
        return [value for value in dict.fromkeys(order) if value in found]
    if found and isinstance(found[0], str) and not getattr(there.dtype, "ordered", False):
        raise ConfigError(
            f"ordinal: column {there.name!r} holds text, which has no order: "
            f"give one with ordinal: {{{there.name}: [{', '.join(map(str, found[:3]))}, …]}}"
        )
    return found


def _check_several(series: "pd.Series", values: Sequence[Any], missing: bool) -> None:
    if len(values) + missing < 2 or not values:
        what = f"hold {values[0]!r}" if values else "are empty"
        raise DataError(
            f"column {series.name!r}: all {len(series):,} training rows {what}, so there is nothing to learn: "
            f"leave it out with drop: [{series.name}]"
        )


def _dates_in_text(series: "pd.Series", found: str) -> bool:
    return found == "string" and bool(series.dropna().astype("str").str.fullmatch(_DATE).all())


def _what_it_holds(found: str) -> str:
    if "date" in found or "time" in found or found in ("string", "period"):
        return "dates and times are no categories: turn it into numbers (year, weekday, seconds since)"
    if found.startswith("mixed"):
        return "its values are of several types: make them of one"
    return f"{found} values are neither numbers nor categories: turn it into numbers or text"
