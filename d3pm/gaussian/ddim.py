r"""DDIM: a family of reverse steps with the same marginals, from ancestral noise to none at all.

.. math:: x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma z, \qquad
          \sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}

Without noise the map from :math:`x_T` to :math:`x_0` is a function, and its steps can be taken upwards too.

References:
    Song et al., *Denoising Diffusion Implicit Models*, 2021, sections 4.1 and 4.3 (their alpha is our alpha-bar).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from d3pm.distributions import Normal
from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion, gaussian, like
from d3pm.objectives import Network, batch_time, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler, sample, times_of


@dataclass(frozen=True)
class DDIM(Sampler):
    r"""One network call a step; the noise is :math:`\hat\epsilon` of the thresholded :math:`\hat x_0`.

    Args:
        eta: 0 is deterministic, 1 has the posterior's variance: ancestral sampling with ``fixed_small``.
        noise: ``"eta"``, or ``"hat"`` for :math:`\hat\sigma = \sqrt{1 - \bar\alpha_t / \bar\alpha_s}` in the noise term
            only, while the direction keeps :math:`\sigma(\eta = 1)`: DDPM's larger variance.

    Raises:
        ConfigError: If ``eta`` is outside [0, 1], or ``noise`` is neither.
    """

    eta: float = 0.0
    noise: Literal["eta", "hat"] = "eta"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"DDIM eta is {self.eta}: choose it in [0, 1]")
        if self.noise not in ("eta", "hat"):
            raise ConfigError(f"DDIM noise is {self.noise!r}: choose 'eta' or 'hat'")

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class; no noise is added at s = 0."""
        process = gaussian(process, self, "Ancestral")
        output = network(x_t, t)
        with full_precision(x_t):
            x0 = process.denoise(output, x_t, t)
            sigma, spread = self.sigmas(process, s, t)
            mean = toward(process, x0, process.noise(x0, x_t, t), s, sigma)
            if self.eta == 0 and self.noise == "eta":
                return mean
            return Normal(mean, like(torch.where(s == 0, 0.0, spread), x_t)).sample(generator)

    def sigmas(self, process: GaussianDiffusion, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\sigma` in the direction, and the standard deviation of the noise, float64 (B,)."""
        at_s, at_t = process.alpha_bar(s), process.alpha_bar(t)
        hat = (1 - at_t / at_s).sqrt()
        small = hat * ((1 - at_s) / (1 - at_t)).sqrt()
        return (small, hat) if self.noise == "hat" else (self.eta * small, self.eta * small)


def toward(
    process: GaussianDiffusion, x0: Tensor, eps: Tensor, s: Tensor, sigma: Tensor | None = None
) -> Tensor:
    r""":math:`\sqrt{\bar\alpha_s}\, x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \epsilon`; s and sigma (B,)."""
    at_s = process.alpha_bar(s)
    left = 1 - at_s if sigma is None else (1 - at_s - sigma**2).clamp(min=0)
    return like(at_s.sqrt(), x0) * x0 + like(left.sqrt(), x0) * eps


@torch.no_grad()
def invert(
    process: GaussianDiffusion, network: Network, x0: Tensor, times: Sequence[int | float], **cond: Any
) -> Tensor:
    r"""The latent :math:`x_T` that deterministic DDIM turns into ``x0``, up to the steps' error.

    Each step up uses the noise that the network sees at its lower end (the first one, at its upper end). Down the
    same times, :class:`DDIM` with ``sample(..., x_T=...)`` reconstructs.

    Args:
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        x0: Data (B, C, \*).
        times: Falling to 0, as a sampler takes them, e.g. ``uniform_grid(1000, 50)``.
        **cond: Passed to the network.

    Raises:
        ConfigError: If the times do not fall from T or below to 0.

    References:
        Song et al., 2021, section 4.3 and 5.4.
    """
    rising = times_of(process, list(times))[::-1]
    x = x0
    for s, t in pairwise(rising):
        seen = batch_time(s or t, x)  # no network is defined at 0: the first step asks at its upper end
        output = network(x, seen, **cond)
        with full_precision(x):
            estimate = process.denoise(output, x, seen)
            eps = process.noise(estimate, x, seen)
            x = toward(process, estimate if s else x0, eps, batch_time(t, x))
    return x


def reconstruct(
    process: GaussianDiffusion, network: Network, x0: Tensor, times: Sequence[int | float], **cond: Any
) -> Tensor:
    r"""Encode ``x0`` with :func:`invert` and decode it again: what the steps' error leaves of it, (B, C, \*)."""
    x_T = invert(process, network, x0, times, **cond)
    return sample(process, network, x0.shape, steps=times, sampler=DDIM(), x_T=x_T, **cond)


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    r"""Between two latents on the sphere they lie on.

    .. math:: \frac{\sin((1-w)\theta)}{\sin\theta}\, a + \frac{\sin w\theta}{\sin\theta}\, b

    A straight line would pass through latents of a norm that the prior never draws.

    Args:
        a: Latents (B, \*).
        b: Latents of the same shape.
        share: w in [0, 1], (B,).

    References:
        Song et al., 2021, appendix D.5, eq. 67.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    tensor([[0.7071, 0.7071]])
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()
    close = angle.sin() < 1e-6  # on one ray the sphere's arc is the line
    safe = torch.where(close, torch.ones_like(angle), angle)
    of_a = torch.where(close, 1 - share, ((1 - share) * safe).sin() / safe.sin())
    of_b = torch.where(close, share, (share * safe).sin() / safe.sin())
    return like(of_a, a) * a + like(of_b, b) * b
