r"""Laws of a rank-one kernel: a target, a background and a spike.

.. math:: P_j = a\, T_j + b\, \pi_j + c\, [j = x_t]

The target T is the data (a point) or the belief :math:`\tilde p` in it. Prior, marginal and posterior are known
by three numbers an entry; the reverse step adds the belief.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d3pm.cached import cached_property
from d3pm.distributions import Categorical, Distribution, log_add, safe_log, uniforms
from d3pm.transitions.belief import Belief
from d3pm.transitions.laws import Law
from d3pm.transitions.operators import same_tensors

Weights = tuple[Tensor, Tensor, Tensor]


class Blend(Categorical):
    """A blend whose target, if any, is a known state. All of it O(1) an entry.

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
        """See the base class; O(1) an entry from a marginal to the prior, dense otherwise."""
        marginal = self.target is not None and self.x_t is None
        if not (marginal and type(other) is Blend and other.law is self.law and other.target is None):
            return super().kl(other)
        a, b, _ = self.weights
        pi = self.law.at(self.target)  # type: ignore[arg-type]
        here = a + b * pi
        gain = torch.where(here > 0, safe_log(here) - safe_log(pi), 0.0)
        return (torch.xlogy(b, b) * (1 - pi) + here * gain).expand(self.shape)


class Bridge(Blend):
    r"""A posterior :math:`q(x_s | x_t, x_0)`; it remembers its times, and so knows its own reverse step.

    Args:
        law: The background's law.
        x0: The target.
        x_t: Where the spike stands.
        times: s and t.
        solve: Gives the weights (a, b, c); called when they are first asked for, which the bound never does.
    """

    def __init__(
        self, law: Law, x0: Tensor, x_t: Tensor, times: tuple[Tensor, Tensor], solve: Callable[[], Weights]
    ) -> None:
        self.law, self.target, self.x_t, self.times, self.solve = law, x0, x_t, times, solve
        self.shape = x0.shape

    @cached_property
    def weights(self) -> Weights:  # type: ignore[override]
        """(a, b, c), float64."""
        return self.solve()

    def kl(self, other: Distribution) -> Tensor:
        """See the base class; one pass over K against the reverse step of the same times, where it has one."""
        # A law belongs to one kernel, so equal laws and times mean the same step.
        if isinstance(other, BeliefBlend) and other.law is self.law and other.divergence is not None:
            assert self.x_t is not None
            assert self.target is not None
            if same_tensors((*self.times, self.x_t), (*other.times, other.x_t)):
                return other.divergence(self.target)
        return super().kl(other)


class BeliefBlend(Blend):
    r"""A blend whose target is the network's belief: the reverse step.

    Its weights depend on the belief in :math:`x_t`, so they are worked out once that is known.

    Args:
        law: The background's law.
        belief: :math:`\tilde p`.
        solve: From :math:`\tilde p_{x_t}` (float64) to the weights (a, b, c).
        times: s and t.
        divergence: From :math:`x_0` to the KL of the posterior of the same times to this law, if there is a
            fast one.
    """

    def __init__(
        self,
        law: Law,
        belief: Belief,
        solve: Callable[[Tensor], Weights],
        times: tuple[Tensor, Tensor],
        divergence: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.law, self.belief, self.solve, self.times, self.divergence = law, belief, solve, times, divergence
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
        dtype = self.belief.dtype
        a, b, c = (w.expand(self.shape).unsqueeze(-1).to(dtype) for w in self.weights)
        rest = (b * self.law.probs(b.device).to(dtype)).scatter_add(-1, self.x_t.unsqueeze(-1), c)
        return log_add(safe_log(a) + self.belief.log_probs, safe_log(rest).expand_as(self.belief.log_probs))

    def log_prob(self, x: Tensor) -> Tensor:
        """See the base class; one pass over K."""
        a, b, c = self.weights
        rest = (b * self.law.at(x) + c * (x == self.x_t)).expand(self.shape)
        return log_add(safe_log(a) + self.belief.log_prob(x), safe_log(rest)).to(self.belief.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """First which part, then a state of it; the belief is normalised only where it is drawn from."""
        a, b, _ = self.weights
        u = uniforms(self.shape, self.x_t.device, generator)
        x = torch.where(u < a + b, self.law.sample(self.shape, self.x_t.device, generator), self.x_t)
        return self.belief.sample_where(u < a, x, generator)
