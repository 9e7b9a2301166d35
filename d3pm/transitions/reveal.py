r"""Laws of the absorbing kernel: an entry that may move goes to its target with one rate, or stays.

.. math:: P = r\, T + (1 - r)\, \delta_{\text{anchor}} \quad \text{where free, else } \delta_{\text{anchor}}

The target never has mass on the anchor of a free entry, so every divergence splits into a rate part and a
target part, and nothing is ever summed over K beyond normalising the belief.
"""

from __future__ import annotations

import torch
from torch import Tensor

from d3pm.cached import cached_property
from d3pm.distributions import Categorical, Distribution, safe_log, uniforms
from d3pm.transitions.belief import Belief, certainly
from d3pm.transitions.laws import PointLaw
from d3pm.transitions.operators import same_tensors


class Reveal(Categorical):
    """Move from the mask to the target at ``rate``; elsewhere stay at the anchor.

    Args:
        law: The point law of the mask; it belongs to one kernel.
        anchor: Where an entry is, int64 (B, \\*).
        rate: r, float64, broadcastable to (B, \\*).
        target: The states moved to (B, \\*), or the belief in them.
        times: s and t of a posterior or a reverse step.
    """

    def __init__(
        self,
        law: PointLaw,
        anchor: Tensor,
        rate: Tensor,
        target: Tensor | Belief,
        times: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.times = times
        self.law, self.anchor, self.rate, self.target = law, anchor, rate, target
        self.dtype = target.dtype if isinstance(target, Belief) else rate.dtype

    @property
    def belief(self) -> Belief | None:
        """What is believed of the target, where it is not known."""
        return self.target if isinstance(self.target, Belief) else None

    @cached_property
    def free(self) -> Tensor:
        """Which entries may move: those at the mask that have somewhere else to go, bool (B, \\*)."""
        masked = self.anchor == self.law.state
        return masked if isinstance(self.target, Belief) else masked & (self.target != self.law.state)

    def _log_target(self, x: Tensor) -> Tensor:
        if isinstance(self.target, Belief):
            return self.target.log_prob(x)
        return certainly(x, self.target, self.dtype)

    @cached_property
    def log_probs(self) -> Tensor:
        """Dense (B, \\*, K), for looking at and for the slow twin."""
        rate = (self.rate * self.free).to(self.dtype)
        if isinstance(self.target, Belief):
            targets = self.target.log_probs
        else:
            shape = (*self.anchor.shape, self.law.num_states)
            targets = torch.full(shape, -torch.inf, dtype=self.dtype, device=self.anchor.device)
            targets = targets.scatter_(-1, self.target.unsqueeze(-1), 0.0)
        moved = safe_log(rate).unsqueeze(-1) + targets
        return moved.scatter(-1, self.anchor.unsqueeze(-1), safe_log(1 - rate).unsqueeze(-1))

    def log_prob(self, x: Tensor) -> Tensor:
        """See the base class; one pass over K under a belief, O(1) otherwise."""
        rate = self.rate * self.free
        moved = safe_log(rate) + self._log_target(x)
        return torch.where(x == self.anchor, safe_log(1 - rate), moved).to(self.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Two stages: reveal or not, then a state of the target; exact for the rarest token."""
        moves = (uniforms(self.anchor.shape, self.anchor.device, generator) < self.rate) & self.free
        if isinstance(self.target, Belief):
            return self.target.sample_where(moves, self.anchor, generator)
        return torch.where(moves, self.target, self.anchor)

    def kl(self, other: Distribution) -> Tensor:
        """See the base class; the target part is ``rate`` times the surprise at the target."""
        if not isinstance(other, Reveal) or isinstance(self.target, Belief):
            return super().kl(other)
        if not same_tensors((self.anchor,), (other.anchor,)):
            return super().kl(other)
        # Between a posterior and its own reverse step the rates are one, and only what is revealed can differ.
        if (
            isinstance(other.target, Belief)
            and other.law is self.law
            and same_tensors(self.times, other.times)
        ):
            return self.rate.to(other.dtype) * other.target.surprise(self.target)
        r, q = self.rate * self.free, other.rate * other.free
        rates = torch.xlogy(r, r) - torch.xlogy(r, q) + torch.xlogy(1 - r, 1 - r) - torch.xlogy(1 - r, 1 - q)
        surprise = torch.where(r > 0, r * -other._log_target(self.target), 0.0)
        return (rates + surprise).to(other.dtype)
