"""A network compiled for sampling: batches of any number of rows are filled up to one of a few sizes.

A sampler asks for the rows that still matter (:class:`~d3pm.calls.Calls`), a few less at every step. Compiled code and
CUDA graphs are made for one shape each, so rows are repeated up to the next of a few sizes, and what comes out of the
repeats is dropped. A row's output does not depend on the rows beside it, so samples are what they would be, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.guidance import Around
from d3pm.objectives import Network

HALVINGS = 3
"""Each size is compiled for itself, which takes up to a minute; below an eighth of a batch there is little to save."""


def halves(batch: int) -> list[int]:
    """The batch, a half, a quarter and an eighth of it, from the least.

    >>> halves(64), halves(5), halves(1)
    ([8, 16, 32, 64], [1, 2, 3, 5], [1])
    """
    return sorted({-(-batch // 2**i) for i in range(HALVINGS + 1)})


class Compiled(Around):
    """The network, compiled once for each of a few sizes of batches.

    On a GPU each size is recorded as a CUDA graph and replayed: hundreds of small kernels cost one launch. What a graph
    gives is overwritten by the next replay, so it is copied out.

    Args:
        network: Any, guides included.
        sizes: How many rows it may be asked for at once; :func:`halves` of the batch is a good choice. More rows than
            the most of them are taken as a size of their own.
        backend: Of ``torch.compile``.
        mode: Of ``torch.compile``; None: CUDA graphs where tensors are on a GPU.

    Attributes:
        used: The sizes that were asked for so far.

    Raises:
        ConfigError: When called, if the network cannot be compiled on this machine.
    """

    def __init__(
        self, network: Network, sizes: Sequence[int], backend: Any = "inductor", mode: str | None = None
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"sizes is {list(sizes)}: give one or more, each at least 1")
        self.network, self.sizes, self.backend, self.mode = network, sorted(sizes), backend, mode
        self.used: set[int] = set()
        self._known: set[tuple[Any, ...]] = set()
        self._run: Network | None = None

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        r"""The network's output (n, \*) for x_t (n, \*) at t (n,); tensors (n, \*) among the conditions go by rows."""
        rows, on_gpu = len(x_t), x_t.device.type == "cuda"
        size = next((size for size in self.sizes if size >= rows), rows)
        self.used.add(size)
        if size > rows:
            fill = torch.arange(size, device=x_t.device).clamp(max=rows - 1)
            x_t, t = x_t[fill], t[fill]
            cond = {name: _filled(value, fill, rows) for name, value in cond.items()}
        if on_gpu:
            torch.compiler.cudagraph_mark_step_begin()
        output = self._compiled(on_gpu, x_t, t, cond)[:rows]
        return output.clone() if on_gpu else output

    def _compiled(self, on_gpu: bool, x_t: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
        """One call; shapes that are new are compiled, however many there were."""
        if self._run is None:
            self._run = self._compile(on_gpu)
        kind = (x_t.shape, *((name, getattr(value, "shape", value)) for name, value in sorted(cond.items())))
        if kind in self._known:
            return self._run(x_t, t, **cond)
        try:
            with torch._dynamo.config.patch(recompile_limit=1024):
                output = self._run(x_t, t, **cond)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
            raise ConfigError(
                f"the network cannot be compiled here ({reason}): sample without --compile"
            ) from error
        self._known.add(kind)
        return output

    def _compile(self, on_gpu: bool) -> Network:
        network = self.network

        def run(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return network(x_t, t, **cond)

        mode = self.mode or ("reduce-overhead" if on_gpu and self.backend == "inductor" else None)
        return torch.compile(run, backend=self.backend, mode=mode, dynamic=False)


def _filled(value: Any, fill: Tensor, rows: int) -> Any:
    """A condition for the repeated rows, if it is given by rows."""
    if isinstance(value, Tensor) and value.dim() and len(value) == rows:
        return value[fill.to(value.device)]
    return value
