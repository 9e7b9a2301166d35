"""Uniform diffusion."""

from __future__ import annotations

from d3pm.errors import ConfigError
from d3pm.schedules import Schedule, UnsquaredCosineSchedule
from d3pm.transitions.laws import UniformLaw
from d3pm.transitions.rank_one import RankOneTransition


class UniformTransition(RankOneTransition):
    r"""Multinomial diffusion: with chance :math:`\beta_t` a token is redrawn from all K states alike.

    .. math:: Q_t = (1 - \beta_t)\, I + \tfrac{\beta_t}{K}\, \mathbf 1 \mathbf 1^\top

    Note :math:`\beta_t / K` on the diagonal too: a redrawn token may come out as it was. The stationary law
    is uniform. No matrix is stored; corruption costs O(1) a token, the bound one pass over K.

    Args:
        num_states: K, at least 2.
        num_steps: T, at least 1.
        schedule: How fast; Hoogeboom's unsquared cosine by default.

    Raises:
        ConfigError: If K < 2 or T < 1.

    References:
        Hoogeboom et al., 2021; Austin et al., 2021, section 3.1 and appendix A.2.1.

    >>> import torch
    >>> kernel = UniformTransition(num_states=2, num_steps=1)
    >>> kernel.between(torch.tensor([0]), torch.tensor([1])).dense()[0].sum(-1)
    tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(self, num_states: int, num_steps: int, schedule: Schedule | None = None) -> None:
        if num_states < 2:
            raise ConfigError(f"num_states is {num_states}: a diffusion needs at least 2 states")
        super().__init__(UniformLaw(num_states), num_steps, schedule or UnsquaredCosineSchedule())
