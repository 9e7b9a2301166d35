r"""Kernels whose steps have no common closed form: the products :math:`\bar Q_t` are multiplied once and kept.

Every entry is a sum of products of probabilities, so the smallest ones are as precise as the largest, and what
cannot be reached is exactly zero. So is what is reached with less than 1e-150: products and ratios of two
probabilities then stay within float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from functools import cached_property

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.tables import Table, is_single
from d3pm.transitions.base import Transition
from d3pm.transitions.operators import DenseOperator, Operator

CACHE_BYTES = 2**28
"""What products between other times may take."""

NEGLIGIBLE = 1e-150

TABLE_BYTES = 2**33
"""What the table of products from time 0 may take."""


class CumulativeTransition(Transition):
    r"""A kernel that gives its single steps; subclasses also give the law of :math:`x_T`.

    Storage :math:`8 (T + 1) K^2` bytes, made on first use by T products of K x K matrices; rows and columns O(K)
    an entry, a reverse step O(K²). Products that start later than 0 and span several steps are multiplied when
    first asked for, and the latest 256 MiB of them are kept.
    """

    @abstractmethod
    def single(self, t: Tensor) -> Operator:
        """:math:`Q_t` for int64 t of shape (B,), each from 1 to T."""

    def between(self, s: Tensor, t: Tensor) -> Operator:
        """See the base class: products from 0 and single steps are read off, others multiplied once and kept."""
        if is_single(s, t):
            return self.single(t)
        if bool((s == 0).all()):  # whatever t: what is drawn must not depend on who shares a batch
            return self.from_start(t)
        if bool((t == s + 1).all()):
            return self.single(t)
        pairs, index = torch.stack([s, t], -1).unique(dim=0, return_inverse=True)
        products = torch.stack([self._product(a, b) for a, b in pairs.tolist()])
        return DenseOperator(products.to(s.device)[index])

    def from_start(self, t: Tensor) -> Operator:
        """See the base class: read off."""
        return DenseOperator(self._bars[t])

    @cached_property
    def _bars(self) -> Table:
        self._check_size()
        bars = torch.empty(self.num_steps + 1, self.num_states, self.num_states, dtype=torch.float64)
        bars[0] = torch.eye(self.num_states, dtype=torch.float64)
        for t in range(1, self.num_steps + 1):
            flush(torch.mm(bars[t - 1], self._step(t), out=bars[t]))
        return Table(bars)

    @cached_property
    def _products(self) -> OrderedDict[tuple[int, int], Tensor]:
        return OrderedDict()

    def _step(self, t: int) -> Tensor:
        return self.single(torch.tensor([t])).dense()[0]

    def _product(self, s: int, t: int) -> Tensor:
        """One product on the CPU; the longest one at hand that starts at s is gone on with."""
        if s == 0 or s == t:
            return self._bars.values[t if s == 0 else 0]
        if (s, t) not in self._products:
            start = next((r for r in range(t - 1, s + 1, -1) if (s, r) in self._products), s + 1)
            product = self._products.get((s, start), self._step(s + 1))
            for r in range(start + 1, t + 1):
                product = flush(product @ self._step(r))
            self._products[s, t] = product
            while len(self._products) * 8 * self.num_states**2 > CACHE_BYTES and len(self._products) > 1:
                self._products.popitem(last=False)
        return self._products[s, t]

    def _check_size(self) -> None:
        size = 8 * (self.num_steps + 1) * self.num_states**2
        if size > TABLE_BYTES:
            raise ConfigError(
                f"num_states is {self.num_states} and num_steps {self.num_steps}: the products of "
                f"{type(self).__name__} take {size / 2**30:.0f} GiB; take fewer of either, or a kernel that needs no "
                "table (uniform, hierarchical, nearest neighbour)"
            )


def flush(matrices: Tensor) -> Tensor:
    """The same tensor, with zeros in place of what is negligible."""
    return matrices.masked_fill_(matrices < NEGLIGIBLE, 0.0)
