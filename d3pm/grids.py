r"""Where S steps lie in the times 0 … T of a process: lists of whole times that fall and end in 0.

Steps are pairs s < t, so any such list is a sampler of the same process. Most begin at T; ``leading`` and
``quadratic`` begin below it, where the prior stands in for :math:`q(x_t)` that it nearly equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from d3pm.errors import ConfigError

Grid = Callable[[int, int], list[int]]


def uniform_grid(num_steps: int, steps: int) -> list[int]:
    """Evenly spaced from T; what others call *trailing*.

    >>> uniform_grid(1000, 4)
    [1000, 750, 500, 250, 0]
    """
    _check(num_steps, steps)
    return _apart(num_steps, [num_steps * i / steps for i in range(steps, -1, -1)])


trailing_grid = uniform_grid


def cosine_grid(num_steps: int, steps: int) -> list[int]:
    r"""Times :math:`T \cos(\frac{\pi}{2} (1 - i/S))` turned round: small steps first, where little is known yet.

    With the absorbing kernel's linear schedule this reveals few tokens in the first steps and more later.

    References:
        Shi et al. (MD4), 2024, section 6.

    >>> cosine_grid(1000, 4)
    [1000, 924, 707, 383, 0]
    """
    _check(num_steps, steps)
    return _apart(num_steps, [num_steps * math.sin(math.pi / 2 * i / steps) for i in range(steps, -1, -1)])


def leading_grid(num_steps: int, steps: int) -> list[int]:
    """Every (T // S)-th step counted from t = 1, then 0: never reaches T unless S = T.

    References:
        Song et al., *Denoising Diffusion Implicit Models*, 2021, appendix D.2 (linear).

    >>> leading_grid(1000, 4)
    [751, 501, 251, 1, 0]
    """
    _check(num_steps, steps)
    stride = num_steps // steps
    return [1 + stride * i for i in range(steps - 1, -1, -1)] + [0]


def linspace_grid(num_steps: int, steps: int) -> list[int]:
    """From T to t = 1 in even distances, both ends included, then 0.

    References:
        Nichol and Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021, section 4.

    >>> linspace_grid(1000, 4)
    [1000, 667, 334, 1, 0]
    """
    _check(num_steps, steps)
    if steps == 1:
        return [num_steps, 0]
    places = [1 + round((num_steps - 1) * i / (steps - 1)) for i in range(steps - 1, -1, -1)]
    return [*_apart(num_steps, places, last=1), 0]


def quadratic_grid(num_steps: int, steps: int) -> list[int]:
    r"""Times :math:`1 + \lfloor (\sqrt{0.8 T}\, i / (S - 1))^2 \rfloor`, then 0: most steps near the data.

    References:
        Song et al., *Denoising Diffusion Implicit Models*, 2021, appendix D.2 (their choice on CIFAR-10).

    >>> quadratic_grid(1000, 4)
    [801, 356, 89, 1, 0]
    """
    _check(num_steps, steps)
    if steps == 1:
        return [1 + int(0.8 * num_steps), 0] if num_steps > 1 else [1, 0]
    top = math.sqrt(0.8 * num_steps)
    # The whole part of a square that should be whole must not fall to the one below by rounding.
    places = [1 + math.floor((top * i / (steps - 1)) ** 2 + 1e-9) for i in range(steps - 1, -1, -1)]
    return [*_apart(min(places[0], num_steps), places, last=1), 0]


def _check(num_steps: int, steps: int) -> None:
    if not 1 <= steps <= num_steps:
        raise ConfigError(f"steps is {steps}: this grid of T={num_steps} has 1 .. {num_steps} steps")


def _apart(first: int, places: Sequence[float], last: int = 0) -> list[int]:
    """Round to whole times from ``first`` to ``last``, pushing apart those that fall together: as many as places."""
    steps = len(places) - 1
    times = [round(place) for place in places]
    times[0] = max(first, last + steps)
    for i in range(1, steps + 1):
        times[i] = max(min(times[i], times[i - 1] - 1), last + steps - i)
    return times
