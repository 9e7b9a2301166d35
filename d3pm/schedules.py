r"""How fast the data is destroyed: :math:`\bar\alpha(u)`, the share that survives at time :math:`u = t/T`.

A schedule is a frozen value shared by both wings. In the discrete wing :math:`\bar\alpha_t` is the chance
that a token has not been resampled by step t; in the Gaussian wing it is the signal's share of the variance.
Tables are float64 with T+1 entries and :math:`\bar\alpha_0 = 1`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.specs import Part


def betas_from(alpha_bars: Tensor) -> Tensor:
    r""":math:`\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}`, (T+1,) to (T,); 1 once nothing is left to lose."""
    before, after = alpha_bars[:-1], alpha_bars[1:]
    return torch.where(before > 0, 1 - after / torch.where(before > 0, before, 1.0), 1.0)


class Schedule(Part, ABC):
    r"""A decreasing map :math:`\bar\alpha: [0, 1] \to [0, 1]` with :math:`\bar\alpha(0) = 1`."""

    max_beta: float = 1.0

    @classmethod
    def example(cls) -> Schedule:
        """A small instance for tests and docs; override it where the constructor needs arguments."""
        return cls()

    @abstractmethod
    def alpha_bar(self, u: Tensor) -> Tensor:
        """The surviving share at times ``u`` in [0, 1], float64."""

    def alpha_bars(self, num_steps: int) -> Tensor:
        r""":math:`\bar\alpha_0 \ldots \bar\alpha_T`, float64 (T+1,), with :math:`\beta_t \le` ``max_beta``.

        Raises:
            ConfigError: If ``num_steps`` is not positive.
        """
        check_steps(num_steps)
        values = self.alpha_bar(torch.arange(num_steps + 1, dtype=torch.float64) / num_steps).double()
        if not 0 < self.max_beta <= 1:
            raise ConfigError(f"max_beta is {self.max_beta}: choose it in (0, 1]")
        if not abs(float(values[0]) - 1) < 1e-9:
            raise ConfigError(f"{type(self).__name__}: alpha_bar(0) is {float(values[0]):.6g}: it must be 1")
        betas = betas_from(values)
        if bool((betas > self.max_beta).any()):
            return survival(betas.clamp(max=self.max_beta))
        survival(betas)  # refuses what rises, or falls below 0
        return values

    def betas(self, num_steps: int) -> Tensor:
        r""":math:`\beta_1 \ldots \beta_T`, float64 (T,)."""
        return betas_from(self.alpha_bars(num_steps))


def check_steps(num_steps: int) -> None:
    """Refuse a number of steps that is not a positive whole number."""
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ConfigError(f"num_steps is {num_steps}: a process needs a whole number of steps, at least 1")


def survival(betas: Tensor) -> Tensor:
    r""":math:`\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)`, (T,) to (T+1,), refusing :math:`\beta` outside [0, 1]."""
    bad = ((betas < 0) | (betas > 1) | betas.isnan()).nonzero().flatten()
    if len(bad):
        t = int(bad[0])
        raise ConfigError(
            f"beta at t={t + 1} is {betas[t].item():.6g}, outside [0, 1]: lower it, or take more steps"
        )
    return torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, 0)])


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


class Informed(Protocol):
    """A kernel family that can say how much of the data is left at a given noise level."""

    @property
    def num_states(self) -> int:
        """K."""

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats at each level (N,) under the unigram law (K,)."""


@dataclass(frozen=True)
class Erasure:
    """Every symbol is kept whole or lost whole: what is left is in proportion to what survives."""

    num_states: int

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        """Linear in the level, for any law."""
        return -torch.xlogy(frequencies, frequencies).sum() * alpha_bar


@dataclass(frozen=True, eq=False)
class MutualInformationSchedule(Schedule):
    r"""The noise level at which :math:`I(x_t; x_0) / H(x_0) = 1 - u` under the data's unigram law.

    The level is solved for in float64 by bracketed regula falsi (Illinois), all times at once. At
    K = 50,000, T = 1000 and a mixture kernel that takes seconds; for the absorbing kernel the answer is
    :math:`\bar\alpha = 1 - u`, that is :math:`\beta_t = 1/(T - t + 1)`.

    Args:
        frequencies: The unigram law over the K states of ``transition``, or over its data states only
            (an absorbing state may be left out). Normalised here.
        transition: Any kernel of the family; its own schedule and number of steps are not used.
        tolerance: Largest error allowed in :math:`I/H`.

    Raises:
        ConfigError: If the law does not fit the kernel, or has no uncertainty to destroy.

    References:
        Austin et al., 2021, appendix A.7.
    """

    frequencies: Tensor | Sequence[float]
    transition: Informed
    tolerance: float = 1e-11
    law: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not hasattr(self.transition, "information"):
            raise ConfigError(
                f"MutualInformationSchedule: {type(self.transition).__name__} cannot say how much of the data is "
                "left at a noise level: use an absorbing, uniform or marginal kernel"
            )
        law = torch.as_tensor(self.frequencies, dtype=torch.float64).flatten()
        object.__setattr__(self, "frequencies", law)
        states = self.transition.num_states
        if len(law) == states - 1:  # the mask is not data
            law = insert(law, getattr(self.transition, "mask_state", None), states)
        if len(law) != states:
            raise ConfigError(f"frequencies has {len(law)} entries: the transition has num_states={states}")
        if bool((law < 0).any()) or not float(law.sum()) > 0:
            raise ConfigError("frequencies must be non-negative and not all zero")
        if int((law > 0).sum()) < 2:
            raise ConfigError(
                "frequencies has one symbol only: its entropy is 0 and there is nothing to destroy"
            )
        object.__setattr__(self, "law", law / law.sum())

    @classmethod
    def example(cls) -> MutualInformationSchedule:
        """The simplest family: each symbol is kept or erased."""
        return cls(torch.tensor([0.5, 0.3, 0.2]), Erasure(num_states=3))

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class; cost O(K) a time and a trial, about ten trials."""
        device, u = u.device, torch.as_tensor(u, dtype=torch.float64).cpu()  # the law is there
        inside = (u > 0) & (u < 1)
        out = torch.where(u > 0, torch.zeros_like(u), torch.ones_like(u))
        if bool(inside.any()):
            out[inside] = self._solve(1 - u[inside])
        return out.to(device)

    def _solve(self, share: Tensor) -> Tensor:
        entropy = -torch.xlogy(self.law, self.law).sum()

        def excess(level: Tensor, wanted: Tensor) -> Tensor:
            return self.transition.information(level, self.law) / entropy - wanted

        low, high = torch.zeros_like(share), torch.ones_like(share)
        f_low, f_high = -share, 1 - share  # nothing is left at level 0, everything at level 1
        level, was_above = share.clone(), torch.zeros_like(share)
        for _ in range(200):
            f = excess(level, share)
            if float(f.detach().abs().max()) <= self.tolerance:
                break
            above = f > 0
            # Illinois: an end that stays put twice running has its value halved, so both ends close in.
            f_low = torch.where(above, torch.where(was_above > 0, f_low / 2, f_low), f)
            f_high = torch.where(above, f, torch.where(was_above < 0, f_high / 2, f_high))
            low, high = torch.where(above, low, level), torch.where(above, level, high)
            was_above = above.double() * 2 - 1
            level = (low * f_high - high * f_low) / (f_high - f_low)
        return level


def insert(law: Tensor, state: int | None, num_states: int) -> Tensor:
    """Give a law over the data states a zero at the absorbing state."""
    if state is None:
        return law
    return torch.cat([law[:state], law.new_zeros(1), law[state:]])[:num_states]
