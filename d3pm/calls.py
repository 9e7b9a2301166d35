"""The network as one run of a sampler sees it: it knows its conditions, counts its calls, and saves those it can."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.objectives import Network
from d3pm.process import Process


class Calls:
    r"""``network(x_t, t)`` for one batch of samples, evaluated only for the rows whose output can differ or matter.

    A row is not sent through the network

    - if the process says that no output can change it any more (:meth:`~d3pm.process.Process.finished`);
    - if the network does not look at the time (its ``time_conditioned`` is False) and the row is what it was when
      it was last evaluated;
    - if the sampler says that it does not look at it (``rows``).

    The first and third kind hold anything in what is returned; the second holds the same numbers again. So samples
    are the same with and without, and nothing else is saved: the law is untouched.

    Args:
        network: ``network(x_t, t, **cond)``. Guides around networks pass on ``time_conditioned``, and say how many
            calls one of theirs costs in ``calls``.
        process: Says which rows are finished.
        batch: How many rows there are, B.
        cond: Conditions; tensors (B, \*) are taken row by row.
        cache: False sends every row every time: the slow twin.

    Attributes:
        counts: Network calls of each row so far, int64 (B,), on the CPU.
        forwards: Passes through the network so far, of whatever number of rows.
    """

    def __init__(
        self,
        network: Network,
        process: Process,
        batch: int,
        cond: dict[str, Any] | None = None,
        cache: bool = True,
    ) -> None:
        self.network, self.process, self.cond, self.cache = network, process, cond or {}, cache
        self.counts = torch.zeros(batch, dtype=torch.int64)
        self.forwards = 0
        self.price: int = getattr(network, "calls", 1)
        self.time_free = getattr(network, "time_conditioned", True) is False
        self._asked: Tensor | None = None  # what each row was when it was last evaluated
        self._fresh = torch.zeros(batch, dtype=torch.bool)  # which rows have been evaluated at all
        self._output: Tensor | None = None
        self._own = (
            False  # whether it may be written into: what a network gives may be a view of something else
        )

    def __call__(self, x_t: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        r"""The output for x_t (B, \*) at t (B,); it may be overwritten by the next call.

        Args:
            x_t: States, (B, \*).
            t: Their times, (B,).
            rows: Those that will be looked at, bool (B,); all if not given.

        Raises:
            ConfigError: If the network gives another number of rows than it was asked for.
        """
        needed = self._needed(x_t, rows) if self.cache else None
        if needed is None or bool(needed.all()):
            self._count(torch.ones_like(self.counts))
            self._output, self._own = self.network(x_t, t, **self.cond), False
            self._remember(x_t, None)
            return self._output
        index = needed.nonzero()[:, 0]
        if len(index):
            self._count(needed.cpu().long())
            output = self.network(x_t[index], t[index], **self._taken(index, len(x_t)))
            if len(output) != len(index):
                raise ConfigError(
                    f"network gave {len(output)} rows for {len(index)}: let it take any number, or give cache=False"
                )
            self._output = self._buffer(output, len(x_t))
            self._output[index] = output
            self._remember(x_t, index)
        elif self._output is None:
            self._output = self.network(x_t, t, **self.cond)  # nobody looks at it, but it must have a shape
        return self._output

    def _needed(self, x_t: Tensor, rows: Tensor | None) -> Tensor | None:
        """Rows to evaluate, bool (B,); None if it is all of them for certain."""
        needed = rows
        finished = self.process.finished(x_t)
        if finished is not None:
            needed = ~finished if needed is None else needed & ~finished
        if self.time_free and self._asked is not None:
            changed = (x_t != self._asked).reshape(len(x_t), -1).any(1) | ~self._fresh.to(x_t.device)
            needed = changed if needed is None else needed & changed
        return needed

    def _buffer(self, like: Tensor, batch: int) -> Tensor:
        if self._output is None:
            self._own = True
            return like.new_zeros(batch, *like.shape[1:])
        if self._own:
            return self._output
        self._own = True
        return self._output.clone()

    def _remember(self, x_t: Tensor, index: Tensor | None) -> None:
        if not (self.cache and self.time_free):
            return
        if index is None or self._asked is None:
            self._asked = x_t.clone()
        else:
            self._asked[index] = x_t[index]
        self._fresh[slice(None) if index is None else index.cpu()] = True

    def _count(self, rows: Tensor) -> None:
        self.counts += self.price * rows
        self.forwards += self.price

    def _taken(self, index: Tensor, batch: int) -> dict[str, Any]:
        return {
            name: value[index.to(value.device)]
            if isinstance(value, Tensor) and value.dim() and len(value) == batch
            else value
            for name, value in self.cond.items()
        }
