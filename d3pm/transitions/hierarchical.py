"""A coarse and a fine time scale: tokens first forget which of their group they are, then the group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.schedules import Schedule, UnsquaredCosineSchedule
from d3pm.tables import Table
from d3pm.transitions.base import Transition
from d3pm.transitions.grouped import GroupedOperator, Groups


class HierarchicalTransition(Transition):
    r"""Tokens are redrawn within their group at a fast rate, and from all K states at a slow one.

    .. math::
        Q_{s+1} \cdots Q_t = e^{(a_t - a_s) R}, \qquad R = r\,(W - I) + (U - I), \qquad a_t = -\log \bar\alpha_t

    W averages over each token's group, U over all states, and as they commute the exponential is
    :math:`g\,(k I + (1 - k) W) + (1 - g) U` with :math:`g = \bar\alpha_t / \bar\alpha_s` and :math:`k = g^r`. So
    :math:`\bar\alpha_t` is the chance that the group is as it was, and :math:`\bar\alpha_t^{1 + r}` that the token is.
    The reverse process settles the group first and the token in it last.

    The stationary law is uniform. No matrix is stored: O(K + T); corruption O(1) a token, posterior and reverse step
    by Bayes' rule in O(K) an entry. With bases of DNA in the groups purine and pyrimidine this is Kimura's model of
    two parameters; with r = 0, or one group of one state each, it is :class:`UniformTransition`.

    Args:
        groups: One whole number a state, (K,); states of equal numbers are one group. K is at least 2.
        num_steps: T.
        schedule: How fast the group is lost; Hoogeboom's unsquared cosine by default.
        within: r, how many times faster a token is redrawn within its group than from all states, at least 0.

    Raises:
        ConfigError: If the groups are no list of whole numbers, or r is below 0.

    References:
        Kimura, *A simple method for estimating evolutionary rates of base substitutions*, 1980. The construction is
        the exponential of a generator, Austin et al., 2021, appendix A.2.4.

    >>> kernel = HierarchicalTransition([0, 0, 1], num_steps=4)
    >>> kernel.between(torch.tensor([0]), torch.tensor([1])).dense()[0, 0]
    tensor([0.8169, 0.1566, 0.0266], dtype=torch.float64)
    """

    entrywise = True

    def __init__(
        self,
        groups: Tensor | Sequence[int],
        num_steps: int,
        schedule: Schedule | None = None,
        within: float = 4.0,
    ) -> None:
        self.groups = checked_groups(groups)
        if not 0 <= within < float("inf"):
            raise ConfigError(f"within is {within}: give how many times faster than from all, at least 0")
        self.num_states, self.num_steps = len(self.groups), num_steps
        self.schedule = schedule or UnsquaredCosineSchedule()
        self.within = within
        self.alpha_bars = Table(self.schedule.alpha_bars(num_steps))
        self._partition = Groups(self.groups)

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> HierarchicalTransition:
        """Pairs of neighbours; the last state is alone if K is odd."""
        return cls(torch.arange(num_states) // 2, num_steps)

    def between(self, s: Tensor, t: Tensor) -> GroupedOperator:
        """See the base class; O(B)."""
        keep_group = torch.where(s == t, 1.0, safe_divide(self.alpha_bars[t], self.alpha_bars[s]))
        return GroupedOperator(keep_group**self.within, keep_group, self._partition)

    def stationary(self) -> Tensor:
        """The uniform law."""
        return torch.full((self.num_states,), 1 / self.num_states, dtype=torch.float64)

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats at noise levels (N,) under the unigram law (K,), in closed form.

        A level is the chance that the group is as it was. Tokens of equal frequency in groups that look alike are
        summed once; cost O(N K') for K' distinct ones.
        """
        group = self._partition.of(torch.arange(self.num_states))
        size = self._partition.size[group]
        together = frequencies.double().new_zeros(self._partition.num_groups)
        together = together.index_add(0, group, frequencies.double())[group]
        kinds, counts = torch.stack([frequencies.double(), together, size]).unique(dim=1, return_counts=True)
        rows = max(1, 2**22 // len(counts))
        parts = [self._information(a.unsqueeze(-1), *kinds) @ counts.double() for a in alpha_bar.split(rows)]
        return torch.cat(parts).clamp(min=0)

    def _information(self, level: Tensor, p: Tensor, together: Tensor, size: Tensor) -> Tensor:
        """Every token's part, (N, K'): entropy of x_t minus its entropy given x_0."""
        keep = level**self.within
        far = (1 - level) / self.num_states
        near = far + level * (1 - keep) / size
        same = near + level * keep
        mixed = far + level * (keep * p + (1 - keep) * together / size)
        given = (
            torch.xlogy(same, same)
            + (size - 1) * torch.xlogy(near, near)
            + (self.num_states - size) * torch.xlogy(far, far)
        )
        return p * given - torch.xlogy(mixed, mixed)


def checked_groups(groups: Tensor | Sequence[int]) -> Tensor:
    """Int64 (K,), one group a state."""
    found = torch.as_tensor(groups)
    if found.dim() != 1 or len(found) < 2:
        raise ConfigError(f"groups has shape {tuple(found.shape)}: give one number a state, at least 2")
    if found.is_floating_point() or found.dtype == torch.bool:
        raise ConfigError(f"groups is of {found.dtype}: give whole numbers, equal for states of one group")
    return found.to("cpu", torch.int64)
