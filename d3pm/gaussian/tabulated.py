r"""A schedule given by its table, as published models and other libraries give theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.schedules import Schedule, check_steps, survival
from d3pm.tables import Table


@dataclass(frozen=True, eq=False)
class TabulatedSchedule(Schedule):
    r"""Any :math:`\beta_1 \ldots \beta_T`.

    Between the table's times :math:`\log\bar\alpha` is linear: noise comes at a constant rate within a step. In a
    step that leaves nothing (:math:`\beta = 1`), where that rate would be infinite, :math:`\bar\alpha` itself is.

    Args:
        table: The betas (T,), each in [0, 1]; kept in float64.

    Raises:
        ConfigError: If there are none, or one is not in [0, 1].

    >>> TabulatedSchedule([0.5, 0.5]).alpha_bar(torch.tensor([0.0, 0.5, 0.75, 1.0]))
    tensor([1.0000, 0.5000, 0.3536, 0.2500], dtype=torch.float64)
    """

    table: Tensor | Sequence[float]
    knots: Table = field(init=False, repr=False)

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.table, dtype=torch.float64).cpu()
        if betas.dim() != 1 or not len(betas):
            raise ConfigError(f"table has shape {tuple(betas.shape)}: give one beta for each step, (T,)")
        object.__setattr__(self, "table", betas)
        object.__setattr__(self, "knots", Table(survival(betas)))

    @classmethod
    def example(cls) -> TabulatedSchedule:
        """Seven steps, the last of which leaves nothing."""
        return cls([0.01, 0.02, 0.05, 0.1, 0.3, 0.6, 1.0])

    def alpha_bar(self, u: Tensor) -> Tensor:
        """See the class."""
        place = torch.as_tensor(u, dtype=torch.float64) * (len(self.knots) - 1)
        below = place.long().clamp(0, len(self.knots) - 2)
        share, start, end = place - below, self.knots[below], self.knots[below + 1]
        return torch.where(end > 0, start * safe_divide(end, start) ** share, start * (1 - share))

    def alpha_bars(self, num_steps: int) -> Tensor:
        """The table itself for its own T; read between its times for any other."""
        check_steps(num_steps)
        if num_steps == len(self.knots) - 1:
            return self.knots.values
        return super().alpha_bars(num_steps)
