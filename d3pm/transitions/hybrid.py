"""Mask and uniform noise in one kernel, in a mixture that changes with time."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.schedules import ReciprocalSchedule, Schedule
from d3pm.tables import Table
from d3pm.transitions.base import Transition
from d3pm.transitions.moving import MovingOperator


class HybridTransition(Transition):
    r"""GIDD's kernel: tokens are masked, and on the way some are replaced by others, to be corrected later.

    .. math::
        q(x_t | x_0) = \bar\alpha_t\, e_{x_0} + (1 - \bar\alpha_t)\, \pi_t, \qquad
        (\bar\alpha_t,\; (1 - \bar\alpha_t) \pi_t) = \tfrac{1}{1 + c_t} (a_t,\; (1 - a_t) e_m + c_t\, \nu), \qquad
        c_t = B\, (a_t (1 - a_t))^{\gamma / 2}

    with :math:`a_t` the base schedule's level, m the mask and :math:`\nu` uniform over the other states. The
    uniform share :math:`c_t / (1 + c_t)` is 0 at both ends and largest, :math:`p_u`, at :math:`a_t = 1/2`, so
    :math:`B = 2^\gamma p_u / (1 - p_u)`. A network trained so sees wrong tokens that are not marked as noise.

    No single law stays under every step: ``stationary`` is that of :math:`x_T`, all mask if the schedule ends in
    0. Storage O(T), corruption O(1) a token; the posterior and the reverse step by Bayes' rule, O(K) an entry.

    Args:
        num_states: K, the mask included, at least 2.
        num_steps: T, at least 1.
        schedule: :math:`a`, the chance to survive but for the uniform noise; :math:`1 - t/T`, as in GIDD, by default.
        uniform: :math:`p_u`, in [0, 1); with 0 this is :class:`AbsorbingTransition`.
        gamma: :math:`\gamma > 0`; a larger one keeps the uniform noise closer to the middle. Above 2 it would
            have to fade faster than tokens are masked.
        mask_index: Which state is the mask; counted from the end if negative.

    Raises:
        ConfigError: If a number is outside its range, or some step would need a chance below 0 (the message
            names t).

    References:
        von Rütte et al., *Generalized Interpolating Discrete Diffusion*, 2025 (arXiv 2503.04482), sections 3 and 4.

    >>> kernel = HybridTransition(num_states=4, num_steps=10, uniform=0.2)
    >>> kernel.between(torch.tensor([0]), torch.tensor([5])).rows(torch.tensor([[0]]))
    tensor([[[0.4667, 0.0667, 0.0667, 0.4000]]], dtype=torch.float64)
    >>> kernel.mask_state, kernel.absorbing_state
    (3, None)
    """

    entrywise = True

    moving: ClassVar[bool] = True

    def __init__(
        self,
        num_states: int,
        num_steps: int,
        schedule: Schedule | None = None,
        uniform: float = 0.2,
        gamma: float = 1.0,
        mask_index: int = -1,
    ) -> None:
        self.num_states, self.num_steps = num_states, num_steps
        self.schedule = schedule or ReciprocalSchedule()
        self.uniform, self.gamma, self.mask_index = uniform, gamma, mask_index
        self._check()
        self.mask = mask_index % num_states
        self._levels = Table(self.schedule.alpha_bars(num_steps))
        self._odds = Table(self._odds_at(self._levels.values))
        self._check_steps()

    def between(self, s: Tensor, t: Tensor) -> MovingOperator:
        r"""See the base class; O(B).

        What is redrawn is a difference of two nearly equal numbers, :math:`c_t - (a_t/a_s) c_s`; as
        :math:`(a_t/a_s)\, c_s\, (e^g - 1)` with the growth g from small differences it keeps all its digits.
        """
        before, after, odds = self._levels[s], self._levels[t], self._odds[t]
        left = torch.where(s == t, 1.0, safe_divide(after, before))
        total = 1 + odds
        carried = left * self._odds[s]
        grown = torch.where(before < 1, carried * torch.expm1(self._growth(before, after)), odds)
        redrawn = torch.where((after > 0) & (s < t), grown, 0.0)
        masked = safe_divide(before - after, before) + (before == 0) * (s < t)
        keep = left * (1 + self._odds[s]) / total
        return MovingOperator(keep, masked / total, redrawn / total, self.num_states, self.mask)

    def stationary(self) -> Tensor:
        """The law of a token that was noised by time T, of which there is no other if the schedule ends in 0."""
        level, odds = float(self._levels.values[-1]), float(self._odds.values[-1])
        law = torch.full((self.num_states,), odds / (self.num_states - 1), dtype=torch.float64)
        law[self.mask] = 1 - level
        return law / (1 - level + odds)

    @cached_property
    def absorbing_state(self) -> int | None:
        """The mask if there is no uniform noise; otherwise a masked token may become another one."""
        return self.mask if self.uniform == 0 else None

    @property
    def mask_state(self) -> int:
        """The mask."""
        return self.mask

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats where the base schedule's level is ``alpha_bar`` (N,), in closed form.

        Args:
            alpha_bar: Levels a of the schedule given to the constructor, not the smaller a / (1 + c).
            frequencies: The unigram law (K,), 0 at the mask. Tokens of equal frequency are summed once.
        """
        data = torch.arange(self.num_states) != self.mask
        p, counts = frequencies[data].unique(return_counts=True)
        rows = max(1, 2**22 // len(p))
        parts = [self._information(a.unsqueeze(-1), p) @ counts.double() for a in alpha_bar.split(rows)]
        return torch.cat(parts).clamp(min=0)

    def _information(self, a: Tensor, p: Tensor) -> Tensor:
        """Every token's part, (N, K'): being masked tells nothing, so only the other states count."""
        odds = self._odds_at(a)
        keep, other = a / (1 + odds), odds / (1 + odds) / (self.num_states - 1)
        given = p * torch.xlogy(keep + other, keep + other) + (1 - p) * torch.xlogy(other, other)
        mixed = keep * p + other
        return given - torch.xlogy(mixed, mixed)

    def _odds_at(self, a: Tensor) -> Tensor:
        """The odds c of uniform noise at levels a."""
        peak = 2**self.gamma * self.uniform / (1 - self.uniform)
        return peak * (a * (1 - a)) ** (self.gamma / 2)

    def _growth(self, before: Tensor, after: Tensor) -> Tensor:
        r""":math:`\log (c_t / c_s) - \log (a_t / a_s)`, not below 0 for gamma up to 2."""
        fallen, left = (before - after).clamp(min=0), safe_divide(after, before)
        kept = torch.where(left > 0.5, torch.log1p(-safe_divide(fallen, before).clamp(max=0.5)), left.log())
        noised = torch.log1p(safe_divide(fallen, 1 - before))
        return (self.gamma / 2 - 1) * kept + self.gamma / 2 * noised

    def _check(self) -> None:
        if self.num_states < 2:
            raise ConfigError(
                f"num_states is {self.num_states}: mask diffusion needs the mask and at least 1 symbol"
            )
        if not -self.num_states <= self.mask_index < self.num_states:
            raise ConfigError(
                f"mask_index is {self.mask_index}: choose one of {-self.num_states} .. {self.num_states - 1}"
            )
        if not 0 <= self.uniform < 1:
            raise ConfigError(f"uniform is {self.uniform}: choose the share of uniform noise in [0, 1)")
        if not 0 < self.gamma < float("inf"):
            raise ConfigError(f"gamma is {self.gamma}: choose it above 0, 1 as in GIDD")

    def _check_steps(self) -> None:
        """Products of steps that are laws are laws, so single steps are enough."""
        t = torch.arange(1, self.num_steps + 1)
        bad = (self.between(t - 1, t).redrawn < 0).nonzero().flatten()
        if len(bad):
            raise ConfigError(
                f"gamma is {self.gamma}: the step to t={int(bad[0]) + 1} would redraw a token with a chance below 0, "
                "since uniform noise fades faster than tokens are masked: lower gamma to 2 or less"
            )
