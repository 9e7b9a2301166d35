r"""Columns that share a kernel go together: a tensor taken apart by groups of columns, and their laws as one.

A table's columns have kernels and numbers of states of their own, but many share them. Each group is one
vectorised call on ``x[..., columns]``; a thousand columns of one kernel cost what a row of text costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from d3pm.distributions import Categorical, Distribution


class Grouping:
    """Which columns go together: apart along the axis of columns, and together again.

    Columns that stand in the order of their groups are never copied on the way apart.

    Args:
        groups: The group of each column; all of 0 … max occur.

    >>> grouping = Grouping([0, 1, 0])
    >>> parts = grouping.apart(torch.tensor([[5, 6, 7]]))
    >>> parts
    (tensor([[5, 7]]), tensor([[6]]))
    >>> grouping.together(parts)
    tensor([[5, 6, 7]])
    """

    def __init__(self, groups: Sequence[int]) -> None:
        self.order = sorted(range(len(groups)), key=groups.__getitem__)
        self.sizes = [groups.count(group) for group in range(max(groups, default=-1) + 1)]
        self.in_order = self.order == list(range(len(groups)))
        order = torch.tensor(self.order)
        self._orders = {order.device: (order, order.argsort())}

    def apart(self, x: Tensor, dim: int = -1) -> tuple[Tensor, ...]:
        """The columns of each group; on the way back all gradients are joined in one pass."""
        if not self.in_order:
            x = x.index_select(dim, self._on(x.device)[0])
        return x.split(self.sizes, dim)

    def together(self, parts: Sequence[Tensor], dim: int = -1) -> Tensor:
        """Every group's columns back in their places."""
        x = torch.cat(list(parts), dim) if len(parts) > 1 else parts[0]
        return x if self.in_order else x.index_select(dim, self._on(x.device)[1])

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._orders:
            forth, back = next(iter(self._orders.values()))
            self._orders[device] = (forth.to(device), back.to(device))
        return self._orders[device]


class ColumnLaws(Categorical):
    r"""A categorical law of every entry (B, \*, C), each group of columns with a number of states of its own.

    Laws of the same grouping are compared group by group, so that a posterior finds its own reverse step and
    takes the one-pass divergence of its kernel. As a dense law it is padded: a state that a column does not
    have has no probability.

    Args:
        laws: One a group, over (B, \*, columns of the group).
        grouping: How they stand together.

    >>> coin, die = Categorical(torch.zeros(1, 1, 2)), Categorical(torch.zeros(1, 1, 6))
    >>> ColumnLaws([coin, die], Grouping([0, 1])).probs[0, 0, :3]
    tensor([0.5000, 0.5000, 0.0000])
    """

    def __init__(self, laws: Sequence[Categorical], grouping: Grouping) -> None:
        self.laws, self.grouping = laws, grouping

    @cached_property
    def log_probs(self) -> Tensor:
        """Dense and padded with minus infinity, (B, \\*, C, K), K the largest number of states."""
        parts = [law.log_probs for law in self.laws]
        width = max(part.shape[-1] for part in parts)
        padded = [torch.nn.functional.pad(p, (0, width - p.shape[-1]), value=-math.inf) for p in parts]
        return self.grouping.together(padded, -2)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """See the base class; group after group."""
        return self.grouping.together([law.sample(generator) for law in self.laws])

    def log_prob(self, x: Tensor) -> Tensor:
        """See the base class."""
        pairs = zip(self.laws, self.grouping.apart(x), strict=True)
        return self.grouping.together([law.log_prob(part) for law, part in pairs])

    def kl(self, other: Distribution) -> Tensor:
        """See the base class; dense only against a law of another grouping."""
        if not isinstance(other, ColumnLaws) or other.grouping is not self.grouping:
            return super().kl(other)
        pairs = zip(self.laws, other.laws, strict=True)
        return self.grouping.together([ours.kl(theirs) for ours, theirs in pairs])

    @property
    def mode(self) -> Tensor:
        """See the base class."""
        return self.grouping.together([law.mode for law in self.laws])
