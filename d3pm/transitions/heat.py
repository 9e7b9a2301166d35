r"""Exponentials of a neighbour graph's sparse rate matrix: polynomials for short times, modes for long ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from d3pm.transitions.chebyshev import Frame, clenshaw
from d3pm.transitions.neighbor_graph import NeighborGraph
from d3pm.transitions.slow_modes import slow_modes
from d3pm.transitions.symmetric import Chain

WHOLE = 1024
"""Up to this many states the whole eigenbasis is kept, which serves all longer times; beyond, the slowest modes."""

MODES = 128
"""How many slow modes are kept beyond that."""


class Heat(Chain):
    r"""The graph as a sparse matrix.

    A row after a time :math:`\tau` takes some :math:`6 + 8\sqrt{\tau w}` products with it, O(K k) each; 2w is the
    fastest rate, 2 to 5 where embeddings have length one, several times that where some are neighbours of very many.
    Up to K = 1024 times from 2 on take the eigenbasis instead, 8 K² bytes, O(K²) a row. Beyond, the slowest modes
    are taken out of the polynomial where that pays, and the number of products stays below about a hundred.

    Args:
        graph: The graph.
        whole: Up to how many states the eigenbasis is kept.
        modes: How many slow ones are, where it is not.
    """

    def __init__(self, graph: NeighborGraph, whole: int = WHOLE, modes: int = MODES) -> None:
        super().__init__(graph)
        self.graph, self._whole = graph, graph.num_states <= whole
        self._modes = min(modes, graph.num_states // 4)
        self._copies: dict[tuple[bool, torch.device], Frame] = {}

    def rows(self, x: Tensor, tau: Tensor) -> Tensor:
        """See the base class."""
        frame = self._frame(tau)
        c, at = frame.coefficients(tau), x * len(x) + torch.arange(len(x), device=x.device)
        rows = clenshaw(frame.double, c, lambda to, numbers: to.view(-1).index_add_(0, at, numbers)).T
        return (
            torch.addmm(rows, frame.modes[x] * frame.missing(c, tau), frame.modes.T)
            if len(frame.rates)
            else rows
        )

    def apply(self, law: Tensor, tau: Tensor) -> Tensor:
        """See the base class."""
        frame, start = self._frame(tau), law.T.contiguous()
        c = frame.coefficients(tau)
        rows = clenshaw(frame.double, c, lambda to, numbers: to.addcmul_(start, numbers)).T
        if not len(frame.rates):
            return rows
        return torch.addmm(rows, (law @ frame.modes) * frame.missing(c, tau), frame.modes.T)

    def blocks(self, tau: Tensor) -> Iterator[Tensor]:
        """See the base class; short and long times apart."""
        for block in super().blocks(tau):
            long = int((tau[block] >= self._long(float(tau[block[-1]]))).sum())
            yield from (part for part in block.split([len(block) - long, long]) if len(part))

    def _long(self, tau: float) -> float:
        """From which time modes are taken out; what is not asked for is not solved for."""
        least = 2.0 if self._whole else 12.0
        if tau < least or self._whole:
            return least
        return max(least, 3 / self.fast.low) if len(self.fast.rates) else torch.inf

    def _frame(self, tau: Tensor) -> Frame:
        last = float(tau[-1])
        long = last >= self._long(last)
        if (long, tau.device) not in self._copies:
            self._copies[long, tau.device] = (self.fast if long else self.all).to(tau.device)
        return self._copies[long, tau.device]

    @cached_property
    def fastest(self) -> float:
        """No eigenvalue of -R is above this."""
        if self.num_states <= 64:
            return 1.0001 * float(torch.linalg.eigvalsh(-self.graph.dense())[-1])
        from scipy.sparse.linalg import eigsh

        start = torch.randn(self.num_states, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        options = {"k": 1, "which": "LA", "tol": 1e-3, "v0": start.numpy(), "return_eigenvectors": False}
        return 1.01 * float(eigsh(self.graph.laplacian, **options)[0])

    @cached_property
    def all(self) -> Frame:
        """The polynomial of all rates."""
        none = torch.zeros(self.num_states, 0, dtype=torch.float64)
        return self._above(none, none[0])

    @cached_property
    def fast(self) -> Frame:
        """The polynomial of the faster rates beside the slowest modes, or beside all modes none."""
        if self._whole:
            rates, modes = torch.linalg.eigh(-self.graph.dense())
            return Frame(self.all.double, torch.inf, 0.0, modes, rates.clamp(min=0))
        rates, modes = slow_modes(csr(self.graph.laplacian), self.fastest, self._modes)
        return self._above(modes, rates)

    def _above(self, modes: Tensor, rates: Tensor) -> Frame:
        from scipy.sparse import eye_array

        low = float(rates[-1]) if len(rates) else 0.0
        half = (self.fastest - low) / 2
        eye = eye_array(self.num_states, format="csr")
        double = (2 * (low + half) / half) * eye - (2 / half) * self.graph.laplacian
        return Frame(csr(double), low, half, modes, rates)


def csr(matrix) -> Tensor:  # type: ignore[no-untyped-def]
    """A scipy matrix in torch's form."""
    rows, columns = (torch.from_numpy(part.astype("int32")) for part in (matrix.indptr, matrix.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            rows, columns, torch.from_numpy(matrix.data), size=matrix.shape, check_invariants=True
        )
