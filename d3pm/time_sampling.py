r"""Which times a loss is taken at: wrappers of an objective, whose own choice is one stratified time an example."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from d3pm.distributions import draw
from d3pm.draws import Share, uniforms
from d3pm.errors import ConfigError
from d3pm.objectives import Network, Objective, scored
from d3pm.process import Process


@dataclass(frozen=True)
class UniformTimes(Objective):
    """The same loss at independent uniform times 1 … T: the textbook form; stratified times vary less.

    Args:
        base: A loss.
    """

    base: Objective

    def __post_init__(self) -> None:
        check_base(self.base)

    @property
    def is_bound(self) -> bool:  # type: ignore[override]
        """That of the base."""
        return self.base.is_bound

    def count(self, x0: Tensor, cond: dict[str, Any]) -> Tensor:
        """See the base class."""
        return self.base.count(x0, cond)

    def draw(self, process: Process, x0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """See the base class."""
        t = 1 + (uniforms(x0.shape[:1], x0.device, generator) * process.num_steps).long()
        return t, process.q_sample(x0, t, generator)

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        return self.base.at(process, output, x0, x_t, t)


def check_base(base: Objective) -> None:
    """Refuse a loss that draws times of its own."""
    if type(base).draw is not Objective.draw or type(base).__call__ is not Objective.__call__:
        raise ConfigError(
            f"{type(base).__name__} chooses its own times: use it by itself, or wrap a loss at whole times"
        )


class ImportanceTimes(torch.nn.Module, Objective):
    r"""The same loss at times drawn with :math:`p_t \propto \sqrt{\mathrm E[L_t^2]}`, weighted by :math:`1/(T p_t)`.

    The mean over t stays what it was; its variance falls where the terms differ by orders of magnitude, as those
    of the bound do. The expectation is over the last ``history`` losses of each t; until every t has as many,
    times are uniform. The history is saved with the model, so a resumed run goes on exactly. Where a batch is
    shared by several processes, or comes in micro-batches, it is remembered once, whole and in order: all processes
    keep the same history.

    Args:
        base: A loss at whole times.
        num_steps: T of the process.
        history: Losses remembered for each t.
        floor: Share of the draws that stay uniform, so that no t is forgotten.

    References:
        Nichol and Dhariwal, *Improved DDPM*, 2021, section 3.3.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, base: Objective, num_steps: int, history: int = 10, floor: float = 0.001) -> None:
        super().__init__()
        check_base(base)
        if num_steps < 1:
            raise ConfigError(f"num_steps is {num_steps}: give T of the process, at least 1")
        if history < 1:
            raise ConfigError(f"history is {history}: remember at least 1 loss")
        if not 0 < floor <= 1:
            raise ConfigError(f"floor is {floor}: choose it in (0, 1]")
        self.base, self.num_steps, self.history, self.floor = base, num_steps, history, floor
        self.register_buffer("losses", torch.zeros(num_steps, history, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(num_steps, dtype=torch.int64))
        self._parts = Parts()

    @property
    def is_bound(self) -> bool:  # type: ignore[override]
        """That of the base."""
        return self.base.is_bound

    def count(self, x0: Tensor, cond: dict[str, Any]) -> Tensor:
        """See the base class."""
        return self.base.count(x0, cond)

    def probabilities(self) -> Tensor:
        """:math:`p_t` for t = 1 … T, float64 (T,)."""
        uniform = torch.full_like(self.losses[:, 0], 1 / self.num_steps, dtype=torch.float64)
        weights = self.losses.double().square().mean(1).sqrt()
        full = (self.seen >= self.history).all() & (weights.sum() > 0)
        learned = weights / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)
        return torch.where(full, (1 - self.floor) * learned + self.floor * uniform, uniform)

    def forward(
        self,
        process: Process,
        network: Network,
        x0: Tensor,
        *,
        generator: torch.Generator | None = None,
        **cond: Any,
    ) -> Tensor:
        """Draw a t an example, corrupt, call the network once, remember: weighted losses (B,)."""
        if process.num_steps != self.num_steps:
            raise ConfigError(
                f"objective.num_steps is {self.num_steps}, the process has {process.num_steps}: make them equal"
            )
        p = self.probabilities()
        u = uniforms(x0.shape[:1], x0.device, generator)
        index = draw(p.expand(len(u), -1), u)
        t = index + 1
        x_t = process.q_sample(x0, t, generator)
        losses = scored(partial(self.at, process), process, network, x0, x_t, t, cond)
        if self.training:
            batch = self._parts.put(
                torch.stack([index.double(), losses.detach() / self.count(x0, cond).clamp(min=1)]), generator
            )
            if batch is not None:
                self.remember(batch[0].long(), batch[1])
        return losses * (1 / (self.num_steps * p[index])).to(losses.dtype)

    @torch.no_grad()
    def remember(self, index: Tensor, losses: Tensor) -> None:
        """Keep the losses (B,) of the times ``index`` + 1, the oldest of each t first to go.

        Of several of one t in a batch the last ``history`` in the batch's order count as the newest.
        """
        same = index[:, None] == index[None, :]
        rank, later = (
            same.tril(-1).sum(1),
            same.triu(1).sum(1),
        )  # of the same t: how many before, how many after
        place = (self.seen[index] + rank) % self.history
        row = torch.where(
            later < self.history, index, self.num_steps
        )  # a place is written once, by the newest
        padded = torch.cat([self.losses, self.losses[:1]])  # a row for the others, which is dropped
        padded[row, place] = losses.to(padded.dtype)
        self.losses.copy_(padded[:-1])
        self.seen.index_add_(0, index, torch.ones_like(index))

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """See :meth:`forward`."""
        return torch.nn.Module.__call__(self, *args, **kwargs)

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        return self.base.at(process, output, x0, x_t, t)


class Parts:
    """What becomes known of a batch part by part, until all of it is: in micro-batches, and in several processes."""

    def __init__(self) -> None:
        self.seed, self.known, self.whole = -1, 0, torch.empty(0)

    def put(self, values: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Note what the rows at hand give, float64 (N, B); once all rows have, theirs in order, in every process.

        The last micro-batch of a step costs one sum over the processes, of N numbers a row of the whole batch.
        """
        if not isinstance(generator, Share) or generator.batch == generator.rows:
            return values
        if self.seed != generator.seed_of_all:  # another step: one that broke off is forgotten
            self.seed, self.known = generator.seed_of_all, 0
            self.whole = values.new_zeros(len(values), generator.batch)
        self.whole[:, generator.first : generator.first + generator.rows] = values
        self.known += generator.rows
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if self.known * processes < generator.batch:
            return None
        if processes > 1:
            dist.all_reduce(self.whole)
        self.seed = -1
        return self.whole


__all__ = ["ImportanceTimes", "UniformTimes"]
