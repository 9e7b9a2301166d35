"""What kernels of ordered states have in common: steps by distance, each of its own strength, and a uniform end."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules import Schedule
from d3pm.tables import Table
from d3pm.transitions.cumulative import CumulativeTransition
from d3pm.transitions.toeplitz import ToeplitzOperator


class OrdinalTransition(CumulativeTransition):
    """Symmetric steps on a line of states, so the stationary law is uniform; subclasses say how far a step goes."""

    @abstractmethod
    def __init__(self, num_states: int, num_steps: int, schedule: Schedule) -> None:
        if num_states < 2:
            raise ConfigError(f"num_states is {num_states}: a diffusion needs at least 2 states")
        self.num_states = num_states
        self.num_steps = num_steps
        self.schedule = schedule
        self._betas = Table(schedule.betas(num_steps))

    @abstractmethod
    def at_beta(self, beta: Tensor) -> ToeplitzOperator:
        r"""One step of strength :math:`\beta`, float64 (B,), zero for none."""

    def stationary(self) -> Tensor:
        """Uniform."""
        return torch.full((self.num_states,), 1 / self.num_states, dtype=torch.float64)

    def single(self, t: Tensor) -> ToeplitzOperator:
        """See the base class."""
        return self.at_beta(self._betas[t - 1])
