r"""Predictor–corrector sampling: after each step back, Langevin dynamics pulls the samples towards :math:`p_u`.

.. math::
    x \leftarrow x + \epsilon\, \nabla \log p_u(x) + \sqrt{2 \epsilon}\, z,
    \qquad \epsilon = 2 \alpha \Big( r\, \frac{\|z\|}{\|\nabla \log p_u(x)\|} \Big)^2 .

References:
    Song et al., 2021, section 4.2 and appendix G, algorithms 3 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d3pm.distributions import Normal
from d3pm.errors import ConfigError
from d3pm.gaussian.euler_maruyama import euler_maruyama
from d3pm.gaussian.process import like
from d3pm.gaussian.score import Score
from d3pm.gaussian.sde import SDE


@torch.no_grad()
def langevin_step(
    score: Score,
    x: Tensor,
    u: Tensor,
    *,
    snr: float = 0.16,
    alpha: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""One corrector step at time u: :math:`p_u` stays put up to :math:`O(r^2)`. One network call.

    Norms are averaged over the batch, as the authors do: a step of its own for each example would depend on where
    the example is and on its noise, and :math:`p_u` would no longer be kept. So examples of one batch depend on each
    other. On a Gaussian the variance that stays is :math:`1 + \alpha r^2` of the true one.

    Args:
        score: Of the law to be kept.
        x: Samples (B, \*).
        u: Their time, float64 (B,).
        snr: The ratio r of step to noise.
        alpha: The factor :math:`\alpha`, one number or (B,); 1 for the VE-SDE.
        generator: Source of z.
    """
    gradient = score(x, u)
    noise = Normal(torch.zeros_like(x), torch.ones_like(x)).sample(generator)
    ratio = mean_norm(noise) / mean_norm(gradient)
    alpha = like(torch.as_tensor(alpha, dtype=torch.float64, device=x.device).expand(len(x)), x)
    step = 2 * alpha * (snr * ratio) ** 2
    return x + step * gradient + (2 * step).sqrt() * noise


def mean_norm(x: Tensor) -> Tensor:
    """The mean length of the examples of a batch, ()."""
    return x.flatten(1).norm(dim=1).mean()


def predictor_corrector(
    sde: SDE,
    score: Score,
    shape: Sequence[int],
    *,
    corrections: int = 1,
    snr: float = 0.16,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    r"""Samples by Euler–Maruyama steps, each followed by Langevin steps at the time it reached.

    :math:`\alpha = a(u)^2 / a(s)^2` is the DDPM :math:`\alpha` of the step, 1 for the VE-SDE. The cost is
    ``1 + corrections`` network calls a step.

    Args:
        sde: The equation.
        score: Its score.
        shape: Of the batch, (B, \*).
        corrections: Langevin steps after each predictor step.
        snr: Their signal-to-noise ratio r; 0.16 is the authors' default on CIFAR-10.
        generator: Equal seeds give equal samples.
        **options: Those of :func:`~d3pm.gaussian.euler_maruyama.euler_maruyama`.

    Raises:
        ConfigError: If corrections is negative or snr not positive.
    """
    if corrections < 0:
        raise ConfigError(f"corrections is {corrections}: choose 0 or more")
    if not snr > 0:
        raise ConfigError(f"snr is {snr}: it must be above 0, such as 0.16")

    def correct(x: Tensor, s: Tensor, u: Tensor) -> Tensor:
        alpha = (sde.moments(u)[0] / sde.moments(s)[0]) ** 2
        for _ in range(corrections):
            x = langevin_step(score, x, s, snr=snr, alpha=alpha, generator=generator)
        return x

    return euler_maruyama(sde, score, shape, correct=correct, generator=generator, **options)
