r"""Losses of the Gaussian wing, beside the bound that both wings share.

With a fixed variance :math:`\sigma^2`, the bound's term of t is a weighted squared error, in any of three forms:

.. math:: L_{t-1} - C = \frac{\|\tilde\mu - \mu_\theta\|^2}{2 \sigma^2}
          = \frac{\beta^2}{2 \sigma^2 \alpha (1 - \bar\alpha)} \|\epsilon - \epsilon_\theta\|^2,

with C = 0 for the posterior variance and :math:`\frac12(\tilde\beta/\beta - 1 - \log(\tilde\beta/\beta))` an entry
for :math:`\sigma^2 = \beta`. Dropping the weight gives :math:`L_{simple}`. All are nats (or squares) an entry; the
thresholds of sampling play no part in a squared error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion, gaussian, like
from d3pm.objectives import Objective, step_term, stratified
from d3pm.process import Process


class SquaredError(Objective):
    """A loss on the prediction alone."""

    def check_process(self, process: Process) -> None:
        """Refuse the other wing, and a variance that would never be learned."""
        if gaussian(process, self, "VariationalBound").variance == "learned_range":
            raise ConfigError(
                f"objective {type(self).__name__} teaches no variance, and variance is 'learned_range': use "
                "LearnedVarianceHybrid, or a fixed variance"
            )


@dataclass(frozen=True)
class MeanError(SquaredError):
    r"""T times :math:`\|\tilde\mu - \mu_\theta\|^2 / 2\sigma^2`: the bound up to a constant, for a fixed variance.

    References:
        Ho et al., 2020, eq. 8.
    """

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        process = gaussian(process, self, "VariationalBound")
        estimate = process.denoise(output, x_t, t, threshold=False)
        wanted, found = (process.posterior(x, x_t, t - 1, t).mean for x in (x0, estimate))
        std = process.reverse(
            output, x_t, t - 1, t
        ).std.detach()  # these squares would be least where it is infinite
        return process.num_steps * 0.5 * ((wanted - found) / std) ** 2


@dataclass(frozen=True)
class NoiseError(SquaredError):
    r"""T times :math:`\frac{\beta^2}{2 \sigma^2 \alpha (1 - \bar\alpha)} \|\epsilon - \epsilon_\theta\|^2`: the same.

    References:
        Ho et al., 2020, eq. 12.
    """

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        process = gaussian(process, self, "VariationalBound")
        if process.ends_without_signal:
            raise ConfigError(
                "objective NoiseError: the schedule ends at alpha_bar 0, where the noise says nothing about the data: "
                "use MeanError or VariationalBound"
            )
        at_s, at_t = process.alpha_bar(t - 1), process.alpha_bar(t)
        scale = like((1 - at_t / at_s) / (at_t / at_s * (1 - at_t)).sqrt(), x_t)
        error = noise_error(process, output, x0, x_t, t)
        std = process.reverse(
            output, x_t, t - 1, t
        ).std.detach()  # these squares would be least where it is infinite
        return process.num_steps * 0.5 * (scale * error / std) ** 2


@dataclass(frozen=True)
class SimpleError(SquaredError):
    r""":math:`L_{simple}`: the squared error of what the network says (noise, data or v), every t alike.

    References:
        Ho et al., 2020, eq. 14; Salimans and Ho, 2022, section 4, for the weights that x0 and v imply.
    """

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        process = gaussian(process, self, "VariationalBound")
        return (process.split(output, x_t)[0] - process.target(x0, x_t, t)) ** 2


@dataclass(frozen=True)
class ContinuousSimpleError(SimpleError):
    """The same at fractional times, t uniform in (0, T]: for the view as a stochastic differential equation.

    Args:
        first: The least t, in steps: the noise at t = 0 is undefined.

    References:
        Song et al., *Score-Based Generative Modeling through SDEs*, 2021, section 3.3 and appendix C.
    """

    first: float = 0.01

    def draw(self, process: Process, x0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """See the base class; float64 times."""
        gaussian(process, self, "VariationalBound")
        if not 0 < self.first < process.num_steps:
            raise ConfigError(f"first is {self.first}: choose a time above 0 and below T={process.num_steps}")
        t = self.first + (process.num_steps - self.first) * (1 - stratified(x0, generator))
        return t, process.q_sample(x0, t, generator)


@dataclass(frozen=True)
class LearnedVarianceHybrid(Objective):
    r""":math:`L_{simple} + \lambda L_{vlb}`, for a learned variance: the bound teaches the variance alone.

    The mean is detached in the bound, which is counted in bits as in the published weight.

    Args:
        weight: :math:`\lambda`.

    References:
        Nichol and Dhariwal, *Improved DDPM*, 2021, section 3.1.
    """

    weight: float = 0.001

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        process = gaussian(process, self, "VariationalBound")
        prediction, v = process.split(output, x_t)
        if v is None:
            raise ConfigError(
                f"objective LearnedVarianceHybrid: variance is {process.variance!r}, nothing to learn: "
                "set process.variance to learned_range, or use SimpleError"
            )
        still = torch.cat([prediction.detach(), v], 1)
        bound = process.num_steps * step_term(process, still, x0, x_t, t - 1, t) / math.log(2)
        return SimpleError().at(process, output, x0, x_t, t) + self.weight * bound


def noise_error(process: GaussianDiffusion, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    r""":math:`\epsilon - \epsilon_\theta` of every entry, whatever the network predicts."""
    estimate = process.denoise(output, x_t, t, threshold=False)
    return process.noise(x0, x_t, t) - process.noise(estimate, x_t, t)
