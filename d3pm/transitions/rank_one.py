r"""Kernels :math:`Q_t = (1 - \beta_t) I + \beta_t \mathbf 1 \pi^\top`: keep a token or draw it afresh from :math:`\pi`.

Their laws are blends of three parts: a target (the data, or the belief in it), the background :math:`\pi`,
and a spike at :math:`x_t`. No (K, K) and, but for the belief, no (B, \*, K) tensor is ever made.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial

import torch
from torch import Tensor

from d3pm.distributions import safe_divide
from d3pm.schedules import Schedule, betas_from
from d3pm.tables import Table
from d3pm.transitions.base import ReverseForm, Transition
from d3pm.transitions.belief import Belief
from d3pm.transitions.blend import BeliefBlend, Blend, Bridge, Weights
from d3pm.transitions.divergence import Step, divergence
from d3pm.transitions.laws import Law
from d3pm.transitions.operators import RankOneOperator, expand


class RankOneTransition(Transition):
    r"""A rank-one kernel; subclasses choose the law :math:`\pi`.

    .. math::
        Q_{s+1} \cdots Q_t = \alpha_{t|s}\, I + (1 - \alpha_{t|s})\, \mathbf 1 \pi^\top, \qquad
        \alpha_{t|s} = \bar\alpha_t / \bar\alpha_s

    Storage O(K + T), corruption O(1) a token, posterior O(1), reverse and divergences O(K).
    """

    entrywise = True

    @abstractmethod
    def __init__(self, law: Law, num_steps: int, schedule: Schedule) -> None:
        self.law = law
        self.num_states = law.num_states
        self.num_steps = num_steps
        self.schedule = schedule
        self.alpha_bars = Table(schedule.alpha_bars(num_steps))

    def keep(self, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`\alpha_{t|s}`, the chance to be left alone from s to t, float64 (B,)."""
        before, after = self.alpha_bars[s], self.alpha_bars[t]
        return torch.where(s == t, 1.0, safe_divide(after, before))

    def between(self, s: Tensor, t: Tensor) -> RankOneOperator:
        """See the base class; O(B)."""
        return RankOneOperator(self.keep(s, t), self.law)

    def reachable(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class; O(1) an entry."""
        alpha_bar = expand(self.alpha_bars[t], x0)
        kept, lost = alpha_bar > 0, alpha_bar < 1
        return ((x_t == x0) & kept) | (self.law.occurs(x_t) & lost)

    def stationary(self) -> Tensor:
        r""":math:`\pi`."""
        return self.law.probs(torch.device("cpu"))

    def betas(self) -> Tensor:
        r""":math:`\beta_1 \ldots \beta_T`, float64 (T,)."""
        return betas_from(self.alpha_bars.values)

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats at noise levels (N,) under the unigram law (K,), in closed form.

        Tokens with equal :math:`(p, \pi)` are summed once; cost O(N K') for K' distinct pairs.
        """
        pairs, counts = torch.stack([frequencies, self.stationary()]).unique(dim=1, return_counts=True)
        p, law = pairs
        rows = max(1, 2**22 // len(p))
        parts = [_information(a.unsqueeze(-1), p, law, counts.double()) for a in alpha_bar.split(rows)]
        return torch.cat(parts)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> Blend:
        """See the base class; O(1)."""
        one = torch.ones((1,) * len(shape), dtype=torch.float64, device=device)
        return Blend(self.law, shape, background=one)

    def marginal(self, x0: Tensor, t: Tensor) -> Blend:
        """See the base class; O(1) an entry."""
        keep = expand(self.alpha_bars[t], x0)
        return Blend(self.law, x0.shape, background=1 - keep, target=x0, weight=keep)

    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Bridge:
        r"""See the base class; O(1) an entry.

        Expands :math:`(\bar\alpha_s e_{x_0} + (1-\bar\alpha_s)\pi)_j\,(\alpha e_j + (1-\alpha)\pi)_{x_t}`.
        """
        return Bridge(self.law, x0, x_t, (s, t), partial(self._bridge_weights, x0, x_t, s, t))

    def _bridge_weights(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Weights:
        signal, alpha = expand(self.alpha_bars[s], x0), expand(self.keep(s, t), x0)
        fresh, same = self.law.at(x_t), x0 == x_t
        evidence = signal * alpha * same + (1 - signal * alpha) * fresh
        a = signal * ((1 - alpha) * fresh + alpha * same) / evidence
        b = (1 - signal) * (1 - alpha) * fresh / evidence
        return a, b, (1 - signal) * alpha * fresh / evidence

    def belief(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Belief:
        """See the base class."""
        return Belief(logits, x_t, known=self.known(x_t, t))

    def known(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Where no token can have been drawn afresh as :math:`x_t`, which then is the data, bool (B, \*)."""
        return self.untouched(x_t, expand(self.alpha_bars[t], x_t))

    def untouched(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        r"""The same at a signal :math:`\bar\alpha`, broadcastable to (B, \*)."""
        return ((1 - alpha_bar) * self.law.at(x_t) == 0).expand_as(x_t)

    def reverse(self, logits: Tensor, x_t: Tensor, s: Tensor, t: Tensor, form: ReverseForm) -> BeliefBlend:
        """See the base class; the blend's weights cost O(1) an entry once the belief in x_t is known."""
        known = self.known(x_t, t)
        belief = Belief(logits, x_t, known=known)
        signal, alpha = expand(self.alpha_bars[s], x_t), expand(self.keep(s, t), x_t)
        fresh, at_data = self.law.at(x_t), expand(s, x_t) == 0
        numbers = (signal, alpha, fresh, at_data)
        if form == "mixture":
            return BeliefBlend(self.law, belief, partial(_mixture_weights, *numbers), (s, t))
        fast = partial(divergence, Step(self.law, x_t, signal, alpha, at_data), belief)
        return BeliefBlend(self.law, belief, partial(_d3pm_weights, *numbers), (s, t), fast)


def _d3pm_weights(signal: Tensor, alpha: Tensor, fresh: Tensor, at_data: Tensor, belief_t: Tensor) -> Weights:
    r""":math:`(\alpha e_i + (1-\alpha)\pi_i)_j\, (\bar\alpha_s \tilde p + (1-\bar\alpha_s)\pi)_j`; i = x_t."""
    evidence = signal * alpha * belief_t + (1 - signal * alpha) * fresh
    a = (1 - alpha) * fresh * signal / evidence
    b = (1 - alpha) * fresh * (1 - signal) / evidence
    c = alpha * (signal * belief_t + (1 - signal) * fresh) / evidence
    return torch.where(at_data, 1.0, a), torch.where(at_data, 0.0, b), torch.where(at_data, 0.0, c)


def _mixture_weights(
    signal: Tensor, alpha: Tensor, fresh: Tensor, at_data: Tensor, belief_t: Tensor
) -> Weights:
    r"""Average the posterior's weights over the belief: one case if :math:`x_0 = x_t`, one for all other states."""
    lost = 1 - signal * alpha
    other = safe_divide(1.0, lost)  # 1 / q(x_t | x_0 != x_t), times pi
    same = 1 / (signal * alpha + lost * fresh)
    a = signal * (1 - alpha) * other
    b = (1 - signal) * (1 - alpha) * ((1 - belief_t) * other + belief_t * fresh * same)
    stay = signal * alpha + signal * (1 - alpha) * fresh + (1 - signal) * alpha * fresh
    c = (1 - belief_t) * (1 - signal) * alpha * other + belief_t * (stay * same - a)
    return torch.where(at_data, 1.0, a), torch.where(at_data, 0.0, b), torch.where(at_data, 0.0, c)


def _information(a: Tensor, p: Tensor, law: Tensor, counts: Tensor) -> Tensor:
    """Entropy of x_t minus its entropy given x_0, (N, 1) levels against K' distinct (p, pi) pairs."""
    mixed = a * p + (1 - a) * law
    stays, jumps = a + (1 - a) * law, (1 - a) * law
    given = torch.xlogy(jumps, jumps) + p * (torch.xlogy(stays, stays) - torch.xlogy(jumps, jumps))
    return ((given - torch.xlogy(mixed, mixed)) @ counts).clamp(min=0)
