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

    The variances :math:`\eta_i \propto i` (``"linear"``) or :math:`i^2` (``"quadratic"``) are scaled so that
    :math:`\prod_i (1 - \eta_i) = \bar\alpha_T`; step i is then taken at the time whose
    :math:`\bar\alpha` is :math:`\prod_{j \le i} (1 - \eta_j)`. A network trained at whole times is asked between them.

    Raises:
        ConfigError: If ``steps`` is below 1, the kind is unknown, or the schedule ends at 0, which no variances
            below 1 reach.

    References:
        Kong and Ping, *On Fast Sampling of Diffusion Probabilistic Models*, 2021, sections 3.1 and 3.2 (VAR).
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}: take at least 1")
    if kind not in ("linear", "quadratic"):
        raise ConfigError(f"kind is {kind!r}: choose 'linear' or 'quadratic'")
    if process.ends_without_signal:
        raise ConfigError("noise_levels: the schedule ends at alpha_bar 0: use a grid of whole times instead")
    shape = torch.arange(1, steps + 1, dtype=torch.float64) ** (1 if kind == "linear" else 2)
    shape = shape / shape[-1]
    last = math.log(float(process.alpha_bar(torch.tensor([process.num_steps]))))
    low, high = 0.0, 1.0  # of eta_S, the largest
    for _ in range(200):
        middle = (low + high) / 2
        below = float(torch.log1p(-middle * shape).sum()) < last
        low, high = (low, middle) if below else (middle, high)
    alpha_bars = torch.cumprod(1 - (low + high) / 2 * shape, 0)
    times = process.time(alpha_bars).tolist()
    return [float(process.num_steps), *times[-2::-1], 0.0] if steps > 1 else [float(process.num_steps), 0.0]
