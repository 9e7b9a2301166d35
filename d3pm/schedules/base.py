r"""How fast the data is destroyed: :math:`\bar\alpha(u)`, the share that survives at time :math:`u = t/T`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.specs import Part


def betas_from(alpha_bars: Tensor) -> Tensor:
    r""":math:`\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}`, (T+1,) to (T,); 1 once nothing is left to lose."""
    before, after = alpha_bars[:-1], alpha_bars[1:]
    return torch.where(before > 0, 1 - after / torch.where(before > 0, before, 1.0), 1.0)


class Schedule(Part, ABC):
    r"""A decreasing map :math:`\bar\alpha: [0, 1] \to [0, 1]` with :math:`\bar\alpha(0) = 1`."""

    max_beta: float = 1.0

    @classmethod
    def example(cls) -> Schedule:
        """A small instance for tests and docs; override it where the constructor needs arguments."""
        return cls()

    @abstractmethod
    def alpha_bar(self, u: Tensor) -> Tensor:
        """The surviving share at times ``u`` in [0, 1], float64."""

    def alpha_bars(self, num_steps: int) -> Tensor:
        r""":math:`\bar\alpha_0 \ldots \bar\alpha_T`, float64 (T+1,), with :math:`\beta_t \le` ``max_beta``.

        Raises:
            ConfigError: If ``num_steps`` is not positive.
        """
        check_steps(num_steps)
        values = self.alpha_bar(torch.arange(num_steps + 1, dtype=torch.float64) / num_steps).double()
        if not 0 < self.max_beta <= 1:
            raise ConfigError(f"max_beta is {self.max_beta}: choose it in (0, 1]")
        if not abs(float(values[0]) - 1) < 1e-9:
            raise ConfigError(f"{type(self).__name__}: alpha_bar(0) is {float(values[0]):.6g}: it must be 1")
        betas = betas_from(values)
        if bool((betas > self.max_beta).any()):
            return survival(betas.clamp(max=self.max_beta))
        survival(betas)  # refuses what rises, or falls below 0
        return values

    def betas(self, num_steps: int) -> Tensor:
        r""":math:`\beta_1 \ldots \beta_T`, float64 (T,)."""
        return betas_from(self.alpha_bars(num_steps))


def check_steps(num_steps: int) -> None:
    """Refuse a number of steps that is not a positive whole number."""
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ConfigError(f"num_steps is {num_steps}: a process needs a whole number of steps, at least 1")


def survival(betas: Tensor) -> Tensor:
    r""":math:`\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)`, (T,) to (T+1,), refusing :math:`\beta` outside [0, 1]."""
    bad = ((betas < 0) | (betas > 1) | betas.isnan()).nonzero().flatten()
    if len(bad):
        t = int(bad[0])
        raise ConfigError(
            f"beta at t={t + 1} is {betas[t].item():.6g}, outside [0, 1]: lower it, or take more steps"
        )
    return torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, 0)])
