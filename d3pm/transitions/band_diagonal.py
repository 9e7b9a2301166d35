"""Diffusion of ordered states within a band."""

from __future__ import annotations

from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules import Schedule, UnsquaredCosineSchedule
from d3pm.transitions.ordinal import OrdinalTransition
from d3pm.transitions.toeplitz import ToeplitzOperator


class BandDiagonalTransition(OrdinalTransition):
    r"""A state moves to each of its ``width`` nearest neighbours on either side with one chance.

    .. math::
        [Q_t]_{ij} = \beta_t / K \;\; (0 < |i - j| \le v), \qquad [Q_t]_{ii} = 1 - \sum_{j \ne i} [Q_t]_{ij}

    The diagonal takes the remainder, at the ends of the line too, which keeps the matrix symmetric: rows and columns
    sum to one and the stationary law is uniform. A step moves few states by little, so a chain forgets only after some
    :math:`K^3 / v^3` units of :math:`\sum_t \beta_t`: take a wide band, or few states.

    Steps cost O(1) to store and O(K v) to apply; products as for the discretized Gaussian, 8 (T + 1) K² bytes.

    Args:
        num_states: K, at least 2.
        num_steps: T.
        width: v, from 1 to K - 1; half of the states by default.
        schedule: Gives :math:`\beta_t`; Hoogeboom's unsquared cosine by default.

    Raises:
        ConfigError: If K or v is out of range, or the table of products would not fit.

    References:
        Austin et al., *Structured Denoising Diffusion Models in Discrete State-Spaces*, 2021, appendix A.2.

    >>> import torch
    >>> kernel = BandDiagonalTransition(num_states=4, num_steps=2, width=1)
    >>> bool(kernel.between(torch.tensor([0]), torch.tensor([1])).dense()[0, 0, 2] == 0)
    True
    """

    def __init__(
        self, num_states: int, num_steps: int, width: int | None = None, schedule: Schedule | None = None
    ) -> None:
        super().__init__(num_states, num_steps, schedule or UnsquaredCosineSchedule())
        self.width = max(1, num_states // 2) if width is None else width
        if not 1 <= self.width < num_states:
            raise ConfigError(f"width is {width}: choose 1 .. {num_states - 1} for num_states={num_states}")

    def at_beta(self, beta: Tensor) -> ToeplitzOperator:
        """See the base class."""
        return ToeplitzOperator((beta / self.num_states).unsqueeze(1).expand(-1, self.width), self.num_states)
