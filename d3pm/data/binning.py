"""Numbers in bins of about equal weight, a number that is met very often in one of its own."""

from typing import Any

import numpy as np


def quantile_bins(distinct: np.ndarray, counts: np.ndarray, bins: int) -> tuple[list, list]:
    r"""Bins of about equal weight: the median of each, and where each but the first begins.

    A value that alone weighs as much as a bin or more gets one to itself (no hours of work but the usual 40, no
    capital gain at all), and the others share what is left. With ``cap`` the weight for which
    :math:`\sum_v \min(n_v, \text{cap}) = \text{bins} \cdot \text{cap}`, value ``v`` covers
    :math:`\min(n_v / \text{cap}, 1)` of a line from 0 to ``bins``; the intervals of the heavy ones are shifted
    to whole numbers, and a value's bin is the cell of its middle. O(n) but for the few rounds that find ``cap``.

    Args:
        distinct: The different values, ascending.
        counts: How often each occurs.
        bins: How many bins to make at most.

    Returns:
        Medians (training values themselves, so integers stay integers) and lower ends, plain numbers.

    Examples:
        >>> quantile_bins(np.array([0, 1, 2, 3, 4]), np.array([90, 1, 1, 1, 1]), bins=3)
        ([0, 1, 3], [1, 3])
    """
    if len(distinct) <= bins:
        return distinct.tolist(), distinct[1:].tolist()
    cap = _cap(counts, bins)
    weight = np.minimum(counts / cap, 1.0)
    ends = np.cumsum(weight)
    heavy = counts >= cap
    cells = np.floor(_shifted(ends - weight / 2, ends[heavy] - 1, bins))
    firsts = np.flatnonzero(np.diff(np.clip(cells, 0, bins - 1), prepend=-1))
    medians = [
        _median(*pair)
        for pair in zip(np.split(distinct, firsts[1:]), np.split(counts, firsts[1:]), strict=True)
    ]
    return medians, distinct[firsts[1:]].tolist()


def _cap(counts: np.ndarray, bins: int) -> float:
    """The weight of a bin, when a value that weighs more counts as one bin."""
    heavy = np.zeros(len(counts), dtype=bool)
    while True:
        cap = counts[~heavy].sum() / (bins - heavy.sum())
        more = counts >= cap
        if (more == heavy).all():
            return float(cap)
        heavy = more


def _shifted(places: np.ndarray, begins: np.ndarray, bins: int) -> np.ndarray:
    """Places on the line from 0 to ``bins``, moved so that intervals [begin, begin + 1] start at whole numbers."""
    whole = np.floor(begins + 0.5)
    before = np.stack([begins, begins + 1], 1).ravel()
    after = np.stack([whole, whole + 1], 1).ravel()
    return np.interp(places, [0, *before, bins], [0, *after, bins])


def _median(values: np.ndarray, counts: np.ndarray) -> Any:
    """The lower median: a value that occurs."""
    upto = np.cumsum(counts)
    return values[np.searchsorted(upto, (upto[-1] + 1) // 2)].item()
