r"""Noise in continuous time: linear stochastic differential equations from data (u = 0) to noise (u = 1).

.. math::
    dx = f(u)\, x\, du + g(u)\, dw
    \qquad\Longrightarrow\qquad
    x_u = a(u)\, x_0 + \sigma(u)\, \epsilon,
    \qquad
    \frac{da}{du} = f a, \quad \frac{d\sigma^2}{du} = 2 f \sigma^2 + g^2 .

Divided by :math:`\sqrt{a^2 + \sigma^2}`, each of them is the variance-preserving law at
:math:`\bar\alpha = a^2 / (a^2 + \sigma^2)`: one network trained on :math:`x_t` serves all
(:func:`d3pm.gaussian.score.score_of`).

References:
    Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, 2021, section 3 and
    appendices B, C.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.distributions import Normal
from d3pm.errors import ConfigError
from d3pm.gaussian.process import like
from d3pm.schedules import LinearSchedule, Schedule


class SDE(ABC):
    r"""A linear equation :math:`dx = f(u) x\, du + g(u)\, dw` on u in [0, 1]; times are float64 (B,).

    A new one is three methods and a number.
    """

    @classmethod
    def example(cls) -> SDE:
        """An instance for tests and docs; override it where the constructor needs arguments."""
        return cls()

    @abstractmethod
    def moments(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`a(u)` and :math:`\sigma(u)`, float64 (B,) each."""

    @abstractmethod
    def decay(self, u: Tensor) -> Tensor:
        """The rate f(u), float64 (B,)."""

    @abstractmethod
    def diffusion(self, u: Tensor) -> Tensor:
        """The rate g(u) >= 0, float64 (B,)."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """The spread of :math:`x_1`, which is drawn around 0."""

    def drift(self, x: Tensor, u: Tensor) -> Tensor:
        """``f(u) x``, (B, \\*)."""
        return like(self.decay(u), x) * x

    def marginal(self, x0: Tensor, u: Tensor) -> Normal:
        r""":math:`q(x_u | x_0)` for data (B, \*) of any range."""
        scale, std = (like(m, x0) for m in self.moments(u))
        return Normal(scale * x0, std)

    def prior(
        self,
        shape: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Normal:
        r""":math:`p(x_1) = \mathcal N(0, \text{prior\_std}^2)`."""
        mean = torch.zeros(tuple(shape), device=device, dtype=dtype)
        return Normal(mean, torch.full_like(mean, self.prior_std))

    def level(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""The scale :math:`\sqrt{a^2 + \sigma^2}` and the :math:`\bar\alpha` it leaves, float64 (B,) each."""
        scale, std = self.moments(u)
        power = scale**2 + std**2
        return power.sqrt(), scale**2 / power


@dataclass(frozen=True)
class VPSDE(SDE):
    r"""Variance preserving, the limit of DDPM: :math:`a^2 = \bar\alpha(u)`, :math:`\sigma^2 = 1 - \bar\alpha(u)`.

    .. math:: dx = -\tfrac12 \beta(u)\, x\, du + \sqrt{\beta(u)}\, dw, \qquad \beta(u) = -\frac{d \log \bar\alpha}{du}

    With the linear schedule :math:`\beta(u) = 0.1 + 19.9 u` and :math:`\bar\alpha(1)` = 4.319e-5, a little above the
    product of a thousand discrete steps, 4.036e-5.

    Args:
        schedule: Any schedule with a continuous :math:`\bar\alpha(u)`.
        span: The share of the schedule that u in [0, 1] runs through. Below 1 for schedules that end without any
            signal, where the rate :math:`\beta` is infinite.

    Raises:
        ConfigError: If span is not in (0, 1], or the schedule has no signal left at its end.

    References:
        Song et al., 2021, equation 11 and appendix B.

    >>> sde = VPSDE(LinearSchedule())
    >>> scale, std = sde.moments(torch.ones(1))
    >>> f"{(scale**2).item():.3e}"
    '4.319e-05'
    """

    schedule: Schedule = LinearSchedule()  # noqa: RUF009 (a frozen value)
    span: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.span <= 1:
            raise ConfigError(f"span is {self.span}: it is a share of the schedule, choose it in (0, 1]")
        left = float(self.alpha_bar(torch.ones(1, dtype=torch.float64)))
        if not left > 1e-12:
            raise ConfigError(
                f"{type(self).__name__}: {type(self.schedule).__name__} has alpha_bar {left:.3g} at u={self.span}, "
                "where the noise comes at an infinite rate: stop before with span=0.995, or use LinearSchedule"
            )

    def alpha_bar(self, u: Tensor) -> Tensor:
        r""":math:`\bar\alpha`, float64 (B,)."""
        return self.schedule.alpha_bar(self.span * u.double())

    def beta(self, u: Tensor) -> Tensor:
        r""":math:`\beta(u) = -d \log \bar\alpha / du` by automatic differentiation, float64 (B,)."""
        with torch.enable_grad():
            u = u.detach().double().requires_grad_()
            (slope,) = torch.autograd.grad(self.alpha_bar(u).log().sum(), u)
        return -slope

    def moments(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        alpha_bar = self.alpha_bar(u)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def decay(self, u: Tensor) -> Tensor:
        """See the base class."""
        return -0.5 * self.beta(u)

    def diffusion(self, u: Tensor) -> Tensor:
        """See the base class."""
        return self.beta(u).sqrt()

    @property
    def prior_std(self) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class SubVPSDE(VPSDE):
    r"""Like :class:`VPSDE` with less noise on the way: :math:`\sigma = 1 - \bar\alpha(u)`.

    .. math:: dx = -\tfrac12 \beta(u)\, x\, du + \sqrt{\beta(u)\, (1 - \bar\alpha(u)^2)}\, dw

    The authors found its likelihoods better.

    References:
        Song et al., 2021, section 3.4 and appendix B.
    """

    def moments(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        alpha_bar = self.alpha_bar(u)
        return alpha_bar.sqrt(), 1 - alpha_bar

    def diffusion(self, u: Tensor) -> Tensor:
        """See the base class."""
        return (self.beta(u) * (1 - self.alpha_bar(u) ** 2)).sqrt()


@dataclass(frozen=True)
class VESDE(SDE):
    r"""Variance exploding: the data stay, the noise grows geometrically, :math:`\sigma_{min}^{1-u} \sigma_{max}^u`.

    .. math:: dx = \sigma(u) \sqrt{2 \log(\sigma_{max} / \sigma_{min})}\, dw, \qquad a = 1

    At u = 0 the noise is :math:`\sigma_{min}`, not 0: densities and samples at the end of the path are those of the
    data under that much noise.

    Args:
        sigma_min: Noise at u = 0; small against the detail of the data.
        sigma_max: Noise at u = 1; at least the largest distance between two examples.

    Raises:
        ConfigError: Unless 0 < sigma_min < sigma_max.

    References:
        Song and Ermon, 2019, 2020; Song et al., 2021, equation 9 and appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(
                f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}: choose 0 < sigma_min < sigma_max"
            )

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def moments(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        u = u.double()
        return torch.ones_like(u), self.sigma_min * torch.exp(self._growth * u)

    def decay(self, u: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(u, dtype=torch.float64)

    def diffusion(self, u: Tensor) -> Tensor:
        """See the base class."""
        return self.moments(u)[1] * math.sqrt(2 * self._growth)

    @property
    def prior_std(self) -> float:
        """``sigma_max``."""
        return self.sigma_max
