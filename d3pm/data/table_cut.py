"""Rows of a table that are kept aside from training, where nobody has said which."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from d3pm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def cut(
    frame: "pd.DataFrame", counts: Mapping[str, int], categorical: Sequence[str]
) -> "dict[str, pd.DataFrame]":
    """The rows of ``"train"`` and ``counts`` rows for each of other splits, drawn at random but always in the same way.

    What :func:`free_rows` gives is all that is drawn from; rows stay in their order.

    Raises:
        DataError: If training cannot spare that many: names the column that has the most categories.
    """
    if not counts:
        return {"train": frame}
    free, wanted = free_rows(frame, categorical), sum(counts.values())
    if wanted > len(free):
        widest = max(categorical, key=lambda name: frame[name].nunique(), default=frame.columns[0])
        raise DataError(
            f"column {widest!r}: it has {frame[widest].nunique():,} categories in {len(frame):,} rows, so training "
            f"can spare {len(free):,} and not {wanted:,} for {' and '.join(counts)}: "
            f"leave it out with drop: [{widest}], or give more rows"
        )
    ends = np.cumsum(list(counts.values()))
    places = dict(zip(counts, np.split(free[:wanted], ends[:-1]), strict=True))
    places["train"] = np.setdiff1d(np.arange(len(frame)), free[:wanted])
    return {name: frame.iloc[np.sort(rows)].reset_index(drop=True) for name, rows in places.items()}


def free_rows(frame: "pd.DataFrame", categorical: Sequence[str]) -> np.ndarray:
    """Rows that training can spare, in an order that is always the same.

    The first row (in that order) of every category, and of a missing value in every column, is not among them:
    kept in training, it saves the held-out rows from values that no model could know.

    Args:
        frame: All rows.
        categorical: The columns whose values must all be seen in training.
    """
    order = np.random.RandomState(0).permutation(len(frame))  # a stream that numpy promises not to change
    shuffled = frame.iloc[order]
    needed = np.zeros(len(frame), dtype=bool)
    for name in frame:
        absent = shuffled[name].isna().to_numpy(dtype=bool)
        column = shuffled[name] if name in categorical else absent
        needed |= ~_repeated(column)
    return order[~needed]


def _repeated(values: "pd.Series | np.ndarray") -> np.ndarray:
    import pandas as pd

    return np.asarray(pd.Series(values).duplicated(), dtype=bool)
