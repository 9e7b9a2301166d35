r"""One batched row-stochastic matrix, kept in its structure.

``Q[b, i, j]`` is the probability that state i goes to state j in batch element b. States x have shape
(B, \*), laws p have shape (B, \*, K). ``dense()`` gives the matrix itself whenever someone wants to look.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from d3pm.distributions import draw, uniforms
from d3pm.transitions.laws import Law


def expand(per_example: Tensor, like: Tensor) -> Tensor:
    """View a (B,) tensor as (B, 1, ..., 1) with the rank of ``like``."""
    return per_example.view(-1, *[1] * (like.dim() - 1))


def same_tensors(ours: tuple[Tensor, ...] | None, theirs: tuple[Tensor, ...] | None) -> bool:
    """Whether the tensors are equal; free if they are the same objects, else the host waits for the device."""
    if ours is None or theirs is None:
        return False
    return all(a is b or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Operator(ABC):
    """A batch of row-stochastic K x K matrices in float64."""

    num_states: int

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """``Q[x, :]``, the laws of the next state: int (B, \\*) to float64 (B, \\*, K)."""

    @abstractmethod
    def cols(self, x: Tensor) -> Tensor:
        """``Q[:, x]``, the likelihoods of the previous state: int (B, \\*) to float64 (B, \\*, K)."""

    @abstractmethod
    def apply(self, p: Tensor) -> Tensor:
        """``p Q``, in the dtype of p: (B, \\*, K) to (B, \\*, K)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrices, float64 (B, K, K)."""

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """``Q[x, y]``: two int (B, \\*) to float64 (B, \\*)."""
        return self.rows(x).gather(-1, y.unsqueeze(-1)).squeeze(-1)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A next state for every x: int (B, \\*) to int (B, \\*)."""
        u = uniforms(x.shape, x.device, generator)
        return draw(self.rows(x).flatten(0, -2), u.flatten()).view(x.shape)

    def compose(self, then: Operator) -> Operator:
        """First this, then ``then``: the matrix product of the two."""
        return DenseOperator(self.dense() @ then.dense())


class DenseOperator(Operator):
    """Any matrices, stored whole: K x K a batch element, K a row, K squared an ``apply`` per entry."""

    def __init__(self, matrices: Tensor) -> None:
        self.matrices = matrices
        self.num_states = matrices.shape[-1]

    def _index(self, x: Tensor) -> Tensor:
        return expand(torch.arange(len(self.matrices), device=x.device), x)

    def rows(self, x: Tensor) -> Tensor:
        """See the base class."""
        return self.matrices[self._index(x), x]

    def cols(self, x: Tensor) -> Tensor:
        """See the base class."""
        return self.matrices.transpose(-1, -2)[self._index(x), x]

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """See the base class; O(1)."""
        return self.matrices[self._index(x), x, y]

    def apply(self, p: Tensor) -> Tensor:
        """See the base class."""
        flat = p.reshape(len(p), -1, self.num_states)
        return (flat @ self.matrices.to(p.dtype)).view(p.shape)

    def dense(self) -> Tensor:
        """See the base class."""
        return self.matrices


class RankOneOperator(Operator):
    r""":math:`a I + (1 - a) \mathbf 1 \pi^\top`: keep the state with chance a, else draw it afresh from :math:`\pi`.

    Products stay in the family (the a's multiply), so nothing larger than :math:`\pi` is stored; ``rows``,
    ``cols`` and ``apply`` cost O(K) an entry, ``sample`` O(1) and no (B, \*, K) tensor.

    Args:
        keep: a, float64 (B,).
        law: :math:`\pi`.
    """

    def __init__(self, keep: Tensor, law: Law) -> None:
        self.keep = keep
        self.law = law
        self.num_states = law.num_states

    def rows(self, x: Tensor) -> Tensor:
        """See the base class."""
        keep = expand(self.keep, x)
        out = ((1 - keep).unsqueeze(-1) * self.law.probs(x.device)).expand(*x.shape, -1).clone()
        return out.scatter_add_(-1, x.unsqueeze(-1), keep.expand_as(x).unsqueeze(-1))

    def cols(self, x: Tensor) -> Tensor:
        """See the base class."""
        keep = expand(self.keep, x)
        fresh = (1 - keep) * self.law.at(x)
        out = fresh.unsqueeze(-1).expand(*x.shape, self.num_states).clone()
        return out.scatter_add_(-1, x.unsqueeze(-1), keep.expand_as(x).unsqueeze(-1))

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """See the base class; O(1)."""
        keep = expand(self.keep, x)
        return keep * (x == y) + (1 - keep) * self.law.at(y)

    def apply(self, p: Tensor) -> Tensor:
        """See the base class."""
        keep = expand(self.keep, p).to(p.dtype)
        return keep * p + (1 - keep) * p.sum(-1, keepdim=True) * self.law.probs(p.device).to(p.dtype)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class; memory independent of K."""
        stays = uniforms(x.shape, x.device, generator) < expand(self.keep, x)
        return torch.where(stays, x, self.law.sample(x.shape, x.device, generator))

    def compose(self, then: Operator) -> Operator:
        """See the base class; O(1) with an operator of the same law."""
        if isinstance(then, RankOneOperator) and then.law is self.law:
            return RankOneOperator(self.keep * then.keep, self.law)
        return super().compose(then)

    def dense(self) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=self.keep.device)
        return self.rows(states.expand(len(self.keep), -1))
