r"""Where S steps lie best: the shortest path from T to 0 in S hops, by dynamic programming.

.. math:: C_1(t) = \ell(0, t), \qquad C_{k}(t) = \min_{0 < s < t} C_{k-1}(s) + \ell(s, t)

The bound of a grid is a sum over its steps, so the best way down from s does not depend on how s was reached.

References:
    Watson et al., *Learning to Efficiently Sample from Diffusion Probabilistic Models*, 2021, section 4.
"""

from collections.abc import Sequence
from itertools import count

import numpy as np
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.grids import Grid, cosine_grid, quadratic_grid, uniform_grid

RIVALS: dict[str, Grid] = {"uniform": uniform_grid, "cosine": cosine_grid, "quadratic": quadratic_grid}
"""The grids a plan is compared with."""


def best_grids(terms: Tensor, times: Sequence[int], steps: Sequence[int]) -> dict[int, list[int]]:
    """For each S of ``steps`` the times of exactly S steps, falling from T to 0, whose terms have the least sum.

    One pass serves them all: :math:`O(N^2 S)` for N times. Of equally good ways down, the one whose later times
    are nearer the data is taken.

    Args:
        terms: :math:`\\ell(s, t)`, (N, N): row s, column t; only what is above the diagonal is read.
        times: Those of rows and columns, rising from 0 to T.
        steps: Numbers of steps, each at least 1 and below N.

    Raises:
        ConfigError: If a number of steps does not fit, a term is no number, or every grid of S steps costs infinity.

    >>> import torch
    >>> terms = torch.tensor([[0, 1, 5, 9], [0, 0, 3, 4], [0, 0, 0, 3], [0, 0, 0, 0]])
    >>> best_grids(terms, [0, 10, 20, 30], [1, 2, 3])
    {1: [30, 0], 2: [30, 10, 0], 3: [30, 20, 10, 0]}
    """
    last = len(times) - 1
    for each in steps:
        if not 1 <= each <= last:
            raise ConfigError(
                f"steps is {each}: {last + 1} times, 0 among them, have room for 1 .. {last} steps"
            )
    sums, came_by = _shortest(_upper(terms, times), max(steps, default=0))
    for each in steps:
        if not np.isfinite(sums[each - 1]):
            raise ConfigError(f"steps is {each}: every grid of so few steps has an infinite bound; take more")
    return {each: [times[i] for i in _way_down(came_by[:each], last)] for each in steps}


def best_sums(terms: Tensor, times: Sequence[int]) -> list[float]:
    """The least sum of terms in exactly 1, 2, … N - 1 steps from T to 0; see :func:`best_grids`."""
    return _shortest(_upper(terms, times), len(times) - 1)[0]


def best_steps(terms: Tensor, times: Sequence[int], steps: int) -> list[int]:
    """The best grid of one number of steps; see :func:`best_grids`."""
    return best_grids(terms, times, [steps])[steps]


def _upper(terms: Tensor, times: Sequence[int]) -> np.ndarray:
    """The terms of s < t in float64, infinity elsewhere."""
    table = terms.double().cpu().numpy()
    above = np.triu(np.ones_like(table, dtype=bool), 1)
    if np.isnan(table[above]).any():
        s, t = np.argwhere(np.isnan(table) & above)[0]
        raise ConfigError(
            f"terms: the step {times[t]} -> {times[s]} costs NaN: look at the model's bound first"
        )
    return np.where(above, table, np.inf)


def _shortest(table: np.ndarray, most: int) -> tuple[list[float], list[np.ndarray]]:
    """For 1 … ``most`` steps: what the best way from the last time to the first costs, and where it goes from each."""
    cost = np.full(len(table), np.inf)
    cost[0] = 0.0  # of the way down from each time in as many steps as have been taken
    sums, came_by = [], []
    for _ in range(most):
        ways = cost[:, None] + table
        came_by.append(ways.argmin(0))
        cost = ways.min(0)
        sums.append(float(cost[-1]))
    return sums, came_by


def _way_down(came_by: list[np.ndarray], place: int) -> list[int]:
    way = [place]
    for choice in reversed(came_by):
        way.append(int(choice[way[-1]]))
    return way


def candidate_times(num_steps: int, resolution: int, steps: Sequence[int] = ()) -> list[int]:
    """The times to choose from, rising from 0 to T: all, or about ``resolution`` of them where T is larger.

    These are the times of every rival grid of ``steps`` (so that the best is at least as good as they are on
    the examples measured), and as fine a uniform, a cosine and a quadratic grid as there is room for: even, dense
    near the noise and dense near the data.

    >>> candidate_times(5, 128)
    [0, 1, 2, 3, 4, 5]
    >>> candidate_times(1000, 12)
    [0, 1, 89, 250, 356, 383, 500, 707, 750, 801, 924, 1000]
    """
    if num_steps <= resolution:
        return list(range(num_steps + 1))
    found = needed = _union(num_steps, steps) | {0, num_steps}
    for fineness in count(1):
        finer = needed | _union(num_steps, [fineness])
        if len(finer) > resolution:
            return sorted(found)
        found = finer
    raise AssertionError("a fine enough union has all T + 1 times")


def _union(num_steps: int, steps: Sequence[int]) -> set[int]:
    return {t for grid in RIVALS.values() for each in steps for t in grid(num_steps, each)}
