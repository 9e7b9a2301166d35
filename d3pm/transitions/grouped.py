"""One step of a kernel on groups: keep a state, redraw it within its group, or from all."""

from __future__ import annotations

import torch
from torch import Tensor

from d3pm.distributions import uniforms
from d3pm.tables import Table
from d3pm.transitions.operators import Operator, expand


class Groups:
    """A partition of K states: which group each is in, and where its members stand in a list.

    Args:
        labels: One whole number a state, (K,); states of equal numbers are one group.
    """

    def __init__(self, labels: Tensor) -> None:
        found, group, size = labels.cpu().unique(return_inverse=True, return_counts=True)
        self.num_states, self.num_groups = len(labels), len(found)
        self.group = Table(group)
        """The group of each state, (K,)."""
        self.size = Table(size)
        """How many states each group has, (G,)."""
        self.start = Table(size.cumsum(0) - size)
        """Where each group begins in ``members``, (G,)."""
        self.members = Table(group.argsort(stable=True))
        """All states, group by group, (K,)."""

    def of(self, x: Tensor) -> Tensor:
        """The group of each state."""
        return self.group[x].long()

    def draw(self, x: Tensor, u: Tensor) -> Tensor:
        """A state of the group of each x, alike for all, from uniforms u in [0, 1)."""
        group = self.of(x)
        size = self.size[group]
        return self.members[(self.start[group] + (u * size).floor()).long()].long()

    def mean(self, p: Tensor) -> Tensor:
        """The mean of p over the group of each state: (B, \\*, K) to (B, \\*, K)."""
        group = self.group.on(p.device).long()
        sums = p.new_zeros(*p.shape[:-1], self.num_groups).index_add(-1, group, p)
        return (sums / self.size.on(p.device).to(p.dtype))[..., group]


class GroupedOperator(Operator):
    r""":math:`g\,(k I + (1 - k) W) + (1 - g) U`: W redraws within the group, U from all states.

    W and U are nested projections, :math:`W U = U W = U`, so that products stay in the family: the k's multiply,
    and the g's. The matrix is symmetric. ``rows``, ``cols`` and ``apply`` cost O(K) an entry, ``at`` and
    ``sample`` O(1).

    Args:
        keep: k, float64 (B,).
        keep_group: g, float64 (B,).
        groups: The partition.
    """

    def __init__(self, keep: Tensor, keep_group: Tensor, groups: Groups) -> None:
        self.keep, self.keep_group = keep, keep_group
        self.groups = groups
        self.num_states = groups.num_states

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """See the base class; O(1)."""
        keep, keep_group = expand(self.keep, x), expand(self.keep_group, x)
        ours = self.groups.of(x)
        near = (ours == self.groups.of(y)) * (1 - keep) / self.groups.size[ours]
        return keep_group * (keep * (x == y) + near) + (1 - keep_group) / self.num_states

    def rows(self, x: Tensor) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=x.device)
        return self.at(x.unsqueeze(-1), states)

    def cols(self, x: Tensor) -> Tensor:
        """See the base class; the matrix is symmetric."""
        return self.rows(x)

    def apply(self, p: Tensor) -> Tensor:
        """See the base class."""
        keep, keep_group = expand(self.keep, p).to(p.dtype), expand(self.keep_group, p).to(p.dtype)
        near = keep * p + (1 - keep) * self.groups.mean(p)
        return keep_group * near + (1 - keep_group) * p.mean(-1, keepdim=True)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class; memory independent of K."""
        leaves, moves, u = (uniforms(x.shape, x.device, generator) for _ in range(3))
        near = torch.where(moves < expand(self.keep, x), x, self.groups.draw(x, u))
        return torch.where(leaves < expand(self.keep_group, x), near, (u * self.num_states).long())

    def compose(self, then: Operator) -> Operator:
        """See the base class; O(1) with an operator on the same groups."""
        if not isinstance(then, GroupedOperator) or then.groups is not self.groups:
            return super().compose(then)
        return GroupedOperator(self.keep * then.keep, self.keep_group * then.keep_group, self.groups)

    def dense(self) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=self.keep.device)
        return self.rows(states.expand(len(self.keep), -1))
