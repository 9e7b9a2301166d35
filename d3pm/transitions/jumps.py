"""A continuous-time walk by its own clock: wait, jump, until the time is up; memory independent of K."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from d3pm.distributions import uniforms
from d3pm.transitions.laws import UniformLaw


class Jumps(Protocol):
    """Where a walk goes, and how soon."""

    num_states: int

    def rates(self, x: Tensor) -> Tensor:
        """Jumps per unit of time out of the states x (N,), float64 (N,)."""

    def jump(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """One jump from each of the states x (N,)."""

    def dense(self) -> Tensor:
        """The rate matrix R, (K, K)."""


def walk(
    jumps: Jumps, x: Tensor, elapsed: Tensor, leak: float, generator: torch.Generator | None = None
) -> Tensor:
    r"""Where walkers from x (N,) are after ``elapsed`` (N,): exact, in as many rounds as the busiest one jumps.

    A walker that leaked (chance :math:`1 - e^{-\text{leak} \cdot \text{elapsed}}`), or walked for ever, is anywhere.
    """
    lost = uniforms(x.shape, x.device, generator) < -torch.expm1(-leak * elapsed)
    fresh = UniformLaw(jumps.num_states).sample(x.shape, x.device, generator)
    out = torch.where(lost, fresh, x)
    moving = (~lost & (elapsed > 0)).nonzero().squeeze(-1)
    left = elapsed[moving]
    while len(moving):
        state = out[moving]
        wait = -torch.log1p(-uniforms(state.shape, x.device, generator)) / jumps.rates(state)
        going = wait < left
        moving, left = moving[going], (left - wait)[going]
        out[moving] = jumps.jump(state[going], generator)
    return out
