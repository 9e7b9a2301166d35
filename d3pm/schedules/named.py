"""Schedules in closed form, by the names of the papers that brought them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules.base import Schedule, check_steps, survival


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    r"""Ho et al.'s :math:`\beta` rising linearly from 1e-4 to 0.02 at T = 1000, scaled by 1000/T otherwise.

    In continuous time :math:`\bar\alpha(u) = \exp(-a u - (b - a) u^2 / 2)` with a = 0.1, b = 20, the VP-SDE; the
    discrete table is the exact product, :math:`\bar\alpha_T` = 4.036e-5 at T = 1000.

    Args:
        first: :math:`\beta_1` at T = 1000.
        last: :math:`\beta_T` at T = 1000.

    Raises:
        ConfigError: If T is so small that the scaled :math:`\beta_T` passes 1.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, section 4; Song et al., 2021, appendix B.
    """

    first: float = 1e-4
    last: float = 0.02

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        u = torch.as_tensor(u, dtype=torch.float64)
        a, b = 1000 * self.first, 1000 * self.last
        return torch.exp(-a * u - 0.5 * (b - a) * u**2)

    def alpha_bars(self, num_steps: int) -> Tensor:
        """See the class."""
        check_steps(num_steps)
        scale = 1000 / num_steps
        betas = torch.linspace(scale * self.first, scale * self.last, num_steps, dtype=torch.float64)
        if scale * self.last >= 1:
            least = math.floor(1000 * self.last) + 1
            raise ConfigError(
                f"LinearSchedule at num_steps={num_steps} scales beta to {scale * self.last:.4g}, not below 1: "
                f"take at least {least} steps, or another schedule"
            )
        return survival(betas)


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    r""":math:`\bar\alpha(u) = \cos^2\!\big(\tfrac{u + s}{1 + s} \tfrac{\pi}{2}\big)` over its value at 0.

    Clipped to :math:`\beta \le 0.999`.

    References:
        Nichol and Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021, section 3.2.
    """

    offset: float = 0.008
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        if not self.offset >= 0:
            raise ConfigError(f"{type(self).__name__} offset is {self.offset}: it must be 0 or more")

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        return cosine(u, self.offset) ** 2


@dataclass(frozen=True)
class UnsquaredCosineSchedule(Schedule):
    r""":math:`\bar\alpha(u) = \cos\!\big(\tfrac{u + s}{1 + s} \tfrac{\pi}{2}\big)` over its value at 0.

    **Not** squared; clipped to :math:`\beta \le 0.999`.

    References:
        Hoogeboom et al., *Argmax Flows and Multinomial Diffusion*, 2021, section 4.2; Austin et al., 2021, section 4.
    """

    offset: float = 0.008
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        if not self.offset >= 0:
            raise ConfigError(f"{type(self).__name__} offset is {self.offset}: it must be 0 or more")

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        return cosine(u, self.offset)


def cosine(u: Tensor, offset: float) -> Tensor:
    """The quarter cosine shared by both cosine schedules: exactly 1 at 0 and never below 0 at 1."""
    u = torch.as_tensor(u, dtype=torch.float64)
    start = math.cos(offset / (1 + offset) * math.pi / 2)
    return (torch.cos((u + offset) / (1 + offset) * math.pi / 2) / start).clamp(0, 1)


@dataclass(frozen=True)
class ReciprocalSchedule(Schedule):
    r""":math:`\bar\alpha(u) = 1 - u`, that is :math:`\beta_t = 1 / (T - t + 1)`, with :math:`\beta_T = 1` exactly.

    Under the absorbing kernel the mutual information with the data then falls linearly.

    References:
        Sohl-Dickstein et al., 2015, section 2.4.1; Austin et al., 2021, section 3.1.
    """

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        return 1 - torch.as_tensor(u, dtype=torch.float64)

    def betas(self, num_steps: int) -> Tensor:
        """The closed form, free of the rounding of a ratio of differences."""
        check_steps(num_steps)
        return 1 / torch.arange(num_steps, 0, -1, dtype=torch.float64)


@dataclass(frozen=True)
class PolynomialSchedule(Schedule):
    r""":math:`\bar\alpha(u) = 1 - u^p`: late destruction for p > 1, early for p < 1.

    References:
        Shi et al., *Simplified and Generalized Masked Diffusion for Discrete Data*, 2024, section 4 and appendix.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ConfigError(f"PolynomialSchedule power is {self.power}: it must be above 0")

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        return 1 - torch.as_tensor(u, dtype=torch.float64) ** self.power


@dataclass(frozen=True)
class SigmoidSchedule(Schedule):
    r""":math:`\bar\alpha(u) \propto \sigma(-(a + (b - a) u)/\tau) - \sigma(-b/\tau)`, 1 at u = 0 and 0 at u = 1.

    Gentle at both ends: large pictures keep more of their detail for longer than under a cosine. Clipped to
    :math:`\beta \le 0.999`.

    Args:
        start: a.
        end: b, above a.
        temperature: :math:`\tau`; smaller is steeper.

    Raises:
        ConfigError: If ``end`` is not above ``start``, or the temperature not above 0.

    References:
        Jabri et al., *Scalable Adaptive Computation for Iterative Generation*, 2023, section 3;
        Chen, *On the Importance of Noise Scheduling for Diffusion Models*, 2023, algorithm 1.
    """

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        if not (self.end > self.start and self.temperature > 0):
            raise ConfigError(
                f"SigmoidSchedule has start {self.start}, end {self.end}, temperature {self.temperature}: "
                "give start < end and a temperature above 0"
            )

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        u = torch.as_tensor(u, dtype=torch.float64)
        first, last = (1 / (1 + math.exp(edge / self.temperature)) for edge in (self.start, self.end))
        value = torch.sigmoid(-(self.start + (self.end - self.start) * u) / self.temperature)
        return ((value - last) / (first - last)).clamp(0, 1)


@dataclass(frozen=True)
class ZeroTerminalSNR(Schedule):
    r"""Another schedule with :math:`\sqrt{\bar\alpha}` shifted and scaled to end at exactly 0.

    .. math:: \sqrt{\bar\alpha'_t} = \sqrt{\bar\alpha_1}\,
              \frac{\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_T}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_T}}

    keeps the first step as it was. Sampling then starts from what training saw at T; it has to visit T (the
    uniform grid does), and the network to predict v or x0: the noise is undefined there.

    Args:
        base: The schedule to be shifted.

    Raises:
        ConfigError: If ``num_steps`` is 1: the first step cannot both stay and end at 0.

    References:
        Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024, section 3.1, algorithm 1.
    """

    base: Schedule

    @classmethod
    def example(cls) -> ZeroTerminalSNR:
        """Ho et al.'s schedule, shifted."""
        return cls(LinearSchedule())

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class; the limit of many steps, where the first one is at u = 0."""
        u = torch.as_tensor(u, dtype=torch.float64)
        kept, last = self.base.alpha_bar(u).sqrt(), self.base.alpha_bar(torch.ones_like(u)).sqrt()
        return ((kept - last) / (1 - last)) ** 2

    def alpha_bars(self, num_steps: int) -> Tensor:
        """See the class."""
        kept = self.base.alpha_bars(num_steps).sqrt()
        if num_steps < 2:
            raise ConfigError(f"ZeroTerminalSNR at num_steps={num_steps}: take at least 2 steps")
        shifted = (kept[1] * (kept - kept[-1]) / (kept[1] - kept[-1])) ** 2
        return torch.cat([kept.new_ones(1), shifted[1:]])
