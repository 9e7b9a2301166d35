r"""The reverse-time equation, simulated by Euler and Maruyama's method.

.. math:: dx = \big[ f(u) x - g(u)^2\, \nabla \log p_u(x) \big] du + g(u)\, d\bar w, \qquad u \text{ from 1 down.}

References:
    Anderson, *Reverse-time diffusion equation models*, 1982; Song et al., 2021, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from d3pm.distributions import Normal
from d3pm.errors import ConfigError
from d3pm.gaussian.process import like
from d3pm.gaussian.score import Score, denoised
from d3pm.gaussian.sde import SDE

Correction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``correct(x, s, u)``: moves x_s, which a step from u has just reached, within its own law."""


def euler_maruyama_step(sde: SDE, score: Score, x: Tensor, s: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    r"""One step from time u back to s < u, (B,) each, with standard normal ``noise`` (B, \*); one network call."""
    width = like(u - s, x)
    rate = like(sde.diffusion(u), x)
    backward = sde.drift(x, u) - rate**2 * score(x, u)
    return x - width * backward + rate * width.sqrt() * noise


@torch.no_grad()
def euler_maruyama(
    sde: SDE,
    score: Score,
    shape: Sequence[int],
    *,
    steps: int = 1000,
    end: float = 1e-3,
    x_1: Tensor | None = None,
    denoise: bool = True,
    correct: Correction | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    watch: Callable[[float, Tensor], None] | None = None,
) -> Tensor:
    r"""Samples by the reverse-time equation, from the prior at u = 1 down to ``end`` in equal steps.

    The law reached differs from the true one by O(1/steps) (weak order 1). One network call a step.

    Args:
        sde: The equation.
        score: Its score, e.g. :func:`~d3pm.gaussian.score.score_of`.
        shape: Of the batch, (B, \*).
        steps: Equal steps in u.
        end: Where to stop; at 0 the score of noiseless data would be asked for.
        x_1: Start here instead of at a draw from the prior.
        denoise: Return :math:`\mathrm E[x_0 | x_{end}]`, for one more call, instead of :math:`x_{end}`.
        correct: Called as ``correct(x, s, u)`` after each step from u to s.
        generator: Equal seeds give equal samples.
        device: Where to sample; that of ``x_1`` or of the generator if not given.
        dtype: Of the samples, where ``x_1`` does not say.
        watch: Called with (s, x_s) after every step.

    Returns:
        Samples (B, \*).

    Raises:
        ConfigError: If there is no step, or ``end`` is not in (0, 1).
    """
    times = time_grid(steps, end)
    x = begin(sde, shape, x_1, generator, device, dtype)
    for u, s in pairwise(times.tolist()):
        u_batch, s_batch = time_batch(u, x), time_batch(s, x)
        noise = Normal(torch.zeros_like(x), torch.ones_like(x)).sample(generator)
        x = euler_maruyama_step(sde, score, x, s_batch, u_batch, noise)
        if correct is not None:
            x = correct(x, s_batch, u_batch)
        if watch is not None:
            watch(s, x)
    return denoised(sde, score, x, time_batch(end, x)) if denoise else x


def time_grid(steps: int, end: float) -> Tensor:
    """1 = u_0 > … > u_steps = end, float64.

    >>> time_grid(2, 0.5)
    tensor([1.0000, 0.7500, 0.5000], dtype=torch.float64)
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}: choose at least 1")
    return torch.linspace(1.0, check_end(end), steps + 1, dtype=torch.float64)


def check_end(end: float) -> float:
    """Refuse a time that is not strictly between data and noise."""
    if not 0 < end < 1:
        raise ConfigError(
            f"end is {end}: choose a time in (0, 1), such as 1e-3 for samples, 1e-5 for likelihoods"
        )
    return end


def begin(
    sde: SDE,
    shape: Sequence[int],
    x_1: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Tensor:
    """The given start, or a draw from the prior."""
    if x_1 is not None:
        if tuple(x_1.shape) != tuple(shape):
            raise ConfigError(f"x_1 has shape {tuple(x_1.shape)}: shape says {tuple(shape)}, give the same")
        return x_1 if device is None else x_1.to(device)
    if device is None and generator is not None:
        device = generator.device
    return sde.prior(shape, device, dtype).sample(generator)


def time_batch(u: float, x: Tensor) -> Tensor:
    """One time for the whole batch, float64 (B,)."""
    return torch.full((len(x),), u, dtype=torch.float64, device=x.device)
