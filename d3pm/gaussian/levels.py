r"""FastDPM's variable noise levels: choose S variances, then find the (fractional) times that have their noise."""

from __future__ import annotations

import math
from typing import Literal

import torch

from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion


def noise_levels(
    process: GaussianDiffusion, steps: int, kind: Literal["linear", "quadratic"] = "linear"
) -> list[float]:
    r"""Falling fractional times T = t_S > … > t_0 = 0 for ``sample(..., steps=times)``.

    The variances start at :math:`\eta_1 = \beta_1` and grow as :math:`\beta_1 (1 + c\, i)` (``"linear"``) or
    :math:`\beta_1 (1 + c\, i)^2` (``"quadratic"``), i = 0 … S-1, with c such that
    :math:`\prod_i (1 - \eta_i) = \bar\alpha_T`. The step that has brought :math:`\bar\alpha` to
    :math:`\prod_{j \le i} (1 - \eta_j)` is taken at the time of that level. A network trained at whole times is
    asked between them; with S = T and the linear schedule they are the whole times.

    Raises:
        ConfigError: If ``steps`` is not in 1 … T, the kind is unknown, or the schedule ends at 0, which no variances
            below 1 reach.

    References:
        Kong and Ping, *On Fast Sampling of Diffusion Probabilistic Models*, 2021, sections 3.1 and 3.2 (VAR).
    """
    if not 1 <= steps <= process.num_steps:
        raise ConfigError(
            f"steps is {steps}: this process has T={process.num_steps}, take 1 .. {process.num_steps}"
        )
    if kind not in ("linear", "quadratic"):
        raise ConfigError(f"kind is {kind!r}: choose 'linear' or 'quadratic'")
    if process.ends_without_signal:
        raise ConfigError("noise_levels: the schedule ends at alpha_bar 0: use a grid of whole times instead")
    if steps == 1:
        return [float(process.num_steps), 0.0]
    survival = _survival(process, steps, power=1 if kind == "linear" else 2)
    return [float(process.num_steps), *process.time(survival).tolist()[-2::-1], 0.0]


def _survival(process: GaussianDiffusion, steps: int, power: int) -> torch.Tensor:
    r""":math:`\prod_{j \le i} (1 - \eta_j)`, (S,), by bisection for c."""
    ends = process.alpha_bar(torch.tensor([1, process.num_steps])).tolist()
    first, wanted = 1 - ends[0], math.log(ends[1])
    places = torch.arange(steps, dtype=torch.float64)
    low, high = -1 / (steps - 1), (first ** (-1 / power) - 1) / (steps - 1)  # eta_S between 0 and 1
    for _ in range(200):
        middle = (low + high) / 2
        etas = first * (1 + middle * places) ** power
        low, high = (low, middle) if float(torch.log1p(-etas).sum()) < wanted else (middle, high)
    return torch.cumprod(1 - etas, 0)
