"""Steps that depend on the distance alone: neighbours on a line of ordered states."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from d3pm.distributions import draw, uniforms
from d3pm.transitions.operators import DenseOperator, Operator, expand

NARROW = 16
"""Up to this width ``apply`` adds shifted copies; beyond it a matrix product is faster."""


class ToeplitzOperator(Operator):
    r"""Move by n states with chance :math:`f_{|n|}`; stay if that leads off the line.

    .. math:: Q_{ij} = f_{|i-j|} \;(i \ne j), \qquad Q_{ii} = 1 - \sum_{j \ne i} f_{|i-j|}

    Symmetric, so columns sum to one as well. Storage O(W) for the width W, rows and columns O(K) an entry,
    ``at`` O(1), ``sample`` O(log W) and no (B, \*, K) tensor, ``apply`` O(K W) an entry where W is small.

    Args:
        far: :math:`f_1 \ldots f_W`, float64 (B, W) with 1 <= W < K; never more than one in the sum of any row.
        num_states: K.
    """

    def __init__(self, far: Tensor, num_states: int) -> None:
        self.far = far
        self.num_states = num_states

    @cached_property
    def _by_distance(self) -> Tensor:
        """The chance of each distance 0 … K - 1, (B, K); zero at distance 0."""
        batch, width = self.far.shape
        return torch.cat(
            [self.far.new_zeros(batch, 1), self.far, self.far.new_zeros(batch, self.num_states - 1 - width)],
            1,
        )

    @cached_property
    def _stay(self) -> Tensor:
        """The diagonal, (B, K): what no distance takes, and what would lead off either end; sums of positive terms."""
        from_here = self._by_distance.flip(1).cumsum(1).flip(1)
        beyond = torch.cat([from_here[:, 1:], torch.zeros_like(from_here[:, :1])], 1)
        return (1 - 2 * self.far.sum(1, keepdim=True)) + beyond + beyond.flip(1)

    def rows(self, x: Tensor) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=x.device)
        distance = (x.unsqueeze(-1) - states).abs_()
        out = self._by_distance.gather(1, distance.flatten(1)).view(distance.shape)
        return out.scatter_(-1, x.unsqueeze(-1), self._staying(x).unsqueeze(-1))

    def cols(self, x: Tensor) -> Tensor:
        """See the base class; the matrix is symmetric."""
        return self.rows(x)

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """See the base class; O(1)."""
        moved = self._by_distance.gather(1, (x - y).abs().reshape(len(x), -1)).view(x.shape)
        return torch.where(x == y, self._staying(x), moved)

    def apply(self, p: Tensor) -> Tensor:
        """See the base class."""
        if self.far.shape[1] > NARROW:
            return DenseOperator(self.dense()).apply(p)
        far, stay = self.far.to(p.dtype), self._stay.to(p.dtype)
        out = p * stay.view(len(stay), *[1] * (p.dim() - 2), -1)
        for n in range(1, far.shape[1] + 1):
            chance = expand(far[:, n - 1], p)
            out[..., n:] += chance * p[..., :-n]
            out[..., :-n] += chance * p[..., n:]
        return out

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class: a distance by its cumulative chances, then a direction."""
        drawn = uniforms(x.shape, x.device, generator)
        wide = 2 * self.far.sum(1) > 1  # then not every distance fits from every state
        y = self._by_distances(x, drawn.view(len(x), -1))
        if bool(wide.any()):
            y = torch.where(
                expand(wide, x), draw(self.rows(x).flatten(0, -2), drawn.flatten()).view(x.shape), y
            )
        return y

    def _by_distances(self, x: Tensor, u: Tensor) -> Tensor:
        up = torch.searchsorted(self.far.cumsum(1), u, right=True)
        down = torch.searchsorted(self.far.cumsum(1), 1 - u, right=True)
        width = self.far.shape[1]
        step = torch.where(up < width, up + 1, torch.where(down < width, -(down + 1), 0))
        y = x + step.view(x.shape)
        return torch.where((y >= 0) & (y < self.num_states), y, x)

    def dense(self) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=self.far.device)
        return self.rows(states.expand(len(self.far), -1))

    def _staying(self, x: Tensor) -> Tensor:
        return self._stay.gather(1, x.reshape(len(x), -1)).view(x.shape)
