r"""The stationary law :math:`\pi` of a rank-one kernel, kept in its structure: a point, uniform, or a list.

Each can be read at a state and sampled in O(1) an entry, which is what makes corruption independent of K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from d3pm.draws import integers, uniforms
from d3pm.errors import ConfigError
from d3pm.tables import Table


class Law(ABC):
    """A law over K states in float64."""

    num_states: int

    @abstractmethod
    def probs(self, device: torch.device) -> Tensor:
        """All of it, (K,)."""

    @abstractmethod
    def at(self, x: Tensor) -> Tensor:
        r""":math:`\pi_x`, broadcastable against x (B, \*)."""

    def occurs(self, x: Tensor) -> Tensor:
        r"""Where :math:`\pi_x > 0`, bool, broadcastable against x (B, \*)."""
        return self.at(x) > 0

    @abstractmethod
    def sample(self, shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Independent int64 draws."""


class PointLaw(Law):
    """All mass on one state."""

    def __init__(self, num_states: int, state: int) -> None:
        self.num_states, self.state = num_states, state

    def probs(self, device: torch.device) -> Tensor:
        """See the base class."""
        out = torch.zeros(self.num_states, dtype=torch.float64, device=device)
        out[self.state] = 1.0
        return out

    def at(self, x: Tensor) -> Tensor:
        """See the base class."""
        return self.occurs(x).double()

    def occurs(self, x: Tensor) -> Tensor:
        """See the base class."""
        return x == self.state

    def sample(self, shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """See the base class; draws nothing from the generator."""
        return torch.full(shape, self.state, dtype=torch.int64, device=device)


class UniformLaw(Law):
    """Every state alike."""

    def __init__(self, num_states: int) -> None:
        self.num_states = num_states

    def probs(self, device: torch.device) -> Tensor:
        """See the base class."""
        return torch.full((self.num_states,), 1 / self.num_states, dtype=torch.float64, device=device)

    def at(self, x: Tensor) -> Tensor:
        """See the base class."""
        return torch.full((1,) * x.dim(), 1 / self.num_states, dtype=torch.float64, device=x.device)

    def sample(self, shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """See the base class."""
        return integers(self.num_states, shape, device, generator)


class ListedLaw(Law):
    """Any law, sampled by Walker's alias method: one uniform, one comparison, whatever K is."""

    def __init__(self, probs: Tensor) -> None:
        self.num_states = len(probs)
        self._probs = Table(probs)
        threshold, alias = alias_table(probs)
        self._threshold, self._alias = Table(threshold), Table(alias)

    def probs(self, device: torch.device) -> Tensor:
        """See the base class."""
        return self._probs.on(device)

    def at(self, x: Tensor) -> Tensor:
        """See the base class."""
        return self._probs[x]

    def sample(self, shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """See the base class."""
        u = uniforms(shape, device, generator) * self.num_states
        column = u.long()
        return torch.where(u - column < self._threshold[column], column, self._alias[column].long())


def alias_table(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Walker's table: column k keeps k below ``threshold[k]`` and gives ``alias[k]`` above; O(K).

    References:
        Walker, 1977; Vose, *A Linear Algorithm for Generating Random Numbers with a Given Distribution*, 1991.
    """
    height = (probs.double() * len(probs)).tolist()
    alias = list(range(len(height)))
    small = [k for k, h in enumerate(height) if h < 1]
    large = [k for k, h in enumerate(height) if h >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        height[high] -= 1 - height[low]
        if height[high] < 1:
            small.append(large.pop())
    for k in small + large:  # rounding left these over: full, or for an impossible state passed on whole
        height[k], alias[k] = (1.0, k) if probs[k] > 0 else (0.0, int(probs.argmax()))
    return torch.tensor(height, dtype=torch.float64), torch.tensor(alias)


def checked_law(values: Tensor, name: str) -> Tensor:
    """A law in float64: refuse entries below zero, or a sum away from one."""
    law = torch.as_tensor(values, dtype=torch.float64).flatten()
    if bool((law < 0).any()) or bool(law.isnan().any()):
        worst = int(law.nan_to_num(-1.0).argmin())
        raise ConfigError(f"{name}[{worst}] is {law[worst].item():.6g}: probabilities must be at least 0")
    off = abs(float(law.sum()) - 1)
    if off > 1e-6:
        raise ConfigError(f"{name} sums to {law.sum().item():.6g}: divide by the sum so that it is 1")
    return law / law.sum() if off > 1e-12 else law
