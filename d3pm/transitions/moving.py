"""One step towards noise that moves between a mask and a uniform law: three numbers a batch element."""

from __future__ import annotations

import torch
from torch import Tensor

from d3pm.distributions import uniforms
from d3pm.transitions.operators import Operator, expand


class MovingOperator(Operator):
    r""":math:`k I + m\, \mathbf 1 e_M^\top + u\, \mathbf 1 \nu^\top`, each batch element with its own k + m + u = 1.

    A state is kept with chance k, masked with chance m, else drawn afresh from :math:`\nu`, uniform over the
    K - 1 states that are not the mask M. Products stay in the family; ``rows``, ``cols`` and ``apply`` cost O(K)
    an entry, ``at`` and ``sample`` O(1).

    Args:
        keep: k, float64 (B,).
        masked: m, float64 (B,).
        redrawn: u, float64 (B,).
        num_states: K, the mask included.
        mask: M.
    """

    def __init__(self, keep: Tensor, masked: Tensor, redrawn: Tensor, num_states: int, mask: int) -> None:
        self.keep, self.masked, self.redrawn = keep, masked, redrawn
        self.num_states, self.mask = num_states, mask

    def _noise_at(self, y: Tensor) -> Tensor:
        """What y gains from any state, float64 of the shape of y."""
        each = self.redrawn / (self.num_states - 1)
        return torch.where(y == self.mask, expand(self.masked, y), expand(each, y))

    def _noise(self, dim: int) -> Tensor:
        """The same for all states, (B, 1, ..., K) with ``dim`` axes."""
        states = torch.arange(self.num_states, device=self.keep.device)
        noise = self._noise_at(states.expand(len(self.keep), -1))
        return noise.view(len(noise), *[1] * (dim - 2), -1)

    def rows(self, x: Tensor) -> Tensor:
        """See the base class."""
        out = self._noise(x.dim() + 1).expand(*x.shape, -1).clone()
        return out.scatter_add_(-1, x.unsqueeze(-1), expand(self.keep, x).expand_as(x).unsqueeze(-1))

    def cols(self, x: Tensor) -> Tensor:
        """See the base class."""
        out = self._noise_at(x).unsqueeze(-1).expand(*x.shape, self.num_states).clone()
        return out.scatter_add_(-1, x.unsqueeze(-1), expand(self.keep, x).expand_as(x).unsqueeze(-1))

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """See the base class; O(1)."""
        return expand(self.keep, x) * (x == y) + self._noise_at(y)

    def apply(self, p: Tensor) -> Tensor:
        """See the base class."""
        noise = self._noise(p.dim()).to(p.dtype)
        return expand(self.keep, p).to(p.dtype) * p + p.sum(-1, keepdim=True) * noise

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class; memory independent of K."""
        u = uniforms(x.shape, x.device, generator)
        symbol = (uniforms(x.shape, x.device, generator) * (self.num_states - 1)).long()
        symbol = symbol + (symbol >= self.mask)  # step over the mask
        keep, masked, redrawn = (expand(share, x) for share in (self.keep, self.masked, self.redrawn))
        noise = torch.where((u < keep + masked) | (redrawn == 0), self.mask, symbol)
        return torch.where(u < keep, x, noise)

    def compose(self, then: Operator) -> Operator:
        """See the base class; O(1) with an operator of the same mask."""
        if not isinstance(then, MovingOperator) or then.mask != self.mask:
            return super().compose(then)
        masked = self.masked * then.keep + then.masked
        redrawn = self.redrawn * then.keep + then.redrawn
        return MovingOperator(self.keep * then.keep, masked, redrawn, self.num_states, self.mask)

    def dense(self) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=self.keep.device)
        return self.rows(states.expand(len(self.keep), -1))
