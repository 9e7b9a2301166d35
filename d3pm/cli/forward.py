"""The forward process under a schedule, drawn beside the linear and the cosine one.

References:
    Nichol and Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021, figures 3 and 5.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from d3pm.cli.pictures import grid
from d3pm.data.base import Codec
from d3pm.schedules import CosineSchedule, LinearSchedule, Schedule

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 13
"""Moments of the forward process."""

LOWEST = -20
"""Of log SNR in the picture: what lies below is nothing to the eye."""


def prior_bits(alpha_bar: Tensor, mean_square: float) -> Tensor:
    r""":math:`\mathrm{KL}(\mathcal N(\sqrt{\bar\alpha}\, x_0, 1 - \bar\alpha) \,\|\, \mathcal N(0, 1))`, bits/dim.

    It depends on the data by their mean square alone, and is infinite where :math:`\bar\alpha = 1`.

    >>> [f"{bits:.2e}" for bits in prior_bits(torch.tensor([0.0, 4.036e-5], dtype=torch.float64), 1.0)]
    ['0.00e+00', '2.91e-05']
    """
    alpha_bar = alpha_bar.double()
    return (alpha_bar * (mean_square - 1) - torch.log1p(-alpha_bar)) / (2 * math.log(2))


def plot(schedule: Schedule, num_steps: int, codec: Codec, x0: Tensor, file: Path) -> None:
    """Draw what survives, its ratio to the noise, how far from the prior x_t is, and a picture's ruin by each schedule.

    The pictures are ``x0`` (B, C, H, W), the first of which is ruined.
    """
    from matplotlib.figure import Figure

    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    curves = {str(schedule): schedule.alpha_bars(num_steps)}
    # The others are for comparison only: their continuous form has a value at any number of steps.
    others = [other for other in (LinearSchedule(), CosineSchedule()) if other != schedule]
    curves |= {type(other).__name__: other.alpha_bar(u) for other in others}
    figure = Figure(figsize=(11, 5 + 0.9 * len(curves)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[4, 0.9 * len(curves)])[:, 0]
    left, right, far = upper.subplots(1, 3)
    mean_square = float(x0.double().square().mean())
    strips = lower.subplots(len(curves), 1, squeeze=False)[:, 0]
    for axes, (name, alpha_bars) in zip(strips, curves.items(), strict=True):
        left.plot(alpha_bars, label=name)
        right.plot(range(1, num_steps + 1), (alpha_bars / (1 - alpha_bars)).log()[1:])
        far.semilogy(range(1, num_steps + 1), prior_bits(alpha_bars, mean_square)[1:])
        axes.imshow(np.asarray(ruin(alpha_bars, codec, x0[:1])), cmap="gray")
        axes.set_title(name, fontsize="small")
        axes.axis("off")
    left.set(title=r"$\bar\alpha_t$", xlabel="t")
    left.legend(fontsize="x-small", loc="lower left")
    low = max(right.get_ylim()[0], LOWEST)
    right.set(title=r"$\log\,\mathrm{SNR}_t$", xlabel="t", ylim=(low, None))
    far.set(title=r"KL$(q(x_t|x_0)\,\|\,N(0, I))$, bits/dim", xlabel="t", ylim=(1e-7, None))
    figure.savefig(file, dpi=150)


def ruin(alpha_bars: Tensor, codec: Codec, x0: Tensor) -> "Image":
    """One picture (1, C, H, W) at even times from 0 to T, always under the same noise."""
    last = len(alpha_bars) - 1
    times = torch.linspace(0, last, min(COLUMNS, last + 1)).round().long()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    kept = alpha_bars[times].float().view(-1, 1, 1, 1)
    return grid(codec.decode(kept.sqrt() * x0 + (1 - kept).sqrt() * noise), columns=len(times))
