r"""DPM-Solver++(2M): second order with one network call a step, by remembering the step before."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.gaussian.process import GaussianDiffusion, gaussian, like
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler


@dataclass
class DPMSolver(Sampler):
    r"""A linear multistep method in the half log-SNR :math:`\lambda = \log(\sqrt{\bar\alpha} / \sqrt{1 - \bar\alpha})`.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t - \sqrt{\bar\alpha_s}\, (e^{-h} - 1)\, D, \qquad
              D = \Big(1 + \frac{1}{2r}\Big) \hat x_0(t) - \frac{1}{2r} \hat x_0(t'), \quad
              h = \lambda_s - \lambda_t, \; r = \frac{\lambda_t - \lambda_{t'}}{h}

    with t' the time before t. The first step, the step to s = 0 (where h is infinite) and one after a start at
    :math:`\bar\alpha = 0` are of first order, which is DDIM.

    References:
        Lu et al., *DPM-Solver++: Fast Solver for Guided Sampling*, 2022, algorithm 2.
    """

    def begin(self) -> DPMSolver:
        """A solver that remembers nothing yet."""
        fresh = copy.copy(self)
        fresh._before = None
        return fresh

    def __post_init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None

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
        process = gaussian(process, self, "Ancestral")
        output = network(x_t, t)
        with full_precision(x_t):
            x0 = process.denoise(output, x_t, t)
            at_s, at_t = process.alpha_bar(s), process.alpha_bar(t)
            sigma_s, sigma_t = (1 - at_s).sqrt(), (1 - at_t).sqrt()
            shrink = sigma_s / sigma_t * (at_t / at_s).sqrt()  # exp(-h), 0 at s = 0
            guess = x0 if self._before is None else self._extrapolated(process, x0, s, t)
            self._before = (t, x0)
            return like(sigma_s / sigma_t, x_t) * x_t + like(at_s.sqrt() * (1 - shrink), x_t) * guess

    def _extrapolated(self, process: GaussianDiffusion, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        assert self._before is not None
        before, x0_before = self._before
        here, ahead, behind = (half_log_snr(process, time) for time in (t, s, before))
        share = (ahead - here) / (2 * (here - behind))  # 1 / 2r
        share = torch.where(share.isfinite(), share, 0.0)
        return x0 + like(share, x0) * (x0 - x0_before)


def half_log_snr(process: GaussianDiffusion, t: Tensor) -> Tensor:
    r""":math:`\lambda_t`, float64 (B,); infinite at t = 0."""
    alpha_bar = process.alpha_bar(t)
    return 0.5 * (alpha_bar.log() - torch.log1p(-alpha_bar))
