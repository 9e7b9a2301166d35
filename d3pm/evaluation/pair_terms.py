r"""What every step from t down to s costs on data, from one network call for each t.

.. math:: \ell(s, t) = \mathrm E\, \mathrm{KL}(q(x_s|x_t,x_0) \,\|\, p_\theta(x_s|x_t)), \qquad
          \ell(0, t) = - \mathrm E \log p_\theta(x_0|x_t)

The bound of any grid of times is :math:`L_T` and the sum of its steps' terms, so this table holds the bound of
every grid there is.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.errors import ConfigError
from d3pm.evaluation.examples import batches, check_numbers
from d3pm.evaluation.step_plan import best_grids
from d3pm.model import DiffusionModel
from d3pm.objectives import Network, batch_time, entries, full_precision, per_example, step_term
from d3pm.process import Process
from d3pm.transitions.absorbing import AbsorbingTransition

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class PairTerms:
    r"""The terms of all pairs of some times, in bits per entry.

    Attributes:
        times: Rising from 0 to T.
        prior: :math:`L_T`.
        terms: :math:`\ell(s, t)`, float64 (N, N): row s, column t, infinite where s is not below t.
        errors: Their standard errors over examples, the draws of noise in them; NaN where there is no term.
        num_examples: Examples used.
    """

    times: list[int]
    prior: float
    terms: Tensor
    errors: Tensor
    num_examples: int

    def best(self, steps: Sequence[int]) -> dict[int, list[int]]:
        """The best grid of each number of steps: see :func:`~d3pm.evaluation.step_plan.best_grids`."""
        return best_grids(self.terms, self.times, steps)

    def bound_of(self, grid: Sequence[int]) -> float:
        """The bound of the chain that visits the times of ``grid``, from T to 0.

        Raises:
            ConfigError: If a time was not measured, or the grid does not go from T to 0.
        """
        place = {t: i for i, t in enumerate(self.times)}
        if not set(grid) <= place.keys() or (grid[0], grid[-1]) != (self.times[-1], 0):
            raise ConfigError(
                f"grid is {list(grid)}: take times that were measured, from {self.times[-1]} to 0"
            )
        return self.prior + sum(float(self.terms[place[s], place[t]]) for t, s in pairwise(grid))

    def rows(self) -> Iterator[dict[str, float]]:
        """One row a pair, for a table."""
        for j, t in enumerate(self.times):
            for i, s in enumerate(self.times[:j]):
                yield {
                    "s": s,
                    "t": t,
                    "bits_per_dim": float(self.terms[i, j]),
                    "error": float(self.errors[i, j]),
                }


@torch.no_grad()
def pair_terms(
    process: Process,
    network: Network,
    data: Iterable[Batch],
    times: Sequence[int],
    generator: torch.Generator,
) -> PairTerms:
    r"""Measure :math:`\ell(s, t)` for all pairs of ``times``: one network call for each t and batch.

    All times of a batch see the same uniforms or Gaussians, so that the terms of neighbours err alike and their
    differences, which decide between grids, err less.

    Args:
        process: Any diffusion.
        network: ``network(x_t, t, **cond)``.
        data: Batches ``{"x0": (B, \*), ...}``; what else they hold goes to the network.
        times: Rising from 0 to T.
        generator: Source of the noise.
    """
    count, sums = 0, torch.zeros(3, len(times), len(times), dtype=torch.float64)
    prior, dims, squared_dims = 0.0, 0.0, 0.0
    starts = {t: list(times[:j]) for j, t in enumerate(times) if j}
    for batch in data:
        sizes = num_dims_of(batch)
        for j, (_, nats) in enumerate(step_terms(process, network, batch, starts, generator), start=1):
            sums[:, :j, j] += torch.stack([nats.sum(1), nats.square().sum(1), nats @ sizes])
        prior += float(prior_at(process, batch, times[-1]).sum())
        count, dims = count + len(sizes), dims + float(sizes.sum())
        squared_dims += float(sizes @ sizes)
    terms = sums[0] / dims
    squares = sums[1] - 2 * terms * sums[2] + terms.square() * squared_dims  # of what a ratio leaves over
    share = count / (count - 1) if count > 1 else math.nan
    errors = (squares.clamp(min=0) * share).sqrt() / dims
    below = torch.ones_like(terms, dtype=torch.bool).tril()
    bit = math.log(2)
    return PairTerms(
        list(times),
        prior / dims / bit,
        (terms / bit).masked_fill(below, math.inf),
        (errors / bit).masked_fill(below, math.nan),
        count,
    )


def measure_pairs(model: DiffusionModel, data: Dataset, times: Sequence[int], **options: Any) -> PairTerms:
    """:func:`pair_terms` of a model on examples spread evenly over ``data``.

    Options: ``num_examples`` (256; all, if there are fewer), ``batch_size`` (32), ``seed`` (0) of the noise, and
    ``progress``, which shows a bar on a terminal.
    """
    with examples_of(model, data, **options) as (examples, generator):
        return pair_terms(model.process, model.network, examples, times, generator)


@contextmanager
def examples_of(
    model: DiffusionModel,
    data: Dataset,
    num_examples: int = 256,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[tuple[Iterable[Batch], torch.Generator]]:
    """The batches where the model is, the model as it is when it is used, and the source of noise."""
    check_numbers(num_examples=num_examples, batch_size=batch_size)
    was_training, _ = model.training, model.eval()
    found = batches(data, num_examples, batch_size, progress)
    there = ({name: value.to(model.device) for name, value in batch.items()} for batch in found)
    try:
        yield there, torch.Generator().manual_seed(seed)
    finally:
        model.train(was_training)


def step_terms(
    process: Process,
    network: Network,
    batch: Batch,
    starts: Mapping[int, Sequence[int]],
    generator: torch.Generator,
) -> Iterator[tuple[int, Tensor]]:
    """For each t the terms of its steps to ``starts[t]``: nats, float64 (number of s, B), on the CPU."""
    x0, cond = batch["x0"], {name: value for name, value in batch.items() if name != "x0"}
    weights, noise = entries(x0, cond), generator.get_state()
    for t, before in starts.items():
        generator.set_state(noise)
        x_t = process.q_sample(x0, batch_time(t, x0), generator)
        output = network(x_t, batch_time(t, x0), **cond)
        with full_precision(x_t):
            yield t, _terms_at(process, output, x0, x_t, weights, before, t).cpu()


def _terms_at(
    process: Process,
    output: Tensor,
    x0: Tensor,
    x_t: Tensor,
    weights: Tensor,
    before: Sequence[int],
    t: int,
) -> Tensor:
    """The terms of all steps from one t, float64 (number of s, B), by one of two ways to the same numbers."""

    def term(s: int) -> Tensor:
        nats = step_term(process, output, x0, x_t, batch_time(s, x0), batch_time(t, x0))
        return per_example(nats, weights).double()

    kernel = getattr(process, "transition", None)
    if not isinstance(kernel, AbsorbingTransition):
        return torch.stack([term(s) for s in before])
    # What a step costs is the surprise at t for each entry it reveals: the surprise is computed once.
    alpha_bars, surprise = kernel.alpha_bars.on(x0.device), term(0)
    lost = (1 - alpha_bars[t]).clamp(min=torch.finfo(torch.float64).tiny)
    return ((alpha_bars[list(before)] - alpha_bars[t]) / lost)[:, None] * surprise


def prior_at(process: Process, batch: Batch, t: int) -> Tensor:
    """What :math:`q(x_t)` differs from the prior, :math:`L_T` at t = T: nats, float64 (B,), on the CPU."""
    x0, cond = batch["x0"], {name: value for name, value in batch.items() if name != "x0"}
    end = process.marginal(x0, batch_time(t, x0))
    return per_example(end.kl(process.prior(x0.shape, x0.device)), entries(x0, cond)).double().cpu()


def num_dims_of(batch: Batch) -> Tensor:
    """Entries that count, of each example: float64 (B,), on the CPU."""
    weights = entries(batch["x0"], batch)
    return per_example(weights, weights).cpu()
