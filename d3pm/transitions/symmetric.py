r"""Chains with a symmetric rate matrix R, :math:`Q_{s \to t} = e^{\tau R}`, whatever computes the exponential.

Rounding leaves about :math:`10^{-16}` in entries that are far smaller, of either sign; a ratio of two such entries
means nothing, and a divergence that meets one may be infinite. So the chain itself is given a *leak*: with rate
:math:`K\ell` a state is redrawn from all K alike, :math:`\ell = 10^{-13}` an entry. That is a Markov chain like the
other (same eigenvectors, same stationary law, exact products) and the same to :math:`10^{-10}`; after any time at all
its smallest entries stand well above the rounding, and from every state any other can be reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d3pm.draws import Streams
from d3pm.transitions.jumps import Jumps, walk
from d3pm.transitions.operators import Operator, expand

LEAK = 1e-13
"""Chance per unit of time that any one state is jumped to from any other, whatever R."""

BLOCK = {"cpu": 2**17}
"""Numbers in the columns that are computed at once: on a CPU what fits its cache, elsewhere 2^24."""


class Chain(ABC):
    """A symmetric rate matrix of a connected graph on K states: what a structure says of its exponentials.

    Args:
        jumps: The chain as jumps, to draw from.
    """

    def __init__(self, jumps: Jumps) -> None:
        self.jumps, self.num_states = jumps, jumps.num_states
        self.leak = LEAK * jumps.num_states

    @abstractmethod
    def rows(self, x: Tensor, tau: Tensor) -> Tensor:
        r"""Rows x (N,) of :math:`e^{\tau R}` for finite times (N,) that rise, (N, K); without the leak."""

    @abstractmethod
    def apply(self, law: Tensor, tau: Tensor) -> Tensor:
        r"""``law`` (N, K) times :math:`e^{\tau R}`, likewise."""

    def blocks(self, tau: Tensor) -> Iterator[Tensor]:
        """Indices of the finite ones of the times (N,), by rising time, so many together as are computed at once."""
        order = tau.argsort(stable=True)
        width = max(16, BLOCK.get(tau.device.type, 2**24) // self.num_states)
        yield from (block for block in order[tau[order].isfinite()].split(width) if len(block))

    def leaked(self, tau: Tensor) -> Tensor:
        """The chance to have been redrawn from all states alike, of the shape of ``tau``; 0 at 0."""
        return -torch.expm1(-tau * self.leak)


class SymmetricOperator(Operator):
    r""":math:`e^{\tau R}`: the identity at :math:`\tau = 0`, uniform at infinity, both exactly; positive in between.

    Equal rows are computed once. ``sample`` walks, in as many rounds as jumps and in memory independent of K; products
    with an operator of the same chain cost O(1).

    Args:
        chain: R.
        elapsed: :math:`\tau`, float64 (B,).
    """

    def __init__(self, chain: Chain, elapsed: Tensor) -> None:
        self.chain, self.elapsed = chain, elapsed
        self.num_states = chain.num_states

    def rows(self, x: Tensor) -> Tensor:
        """See the base class."""
        out = torch.empty(x.numel(), self.num_states, dtype=torch.float64, device=x.device)
        for place, rows in self._rows(x):
            out[place] = rows
        out[self._times(x).isinf()] = 1 / self.num_states
        return out.view(*x.shape, -1)

    def cols(self, x: Tensor) -> Tensor:
        """See the base class; the matrix is symmetric."""
        return self.rows(x)

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """See the base class; at the cost of rows, but in memory independent of K."""
        out = torch.full((x.numel(),), 1 / self.num_states, dtype=torch.float64, device=x.device)
        for place, rows in self._rows(x):
            out[place] = rows.gather(-1, y.reshape(-1)[place].unsqueeze(-1)).squeeze(-1)
        return out.view(x.shape)

    def apply(self, p: Tensor) -> Tensor:
        """See the base class; computed in float64, for p without negative entries."""
        law = p.double().reshape(-1, self.num_states)
        out = _Apply.apply(law, self.chain, self._times(p[..., 0]))
        floor = expand(self.chain.leaked(self.elapsed), p) / (2 * self.num_states) * p.sum(-1, keepdim=True)
        return torch.maximum(out.view(p.shape), floor).to(p.dtype)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class."""
        streams = Streams.begin(x, generator)
        return walk(self.chain.jumps, x.reshape(-1), self._times(x), self.chain.leak, streams).view(x.shape)

    def compose(self, then: Operator) -> Operator:
        """See the base class; O(1) with an operator of the same chain."""
        if isinstance(then, SymmetricOperator) and then.chain is self.chain:
            return SymmetricOperator(self.chain, self.elapsed + then.elapsed)
        return super().compose(then)

    def dense(self) -> Tensor:
        """See the base class."""
        states = torch.arange(self.num_states, device=self.elapsed.device)
        return self.rows(states.expand(len(self.elapsed), -1))

    def _times(self, x: Tensor) -> Tensor:
        """The time of every entry of x (B, \\*), flat."""
        return expand(self.elapsed, x).expand_as(x).reshape(-1)

    def _rows(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows after finite times, a block at a time: where in x they belong, and they, (n, K)."""
        times, which = self.elapsed.unique(return_inverse=True)
        keys = expand(which, x) * self.num_states + x
        pairs, index = keys.reshape(-1).unique(return_inverse=True)
        states, taus = pairs % self.num_states, times[pairs // self.num_states]
        order, ends = index.argsort(), index.bincount().cumsum(0).tolist()
        for block in self.chain.blocks(taus):
            rows = self._leaky(self.chain.rows(states[block], taus[block]), taus[block])
            first, last = int(block[0]), int(block[-1])  # pairs come by rising time, and so do blocks
            place = order[ends[first - 1] if first else 0 : ends[last]]
            yield place, rows[index[place] - first]

    def _leaky(self, rows: Tensor, tau: Tensor) -> Tensor:
        leaked = self.chain.leaked(tau).unsqueeze(-1)
        fresh = leaked / self.num_states
        return torch.maximum(rows * (1 - leaked) + fresh, fresh / 2)


class _Apply(torch.autograd.Function):
    """A symmetric matrix is its own gradient."""

    @staticmethod
    def forward(ctx, law: Tensor, chain: Chain, tau: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.chain, ctx.tau = chain, tau
        out = (law.sum(-1, keepdim=True) / chain.num_states).expand_as(law).clone()
        for block in chain.blocks(tau):
            leaked = chain.leaked(tau[block]).unsqueeze(-1)
            out[block] = chain.apply(law[block], tau[block]) * (1 - leaked) + out[block] * leaked
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return _Apply.apply(grad, ctx.chain, ctx.tau), None, None
