r"""The reverse loop, written once: from :math:`x_T \sim p(x_T)` down a grid of times to :math:`x_0`.

Steps are pairs s < t, so any grid of times is a sampler of the same process and no second set of formulas
is needed for skipping steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.objectives import Network, batch_time, full_precision
from d3pm.process import Process

Grid = Callable[[int, int], list[int]]


def uniform_grid(num_steps: int, steps: int) -> list[int]:
    """Times T = t_S > … > t_0 = 0, evenly spaced.

    >>> uniform_grid(1000, 4)
    [1000, 750, 500, 250, 0]
    """
    return _grid(num_steps, [i / steps for i in range(steps, -1, -1)])


def cosine_grid(num_steps: int, steps: int) -> list[int]:
    r"""Times :math:`T \cos(\frac{\pi}{2} (1 - i/S))` turned round: small steps first, where little is known yet.

    With the absorbing kernel's linear schedule this reveals few tokens in the first steps and more later.

    References:
        Shi et al. (MD4), 2024, section 6.

    >>> cosine_grid(1000, 4)
    [1000, 924, 707, 383, 0]
    """
    return _grid(num_steps, [math.sin(math.pi / 2 * i / steps) for i in range(steps, -1, -1)])


def _grid(num_steps: int, places: Sequence[float]) -> list[int]:
    """Round to whole times, pushing apart those that fall together: always len(places) - 1 steps."""
    steps = len(places) - 1
    times = [round(num_steps * u) for u in places]
    times[0] = num_steps
    for i in range(1, steps + 1):
        times[i] = max(min(times[i], times[i - 1] - 1), steps - i)
    return times


def sample(
    process: Process,
    network: Network,
    shape: Sequence[int],
    *,
    steps: int | Sequence[int] | None = None,
    grid: Grid = uniform_grid,
    generator: torch.Generator | None = None,
    known: Tensor | None = None,
    x0: Tensor | None = None,
    device: torch.device | str | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
    progress: bool = False,
    **cond: Any,
) -> Tensor:
    r"""Ancestral sampling: draw :math:`x_s \sim p_\theta(x_s | x_t)` down the grid; one network call a step.

    Args:
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        shape: Of the batch, (B, \*).
        steps: S <= T; or the times themselves, from T down to 0; T if not given.
        grid: Places S steps in T, e.g. :func:`uniform_grid`, :func:`cosine_grid`.
        generator: Equal seeds give equal samples.
        known: Entries to be held at ``x0``, bool (B, \*): prompts and infilling.
        x0: Their values; other entries are not read.
        device: Where to sample; that of ``x0``, the generator, or the network's parameters if not given.
        watch: Called with (s, x_s) after every step.
        progress: Show a progress bar.
        **cond: Passed to the network.

    Returns:
        :math:`x_0`, (B, \*).

    Raises:
        ConfigError: If the steps are not whole numbers falling from T to 0, or only one of known and x0 is given.
    """
    times = _times(process.num_steps, steps, grid)
    if (known is None) != (x0 is None):
        raise ConfigError("known and x0 go together: give both, or neither")
    place = _device(network, generator, x0) if device is None else torch.device(device)
    with torch.no_grad():
        x = process.prior(tuple(shape), place).sample(generator)
        x = _held(process, x, x0, known, times[0], generator)
        for t, s in _bar(list(pairwise(times)), progress):
            t_batch, s_batch = batch_time(t, x), batch_time(s, x)
            output = network(x, t_batch, **cond)
            with full_precision(x):
                x = process.reverse(output, x, s_batch, t_batch).sample(generator)
            x = _held(process, x, x0, known, s, generator)
            if watch is not None:
                watch(s, x)
    return x


def _held(
    process: Process,
    x: Tensor,
    x0: Tensor | None,
    known: Tensor | None,
    s: int,
    generator: torch.Generator | None,
) -> Tensor:
    if known is None or x0 is None:
        return x
    return process.hold(x, x0.to(x.device), known.to(x.device), batch_time(s, x), generator)


def _times(num_steps: int, steps: int | Sequence[int] | None, grid: Grid) -> list[int]:
    steps = num_steps if steps is None else steps
    if isinstance(steps, int):
        if not 1 <= steps <= num_steps:
            raise ConfigError(f"steps is {steps}: this process has T={num_steps}, choose 1 .. {num_steps}")
        return grid(num_steps, steps)
    times = list(steps)
    if len(times) < 2 or times[0] != num_steps or times[-1] != 0 or any(a <= b for a, b in pairwise(times)):
        raise ConfigError(f"steps is {times}: times must fall from T={num_steps} to 0")
    return times


def _device(network: Network, generator: torch.Generator | None, x0: Tensor | None) -> torch.device:
    if x0 is not None:
        return x0.device
    if isinstance(network, torch.nn.Module):
        for parameter in network.parameters():
            return parameter.device
    return generator.device if generator is not None else torch.device("cpu")


def _bar(pairs: list[tuple[int, int]], progress: bool) -> Any:
    if not progress:
        return pairs
    from tqdm import tqdm

    return tqdm(pairs, desc="sampling", unit="step")
