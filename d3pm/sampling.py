r"""The reverse loop, written once: from :math:`x_T \sim p(x_T)` down a grid of times to :math:`x_0`.

Steps are pairs s < t, so any grid of times is a sampler of the same process and no second set of formulas
is needed for skipping steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from d3pm.calls import Calls
from d3pm.errors import ConfigError
from d3pm.grids import Grid, cosine_grid, uniform_grid
from d3pm.objectives import Network, batch_time, full_precision
from d3pm.process import Process
from d3pm.specs import Part

Time = int | float


class Sampler(Part, ABC):
    """How one step down is taken. Subclasses keep no state, or give a fresh copy of themselves for every run."""

    def begin(self) -> Sampler:
        """The sampler of one run: itself, unless it remembers earlier steps."""
        return self

    def check_process(self, process: Process) -> None:
        """Refuse (ConfigError) a process for which this sampler is not defined, and say which it serves."""

    def default_steps(self, process: Process) -> int:
        """How many steps to take if nobody says: all T."""
        return process.num_steps

    @abstractmethod
    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """From :math:`x_t` to :math:`x_s`; s < t are (B,).

        ``network(x_t, t)`` knows its conditions. In :func:`draw` it is a :class:`~d3pm.calls.Calls`: it may be asked
        as often as is wanted, also for some ``rows`` only, and what it gives is good until it is asked again.
        """


@dataclass(frozen=True)
class Ancestral(Sampler):
    r"""Draw :math:`x_s \sim p_\theta(x_s | x_t)`: one network call a step, for any process."""

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class."""
        output = network(x_t, t)
        with full_precision(x_t):
            return process.step(output, x_t, s, t, generator)


@dataclass(frozen=True)
class Samples:
    """Samples, and what they cost.

    Attributes:
        x0: (B, \\*).
        calls: Network calls of each sample, int64 (B,), on the CPU: the times its row went through the network.
        forwards: Passes through the network, each of as many rows as needed one.
    """

    x0: Tensor
    calls: Tensor
    forwards: int

    @staticmethod
    def cat(parts: Sequence[Samples]) -> Samples:
        """Join batches."""
        calls = torch.cat([part.calls for part in parts])
        return Samples(torch.cat([part.x0 for part in parts]), calls, sum(part.forwards for part in parts))


def sample(process: Process, network: Network, shape: Sequence[int], **options: Any) -> Tensor:
    r"""Samples alone, :math:`x_0` (B, \*): arguments and errors are those of :func:`draw`."""
    return draw(process, network, shape, **options).x0


def draw(
    process: Process,
    network: Network,
    shape: Sequence[int],
    *,
    steps: int | Sequence[Time] | None = None,
    grid: Grid = uniform_grid,
    sampler: Sampler = Ancestral(),
    x_T: Tensor | None = None,
    generator: torch.Generator | None = None,
    known: Tensor | None = None,
    x0: Tensor | None = None,
    device: torch.device | str | None = None,
    cache: bool = True,
    watch: Callable[[Time, Tensor], None] | None = None,
    progress: bool = False,
    **cond: Any,
) -> Samples:
    r"""Draw data: from :math:`x_T \sim p(x_T)` down the grid of times, ancestrally or as ``sampler`` says.

    Args:
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        shape: Of the batch, (B, \*).
        steps: S <= T; or the times themselves, falling from T (or a little below) to 0. If not given, what the
            sampler is used to: T of them for most.
        grid: Places S steps in T: a function of :mod:`d3pm.grids`.
        sampler: Takes the steps.
        x_T: The latent to start from, instead of a draw from the prior.
        generator: Equal seeds give equal samples.
        known: Entries to be held at ``x0``, bool (B, \*): prompts and infilling.
        x0: Their values; other entries are not read.
        device: Where to sample; that of ``x_T``, ``x0``, the network's parameters or the generator if not given.
        cache: Whether rows are kept from the network whose output is known or does not matter (see
            :class:`~d3pm.calls.Calls`). The samples are the same.
        watch: Called with (s, x_s) after every step.
        progress: Show a progress bar.
        **cond: Passed to the network.

    Returns:
        :math:`x_0`, (B, \*), and the number of network calls of each sample.

    Raises:
        ConfigError: If the sampler does not serve the process, the steps do not fall from at most T to 0, lie
            between the process's whole times without its leave, or only one of known and x0 is given.
    """
    sampler.check_process(process)
    times = times_of(process, sampler.default_steps(process) if steps is None else steps, grid)
    if (known is None) != (x0 is None):
        raise ConfigError("known and x0 go together: give both, or neither")
    if x_T is not None and tuple(x_T.shape) != tuple(shape):
        raise ConfigError(f"x_T has shape {tuple(x_T.shape)}, the samples {tuple(shape)}: make them equal")
    place = _device(network, generator, x_T if x0 is None else x0) if device is None else torch.device(device)
    calls, stepper = Calls(network, process, shape[0], cond, cache), sampler.begin()
    with torch.no_grad():
        x = process.prior(tuple(shape), place).sample(generator) if x_T is None else x_T.to(place)
        x = _held(process, x, x0, known, times[0], generator)
        for t, s in _bar(times, progress):
            x = stepper.step(process, calls, x, batch_time(s, x), batch_time(t, x), generator)
            x = _held(process, x, x0, known, s, generator)
            if watch is not None:
                watch(s, x)
    return Samples(x, calls.counts, calls.forwards)


def _held(
    process: Process,
    x: Tensor,
    x0: Tensor | None,
    known: Tensor | None,
    s: Time,
    generator: torch.Generator | None,
) -> Tensor:
    if known is None or x0 is None:
        return x
    return process.hold(x, x0.to(x.device), known.to(x.device), batch_time(s, x), generator)


def times_of(process: Process, steps: int | Sequence[Time] | None, grid: Grid = uniform_grid) -> list[Time]:
    """The falling times that ``steps`` means, checked (ConfigError) against the process."""
    num_steps = process.num_steps
    steps = num_steps if steps is None else steps
    if isinstance(steps, int):
        if not 1 <= steps <= num_steps:
            raise ConfigError(f"steps is {steps}: this process has T={num_steps}, choose 1 .. {num_steps}")
        return list(grid(num_steps, steps))
    times = list(steps)
    if len(times) < 2 or times[0] > num_steps or times[-1] != 0 or not all(a > b for a, b in pairwise(times)):
        raise ConfigError(f"steps is {times}: times must fall from T={num_steps}, or below, to 0")
    if not process.fractional and any(not isinstance(t, int) for t in times):
        raise ConfigError(f"steps is {times}: {type(process).__name__} has whole times only")
    return times


def _device(network: Network, generator: torch.Generator | None, x0: Tensor | None) -> torch.device:
    if x0 is not None:
        return x0.device
    while not isinstance(network, torch.nn.Module) and hasattr(network, "network"):
        network = network.network  # a guide around it
    if isinstance(network, torch.nn.Module):
        for parameter in network.parameters():
            return parameter.device
    return generator.device if generator is not None else torch.device("cpu")


def _bar(times: list[Time], progress: bool) -> Iterable[tuple[Time, Time]]:
    steps: list[tuple[Time, Time]] = list(pairwise(times))
    if not progress:
        return steps
    from tqdm import tqdm

    return tqdm(steps, desc="sampling", unit="step", leave=False)  # one a batch


__all__ = ["Ancestral", "Grid", "Sampler", "Samples", "cosine_grid", "draw", "sample", "uniform_grid"]
