"""Noise levels by what is left of the data at them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules.base import Schedule, check_steps, survival
from d3pm.specs import Part


class Informed(Protocol):
    """A kernel family that can say how much of the data is left at a given noise level."""

    @property
    def num_states(self) -> int:
        """K."""

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats at each level (N,) under the unigram law (K,)."""


@dataclass(frozen=True)
class Erasure(Part):
    """Every symbol is kept whole or lost whole: what is left is in proportion to what survives."""

    num_states: int

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        """Linear in the level, for any law."""
        return -torch.xlogy(frequencies, frequencies).sum() * alpha_bar


class Stepwise(Protocol):
    """A kernel whose steps have a strength each, and whose products are no function of one level."""

    @property
    def num_states(self) -> int:
        """K."""

    def at_beta(self, beta: Tensor) -> Any:
        r"""The steps of strength :math:`\beta` (N,), with their matrices in ``dense()``, (N, K, K)."""


@dataclass(frozen=True, eq=False)
class MutualInformationSchedule(Schedule):
    r"""The noise level at which :math:`I(x_t; x_0) / H(x_0) = 1 - u` under the data's unigram law.

    For a kernel that is a function of the level, it is solved for in float64 by bracketed regula falsi (Illinois), all
    times at once. At K = 50,000, T = 1000 and a mixture kernel that takes seconds; for the absorbing kernel the
    answer is :math:`\bar\alpha = 1 - u`, that is :math:`\beta_t = 1/(T - t + 1)`.

    For the discretized Gaussian and the band, whose steps each have a strength of their own, :math:`\beta_t` is
    solved for one step after the other, at O(K³) a trial and about ten trials a step: half a minute at K = 256,
    T = 1000. Where no allowed step takes enough, which is so at the end, the strongest one is taken.

    Args:
        frequencies: The unigram law over the K states of ``transition``, or over its data states only
            (an absorbing state may be left out). Normalised here.
        transition: The kernel; its own schedule and number of steps are not used.
        tolerance: Largest error allowed in :math:`I/H` as the kernel tells it (a nearest-neighbour kernel of more than
            256 states interpolates, to some 1e-4); at least 1e-7 for a kernel of steps.

    Raises:
        ConfigError: If the law does not fit the kernel, or has no uncertainty to destroy; from :meth:`alpha_bar`, if
            the kernel knows whole steps only.

    References:
        Austin et al., 2021, appendix A.7.
    """

    frequencies: Tensor | Sequence[float]
    transition: Informed | Stepwise
    tolerance: float = 1e-11
    law: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (hasattr(self.transition, "information") or hasattr(self.transition, "at_beta")):
            raise ConfigError(
                f"MutualInformationSchedule: {type(self.transition).__name__} cannot say how much of the data is "
                "left at a noise level: take another kernel, or give it a method information(alpha_bar, frequencies)"
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
        if not hasattr(self.transition, "information"):
            raise ConfigError(
                f"MutualInformationSchedule of {type(self.transition).__name__} has whole steps only: ask alpha_bars"
            )
        device, u = u.device, torch.as_tensor(u, dtype=torch.float64).cpu()  # the law is there
        inside = (u > 0) & (u < 1)
        out = torch.where(u > 0, torch.zeros_like(u), torch.ones_like(u))
        if bool(inside.any()):
            out[inside] = self._levels(1 - u[inside])
        return out.to(device)

    def alpha_bars(self, num_steps: int) -> Tensor:
        """See the base class."""
        if hasattr(self.transition, "information"):
            return super().alpha_bars(num_steps)
        check_steps(num_steps)
        return survival(self._strengths(num_steps))

    def betas(self, num_steps: int) -> Tensor:
        """See the base class; the strengths themselves, whose products may be too small for a ratio."""
        if hasattr(self.transition, "information"):
            return super().betas(num_steps)
        check_steps(num_steps)
        return self._strengths(num_steps)

    @property
    def _entropy(self) -> Tensor:
        return torch.special.entr(self.law).sum()

    def _levels(self, share: Tensor) -> Tensor:
        """The levels that leave these shares (N,) of the data."""

        def excess(level: Tensor) -> Tensor:
            return self.transition.information(level, self.law) / self._entropy - share  # type: ignore[union-attr]

        return illinois(excess, -share, 1 - share, self.tolerance)

    def _strengths(self, num_steps: int) -> Tensor:
        r""":math:`\beta_1 \ldots \beta_T`, each so that what is left falls by one T-th."""
        rows, betas = torch.diag(self.law)[self.law > 0], []  # q(x_0, x_t), of the x_0 that occur
        left = torch.ones(1, dtype=torch.float64)
        for t in range(1, num_steps + 1):
            beta = self._strength(rows, left - (1 - t / num_steps))
            rows = rows @ self.transition.at_beta(beta).dense()[0]  # type: ignore[union-attr]
            left = self._share(rows)
            betas.append(beta)
        return torch.cat(betas)

    def _strength(self, rows: Tensor, surplus: Tensor) -> Tensor:
        r""":math:`\beta` (1,) by which ``rows`` lose ``surplus``; sought for on a logarithmic scale."""
        target = self._share(rows) - surplus

        def beta_at(place: Tensor) -> Tensor:
            return STRONGEST * torch.exp(place * math.log(WEAKEST / STRONGEST))

        def excess(place: Tensor) -> Tensor:
            step = self.transition.at_beta(beta_at(place)).dense()[0]  # type: ignore[union-attr]
            return self._share(rows @ step) - target

        least, most = excess(torch.zeros(1).double()), excess(torch.ones(1).double())
        if (
            float(least) >= 0 or float(most) <= 0
        ):  # even the strongest takes too little, or the weakest too much
            return beta_at((least < 0).double())
        return beta_at(illinois(excess, least, most, max(self.tolerance, 1e-7)))

    def _share(self, joint: Tensor) -> Tensor:
        """I/H of a joint law :math:`q(x_0, x_t)`, (1,)."""
        entropy = torch.special.entr
        parts = entropy(joint.sum(1)).sum() + entropy(joint.sum(0)).sum() - entropy(joint).sum()
        return (parts / self._entropy).view(1)


STRONGEST, WEAKEST = 0.999, 1e-7
"""Steps that are tried: the strongest is where the cosine schedules are clipped too."""


def illinois(excess: Callable[[Tensor], Tensor], f_low: Tensor, f_high: Tensor, tolerance: float) -> Tensor:
    """Where rising functions on [0, 1] with values f_low < 0 < f_high at its ends are zero, (N,).

    References:
        Dowell and Jarratt, *A modified regula falsi method for computing the root of an equation*, 1971.
    """
    low, high = torch.zeros_like(f_low), torch.ones_like(f_low)
    x, was_above = f_low / (f_low - f_high), torch.zeros_like(f_low)
    for _ in range(200):
        f = excess(x)
        if float(f.detach().abs().max()) <= tolerance:
            break
        above = f > 0
        # An end that stays put twice running has its value halved, so both ends close in.
        f_low = torch.where(above, torch.where(was_above > 0, f_low / 2, f_low), f)
        f_high = torch.where(above, f, torch.where(was_above < 0, f_high / 2, f_high))
        low, high = torch.where(above, low, x), torch.where(above, x, high)
        was_above = above.double() * 2 - 1
        x = (low * f_high - high * f_low) / (f_high - f_low)
    return x


def insert(law: Tensor, state: int | None, num_states: int) -> Tensor:
    """Give a law over the data states a zero at the absorbing state."""
    if state is None:
        return law
    return torch.cat([law[:state], law.new_zeros(1), law[state:]])[:num_states]
