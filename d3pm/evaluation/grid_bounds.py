"""What some grids of times cost a model, on the same examples and the same noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.evaluation.pair_terms import Batch, examples_of, num_dims_of, prior_at, step_terms
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.process import Process


@dataclass(frozen=True)
class GridBounds:
    """The bounds of some grids on the same examples and the same noise, so that they can be compared.

    Attributes:
        nats: (G, n), of each grid and example.
        num_dims: Entries an example has, (n,).
    """

    nats: Tensor
    num_dims: Tensor

    def bits(self, grid: int) -> tuple[float, float]:
        """The bound of a grid in bits per entry, and its standard error."""
        return _bits(self.nats[grid], self.num_dims)

    def gain(self, grid: int, over: int) -> tuple[float, float]:
        """How many bits per entry a grid saves over another one; the error is that of paired examples."""
        return _bits(self.nats[over] - self.nats[grid], self.num_dims)


@torch.no_grad()
def grid_bounds(
    process: Process,
    network: Network,
    data: Iterable[Batch],
    grids: Sequence[Sequence[int]],
    generator: torch.Generator,
) -> GridBounds:
    """The bounds of some grids, example by example: one network call for each time that is in any of them.

    A grid that begins below T pays what :math:`q(x_t)` differs from the prior there: under an absorbing kernel,
    infinity. Other arguments are those of :func:`~d3pm.evaluation.pair_terms.pair_terms`.
    """
    pairs = sorted({(t, s) for grid in grids for t, s in pairwise(grid)})
    starts: dict[int, list[int]] = {}
    for t, s in pairs:
        starts.setdefault(t, []).append(s)
    nats, dims = [], []
    for batch in data:
        cost = {
            (t, s): term
            for t, terms in step_terms(process, network, batch, starts, generator)
            for s, term in zip(starts[t], terms, strict=True)
        }
        ends = {t: prior_at(process, batch, t) for t in {grid[0] for grid in grids}}
        nats.append(
            torch.stack([ends[grid[0]] + sum(cost[step] for step in pairwise(grid)) for grid in grids])
        )
        dims.append(num_dims_of(batch))
    return GridBounds(torch.cat(nats, 1), torch.cat(dims))


def judge_grids(
    model: DiffusionModel, data: Dataset, grids: Sequence[Sequence[int]], **options: Any
) -> GridBounds:
    """:func:`grid_bounds` of a model on examples spread evenly over ``data``.

    Options are those of :func:`~d3pm.evaluation.pair_terms.measure_pairs`. Take other data than
    the grids were planned on: the best of many is flattered by what it was chosen for.
    """
    with examples_of(model, data, **options) as (examples, generator):
        return grid_bounds(model.process, model.network, examples, grids, generator)


def _bits(nats: Tensor, num_dims: Tensor) -> tuple[float, float]:
    """Bits per entry, the sum over examples over the sum of entries, and the standard error of that ratio."""
    count, total = len(nats), num_dims.sum()
    mean = nats.sum() / total
    left_over = (nats - mean * num_dims).square().sum()
    error = (left_over * count / (count - 1)).sqrt() / total if count > 1 else torch.tensor(math.nan)
    return float(mean) / math.log(2), float(error) / math.log(2)
