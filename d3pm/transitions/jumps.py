"""A continuous-time walk by its own clock: wait, jump, until the time is up; memory independent of K."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from d3pm.draws import Streams


class Jumps(Protocol):
    """Where a walk goes, and how soon."""

    num_states: int

    def rates(self, x: Tensor) -> Tensor:
        """Jumps per unit of time out of the states x (N,), float64 (N,)."""

    def jump(self, x: Tensor, streams: Streams) -> Tensor:
        """One jump from each of the states x (N,), drawn from as many streams."""

    def dense(self) -> Tensor:
        """The rate matrix R, (K, K)."""


def walk(jumps: Jumps, x: Tensor, elapsed: Tensor, leak: float, streams: Streams) -> Tensor:
    r"""Where walkers from x (N,) are after ``elapsed`` (N,): exact, in as many rounds as the busiest one jumps.

    A walker that leaked (chance :math:`1 - e^{-\text{leak} \cdot \text{elapsed}}`), or walked for ever, is anywhere.
    Each goes by the numbers of its own stream, so that nobody's way depends on who else walks.
    """
    lost = streams.uniforms() < -torch.expm1(-leak * elapsed)
    fresh = (streams.uniforms() * jumps.num_states).long()
    out = torch.where(lost, fresh, x)
    moving = (~lost & (elapsed > 0)).nonzero().squeeze(-1)
    left, streams = elapsed[moving], streams[moving]
    while len(moving):
        state = out[moving]
        wait = -torch.log1p(-streams.uniforms()) / jumps.rates(state)
        going = wait < left
        moving, left, streams = moving[going], (left - wait)[going], streams[going]
        out[moving] = jumps.jump(state[going], streams)
    return out
