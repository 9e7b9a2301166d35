r"""How much of the data a chain has left after a time, :math:`I(x_t; x_0)`."""

from __future__ import annotations

import torch
from torch import Tensor

from d3pm.transitions.information import dense_information
from d3pm.transitions.symmetric import Chain, SymmetricOperator

EXACT = 256
"""States up to which every time has its own matrix; beyond, a table is interpolated."""

NODES = 64
CHUNK = 2**24
SHORT = 1e-4


class Information:
    r""":math:`I(x_\tau; x_0)` of a symmetric chain.

    Beyond 256 states it is tabulated, once for a law, at 64 times even in :math:`\log(\tau + 10^{-4})` and interpolated
    by monotone cubics.

    Args:
        chain: R.
        longest: Nothing is asked for beyond this time but infinity.
    """

    def __init__(self, chain: Chain, longest: float) -> None:
        self.chain, self.longest = chain, longest
        self._law: Tensor | None = None

    def __call__(self, elapsed: Tensor, frequencies: Tensor) -> Tensor:
        """Nats after times (N,), infinity included, under the law (K,)."""
        law = frequencies.double() / frequencies.double().sum()
        if self.chain.num_states <= EXACT:
            return self.exact(elapsed, law)
        if self._law is None or not torch.equal(self._law, law):
            self._law, self._table = law, self._tabulate(law)
        inside = (elapsed.cpu() + SHORT).log().clamp(max=float(self._ends[1]))
        found = torch.from_numpy(self._table(inside.numpy())).to(elapsed.device)
        return torch.where(elapsed.isinf(), 0.0, found.clamp(min=0))

    @property
    def _ends(self) -> Tensor:
        return torch.tensor([SHORT, self.longest + SHORT], dtype=torch.float64).log()

    def _tabulate(self, law: Tensor):  # type: ignore[no-untyped-def]
        from scipy.interpolate import PchipInterpolator

        first, last = self._ends.tolist()
        nodes = torch.linspace(first, last, NODES, dtype=torch.float64)
        values = self.exact((nodes.exp() - SHORT).clamp(min=0), law)
        return PchipInterpolator(nodes.numpy(), values.numpy())

    def exact(self, elapsed: Tensor, law: Tensor) -> Tensor:
        """The same from the matrices, a gigabyte of them at most at once."""
        size = self.chain.num_states
        if size * size > CHUNK:
            return torch.cat([self._by_rows(tau, law) for tau in elapsed.split(1)])
        parts = elapsed.split(CHUNK // size**2)
        return torch.cat(
            [dense_information(SymmetricOperator(self.chain, tau).dense(), law) for tau in parts]
        )

    def _by_rows(self, elapsed: Tensor, law: Tensor) -> Tensor:
        operator = SymmetricOperator(self.chain, elapsed)
        mixed = torch.special.entr(operator.apply(law.unsqueeze(0))).sum(-1)
        given = torch.zeros_like(mixed)
        for x in law.nonzero().squeeze(-1).split(CHUNK // self.chain.num_states):
            given += torch.special.entr(operator.rows(x.unsqueeze(0))).sum(-1) @ law[x]
        return (mixed - given).clamp(min=0)
