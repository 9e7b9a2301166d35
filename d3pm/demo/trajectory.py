"""A sample and the way to it: what stood there after every step, what it cost, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.model import DiffusionModel
from d3pm.sampling import Time, times_of

FRAMES = 64
"""States that are kept, at most."""


@dataclass(frozen=True)
class Trajectory:
    """Samples, and states on the way to them.

    Attributes:
        times: Of the states, falling from the first time to 0.
        states: What stood there, (B, \\*) each, on the CPU: noise first, the samples last.
        known: Entries that were given, bool (B, \\*); None where nothing was.
        steps: How many were taken.
        calls: Network calls of each sample, int64 (B,).
        seconds: All of it took.
    """

    times: list[Time]
    states: list[Tensor]
    known: Tensor | None
    steps: int
    calls: Tensor
    seconds: float

    def __len__(self) -> int:
        return len(self.states)

    @property
    def x0(self) -> Tensor:
        """The samples, (B, \\*)."""
        return self.states[-1]

    def cost(self) -> str:
        """What was spent, in words.

        >>> Trajectory([2, 0], [torch.zeros(2, 3)] * 2, None, 2, torch.tensor([1, 2]), 0.25).cost()
        '2 steps, 1.5 network calls a sample, 0.25 s'
        """
        mean = self.calls.double().mean().item()
        calls, steps = (
            f"{n:.4g} {word}{'' if n == 1 else 's'}"
            for n, word in ((mean, "network call"), (self.steps, "step"))
        )
        return f"{steps}, {calls} a sample, {self.seconds:.2f} s"


def follow(
    model: DiffusionModel,
    num: int,
    *,
    steps: int,
    seed: int,
    frames: int = FRAMES,
    progress: Callable[[float], None] | None = None,
    options: dict[str, Tensor] | None = None,
    **more: Any,
) -> Trajectory:
    """Draw ``num`` samples and keep evenly spaced states of their making, the first and the last among them.

    Args:
        model: What is drawn from.
        num: How many samples.
        steps: How many steps to take.
        seed: Equal seeds give equal samples, those of ``model.sample``.
        frames: States to keep, at least 2.
        progress: Called with the share of the way, each time a state is kept.
        options: Tensors (num, \\*) for :meth:`~d3pm.model.DiffusionModel.draw`: known and x0, labels, …
        **more: What else it takes: sampler, network, grid, …

    Raises:
        ConfigError: As :func:`d3pm.sampling.draw` does.
    """
    options = options or {}
    times = times_of(model.process, steps)
    wanted = kept(len(times) - 1, frames)
    states: dict[int, Tensor] = {}

    def watch(s: Time, x: Tensor) -> None:
        step = times.index(s)
        if step in wanted:
            states[step] = x.cpu().clone()
            if progress is not None:
                progress(step / (len(times) - 1))

    started = time.perf_counter()
    drawn = model.draw(num, steps=steps, seed=seed, watch=watch, **options, **more)
    seconds = time.perf_counter() - started
    states |= {0: _start(model, num, times[0], seed, options), len(times) - 1: drawn.x0.cpu()}
    order = sorted(states)
    known = options.get("known")
    return Trajectory(
        [times[step] for step in order],
        [states[step] for step in order],
        None if known is None else known.cpu(),
        len(times) - 1,
        drawn.calls,
        seconds,
    )


def kept(steps: int, frames: int) -> set[int]:
    """The states to keep of those after 0 … ``steps`` steps.

    >>> sorted(kept(3, 64)), sorted(kept(1000, 5))
    ([0, 1, 2, 3], [0, 250, 500, 750, 1000])
    """
    last = min(steps + 1, frames) - 1
    return {round(i * steps / last) for i in range(last + 1)}


def _start(model: DiffusionModel, num: int, first: Time, seed: int, options: dict[str, Any]) -> Tensor:
    """What the loop began with: the same seed draws it again."""
    generator = torch.Generator().manual_seed(seed)
    x = model.process.prior((num, *model.shape), model.device).sample(generator)
    known, x0 = options.get("known"), options.get("x0")
    if known is not None and x0 is not None:
        t = torch.full((num,), first, device=x.device)
        x = model.process.hold(x, x0.to(x.device), known.to(x.device), t, generator)
    return x.cpu()
