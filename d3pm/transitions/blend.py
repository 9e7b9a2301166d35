r"""Laws of a rank-one kernel: a target, a background and a spike.

.. math:: P_j = a\, T_j + b\, \pi_j + c\, [j = x_t]

The target T is the data (a point) or the belief :math:`\tilde p` in it. Every law of a rank-one kernel has
this shape, so a divergence between two of them is a few numbers an entry and one sum over K.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from d3pm.distributions import Categorical, Distribution, safe_log, uniforms
from d3pm.transitions.belief import Belief
from d3pm.transitions.laws import Law, UniformLaw

Weights = tuple[Tensor, Tensor, Tensor]


class Against(NamedTuple):
    """What a divergence asks of the law on its right, per entry."""

    log_r0: Tensor  # its log-probability of x_0
    log_rt: Tensor  # and of x_t
    background: Tensor  # its b
    lift: Tensor  # sum_j pi_j log(1 + rho p_j / pi_j), rho = a / b
    lift_0: Tensor  # the same summand at x_0, without pi
    lift_t: Tensor  # and at x_t


class Blend(Categorical):
    """A blend whose target, if any, is a known state: prior, marginal, posterior. All of it O(1) an entry.

    Args:
        law: The background's law.
        shape: Of the entries (B, \\*).
        background: b, float64, broadcastable to ``shape``.
        target: The state T points at, int64 ``shape``.
        weight: a.
        spike: c.
        x_t: Where the spike stands.
    """

    def __init__(
        self,
        law: Law,
        shape: tuple[int, ...],
        background: Tensor,
        target: Tensor | None = None,
        weight: Tensor | None = None,
        spike: Tensor | None = None,
        x_t: Tensor | None = None,
    ) -> None:
        self.law, self.shape = law, torch.Size(shape)
        zero = torch.zeros_like(background)
        self.target, self.x_t = target, x_t
        self.weights: Weights = (
            zero if weight is None else weight,
            background,
            zero if spike is None else spike,
        )

    @cached_property
    def log_probs(self) -> Tensor:
        """Dense (B, \\*, K), for looking at and for the slow twin."""
        a, b, c = (w.expand(self.shape).unsqueeze(-1) for w in self.weights)
        probs = b * self.law.probs(b.device)
        for weight, state in ((a, self.target), (c, self.x_t)):
            if state is not None:
                probs = probs.scatter_add(-1, state.unsqueeze(-1), weight)
        return safe_log(probs)

    def log_prob(self, x: Tensor) -> Tensor:
        """See the base class; O(1) an entry."""
        a, b, c = self.weights
        p = b * self.law.at(x)
        if self.target is not None:
            p = p + a * (x == self.target)
        if self.x_t is not None:
            p = p + c * (x == self.x_t)
        return safe_log(p.expand(self.shape))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """First which part, then the state from that part: O(1) an entry."""
        a, b, _ = self.weights
        u = uniforms(self.shape, b.device, generator)
        x = self.law.sample(self.shape, b.device, generator)
        if self.x_t is not None:
            x = torch.where(u < a + b, x, self.x_t)
        return x if self.target is None else torch.where(u < a, self.target, x)

    def kl(self, other: Distribution) -> Tensor:
        """See the base class; one sum over K if the other law holds a belief, O(1) otherwise."""
        if not isinstance(other, Blend) or other.law is not self.law or self.target is None:
            return super().kl(other)
        x_0, x_t = self.target, self.target if self.x_t is None else self.x_t
        if other.x_t is not None and other.x_t is not x_t:
            return super().kl(other)
        a, b, c = self.weights
        spread = b > 0
        right = other.against(x_0, x_t, spread)
        pi_0, pi_t, apart = self.law.at(x_0), self.law.at(x_t), x_0 != x_t

        # Write P_j log(P_j / R_j) as if there were no spikes, then put right what is different at x_0 and x_t.
        level = torch.where(spread, torch.where(spread, b, 1.0).log() - right.background.log(), 0.0)
        p_0 = a + b * pi_0 + c * ~apart
        p_t = torch.where(apart, c + b * pi_t, p_0)
        f_0 = torch.where(p_0 > 0, safe_log(p_0) - right.log_r0, 0.0)
        f_t = torch.where(p_t > 0, safe_log(p_t) - right.log_rt, 0.0)
        smooth = level - right.lift - pi_t * (level - right.lift_t) - apart * pi_0 * (level - right.lift_0)
        return (torch.where(spread, b * smooth, 0.0) + p_t * f_t + apart * p_0 * f_0).to(right.lift.dtype)

    def against(self, x_0: Tensor, x_t: Tensor, spread: Tensor) -> Against:
        """Serve as the right-hand side of a divergence."""
        if self.target is not None:
            raise NotImplementedError("a divergence to a law with another known target")
        _, b, _ = self.weights
        zero = torch.zeros_like(b)
        return Against(self.log_prob(x_0), self.log_prob(x_t), b, zero, zero, zero)


class BeliefBlend(Blend):
    r"""A blend whose target is the network's belief: the reverse step.

    Its weights depend on the belief in :math:`x_t`, so they are worked out once that is known.

    Args:
        law: The background's law.
        belief: :math:`\tilde p`.
        solve: From :math:`\tilde p_{x_t}` (float64) to the weights (a, b, c).
        ratio: a / b where it does not depend on the belief; saves a pass over K.
    """

    def __init__(
        self, law: Law, belief: Belief, solve: Callable[[Tensor], Weights], ratio: Tensor | None = None
    ) -> None:
        self.law, self.belief, self.solve, self.ratio = law, belief, solve, ratio
        self.x_t: Tensor = belief.x_t
        self.shape = belief.x_t.shape
        self.target = None

    @cached_property
    def weights(self) -> Weights:  # type: ignore[override]
        """(a, b, c), float64."""
        return self.solve(self.belief.log_prob(self.x_t).double().exp())

    @cached_property
    def log_probs(self) -> Tensor:
        """Dense (B, \\*, K)."""
        a, b, c = (w.expand(self.shape).unsqueeze(-1) for w in self.weights)
        rest = (b * self.law.probs(b.device)).scatter_add(-1, self.x_t.unsqueeze(-1), c)
        return torch.logaddexp(safe_log(a) + self.belief.log_probs, safe_log(rest)).to(self.belief.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """See the base class; one pass over K."""
        return self._log_at(x, self.belief.log_prob(x), self.weights).to(self.belief.dtype)

    def _log_at(self, x: Tensor, log_belief: Tensor, weights: Weights) -> Tensor:
        a, b, c = weights
        rest = b * self.law.at(x) + c * (x == self.x_t)
        return torch.logaddexp(safe_log(a) + log_belief, safe_log(rest))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """First which part, then a state of it; the belief is normalised only where it is drawn from."""
        a, b, _ = self.weights
        u = uniforms(self.shape, self.x_t.device, generator)
        x = torch.where(u < a + b, self.law.sample(self.shape, self.x_t.device, generator), self.x_t)
        return self.belief.sample_where(u < a, x, generator)

    def against(self, x_0: Tensor, x_t: Tensor, spread: Tensor) -> Against:
        """Serve as the right-hand side of a divergence: one pass over K if ``ratio`` is known, else two."""
        ratio = self.ratio
        if ratio is None:
            a, b, _ = self.weights
            ratio = a / torch.where(spread, b, 1.0)
        ratio = torch.where(spread, ratio, 0.0).expand(self.shape)
        device = x_t.device
        uniform = isinstance(self.law, UniformLaw)
        law = self.law.at(x_t).flatten()[:1] if uniform else self.law.probs(device)
        log_0, log_t, lift = self.belief.log_prob_pair_and_lift(x_0, x_t, ratio, law)
        weights = self.solve(log_t.double().exp())

        def lift_at(x: Tensor, log_belief: Tensor) -> Tensor:
            pi = self.law.at(x)
            return torch.log1p(torch.where(pi > 0, ratio * log_belief.exp() / torch.where(pi > 0, pi, 1.0), 0.0))

        return Against(
            self._log_at(x_0, log_0, weights),
            self._log_at(x_t, log_t, weights),
            torch.where(spread, weights[1], 1.0),
            lift,
            lift_at(x_0, log_0),
            lift_at(x_t, log_t),
        )
