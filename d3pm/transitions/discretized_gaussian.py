"""Diffusion of ordered states to their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from d3pm.schedules import LinearSchedule, ReciprocalSchedule, Schedule
from d3pm.transitions.cumulative import flush
from d3pm.transitions.ordinal import OrdinalTransition
from d3pm.transitions.toeplitz import ToeplitzOperator


class DiscretizedGaussianTransition(OrdinalTransition):
    r"""Grey levels, ages, bins: a state drifts to its neighbours as a Gaussian walk between two walls would.

    .. math::
        [Q_t]_{ij} = \frac{\exp\!\big(-\tfrac{4 (i-j)^2}{(K-1)^2 \beta_t}\big)}
        {\sum_{n=-(K-1)}^{K-1} \exp\!\big(-\tfrac{4 n^2}{(K-1)^2 \beta_t}\big)} \;(i \ne j), \qquad
        [Q_t]_{ii} = 1 - \sum_{j \ne i} [Q_t]_{ij}

    One step has the width :math:`\sqrt{\beta_t / 8}\,(K - 1)` in states. Symmetric, so rows and columns sum to one
    and the stationary law is uniform; it is reached as far as the schedule's :math:`\beta` allow, and the
    bound's :math:`L_T` tells what is missing.

    Steps are kept as their distances, :math:`8 T K` bytes; products :math:`\bar Q_t` as a table,
    :math:`8 (T + 1) K^2` bytes (525 MB at K = 256, T = 1000). Corruption costs O(K) a state, the bound O(K²).

    Args:
        num_states: K, at least 2.
        num_steps: T.
        schedule: Gives :math:`\beta_t`; the paper's linear one by default, from 0.0001 to 0.02 at T = 1000. It takes
            most of what a pixel tells in the first tenth of the steps: ``MutualInformationSchedule`` spreads the loss.

    Raises:
        ConfigError: If K < 2, or the table of products would not fit.

    References:
        Austin et al., *Structured Denoising Diffusion Models in Discrete State-Spaces*, 2021, appendix A.2.3.

    >>> kernel = DiscretizedGaussianTransition(num_states=4, num_steps=100)
    >>> step = kernel.between(torch.tensor([99]), torch.tensor([100])).dense()[0]
    >>> step.sum(0), step.sum(1)
    (tensor([1., 1., 1., 1.], dtype=torch.float64), tensor([1., 1., 1., 1.], dtype=torch.float64))
    """

    def __init__(self, num_states: int, num_steps: int, schedule: Schedule | None = None) -> None:
        super().__init__(num_states, num_steps, schedule or LinearSchedule())

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> DiscretizedGaussianTransition:
        """Steps wide enough for few states, on a schedule that short chains have too."""
        return cls(num_states, num_steps, ReciprocalSchedule())

    def at_beta(self, beta: Tensor) -> ToeplitzOperator:
        """See the base class."""
        distance = torch.arange(1, self.num_states, dtype=torch.float64, device=beta.device)
        scaled = 4 * (distance / (self.num_states - 1)) ** 2
        weights = flush(torch.exp(-scaled / beta.unsqueeze(1)))
        return ToeplitzOperator(weights / (1 + 2 * weights.sum(1, keepdim=True)), self.num_states)
