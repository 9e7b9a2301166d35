r"""The bound read as a code: how many bits have been sent by time t, and how far the picture still is.

Coding :math:`x_T, x_{T-1}, \ldots` one after another costs :math:`L_T + L_{T-1} + \cdots`; what a receiver
knows by then shows as :math:`\hat x_0(x_t)`, with some distortion.

References:
    Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, section 4.3 and table 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.gaussian.process import GaussianDiffusion
from d3pm.objectives import VLB, Network, vlb_terms


@dataclass(frozen=True)
class RateDistortion:
    """Column i belongs to t = i + 1.

    Attributes:
        terms: :math:`L_{t-1}`, (T,), bits a dimension, means over the batch.
        rate: Sent before :math:`x_{t-1}` is: :math:`L_T + \\sum_{i > t} L_{i-1}`, (T,), bits a dimension.
        rmse: Of :math:`\\hat x_0(x_t)`, (T,), on the scale 0 … 255.
        bound: All terms, by example.
    """

    terms: Tensor
    rate: Tensor
    rmse: Tensor
    bound: VLB


@torch.no_grad()
def rate_distortion(
    process: GaussianDiffusion,
    network: Network,
    x0: Tensor,
    *,
    generator: torch.Generator | None = None,
    **cond: Any,
) -> RateDistortion:
    """Rate and distortion at every t from one pass over the bound's terms: T network calls.

    Args:
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        x0: Data (B, C, \\*) in [-1, 1].
        generator: Source of the draws.
        **cond: Passed to the network.
    """
    squares = torch.zeros(process.num_steps, dtype=torch.float64)

    def listening(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        output = network(x_t, t, **cond)
        squares[int(t[0]) - 1] = (process.denoise(output, x_t, t) - x0).double().square().mean()
        return output

    bound = vlb_terms(process, listening, x0, generator=generator, **cond)
    terms, rate = bound.by_time()
    return RateDistortion(terms, rate, squares.sqrt() * 127.5, bound)
