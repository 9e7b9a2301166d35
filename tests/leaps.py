"""One step of a sampler as a matrix over whole words, by enumeration: errors without any sampling noise."""

import itertools
from collections.abc import Callable

import pytest
import torch
from oracle import Chain, World, random_law
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.grids import uniform_grid


def matrix(world: World, probs: Tensor) -> Tensor:
    """Laws of every entry at every word, (S, L, K), as a matrix (S, S); entries are drawn apart."""
    result = torch.ones(len(world.words), len(world.words), dtype=torch.float64)
    for entry, states in enumerate(world.words.T):
        result = result * probs[:, entry, states]
    return result


def step(world: World, process, sampler, logits: Tensor, s: int, t: int) -> Tensor:
    """The matrix (x_t, x_s) of one step under the beliefs ``logits`` (T, S, L, K)."""
    words = world.words
    low, high = torch.full((len(words),), s), torch.full((len(words),), t)
    return matrix(world, sampler.law(process, logits[t - 1], words, low, high).probs)


def run(start: Tensor, one: Callable[[int, int], Tensor], times: list[int]) -> Tensor:
    """The law at the last of the times from ``start`` at the first, where ``one(s, t)`` is a step's matrix."""
    law = start
    for t, s in itertools.pairwise(times):
        occurs = law > 0  # of words that cannot be at t, a step says nothing
        law = law[occurs] @ one(s, t)[occurs]
    return law


def errors(world: World, process, sampler, steps: list[int], start: Tensor | None = None) -> list[float]:
    """Total variation between samples in so many even steps and the data, with the exact belief."""
    logits = world.exact_logits()

    def one(s: int, t: int) -> Tensor:
        return step(world, process, sampler, logits, s, t)

    start = world.law @ world.forward(0, world.num_steps) if start is None else start
    return [distance(run(start, one, uniform_grid(world.num_steps, n)), world.law) for n in steps]


def distance(p: Tensor, q: Tensor) -> float:
    """Total variation."""
    return float((p - q).abs().sum() / 2)


def slope(sizes: list[float], errors: list[float]) -> float:
    """Of the least-squares line through log error against log size."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(errors).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def world_of(transition, length: int, seed: int = 3) -> World:
    """Words of a random law under this kernel."""
    chain = Chain.of(transition)
    return World(chain, length, random_law(chain, length, seed))


def refusal(sampler, process) -> str:
    """The one line in which the sampler refuses the process."""
    with pytest.raises(ConfigError) as error:
        sampler.check_process(process)
    assert "\n" not in str(error.value)
    return str(error.value)
