r"""Heun's method on the probability-flow ODE: second order, two network calls a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.gaussian.process import GaussianDiffusion, angle, gaussian, like, spread
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler


@dataclass(frozen=True)
class Heun(Sampler):
    r"""Mean of the slopes at both ends of a step, along the angle :math:`\phi = \arccos \sqrt{\bar\alpha}`.

    With :math:`x = \cos\phi\, x_0 + \sin\phi\, \epsilon` the flow is
    :math:`dx/d\phi = v = \cos\phi\, \epsilon - \sin\phi\, x_0`, which is regular from pure noise to data:

    .. math:: x' = \cos\delta\; x_t + \sin\delta\; v(x_t, t), \qquad
              x_s = x_t + \tfrac{\delta}{2} \big( v(x_t, t) + v(x', s) \big), \qquad \delta = \phi_s - \phi_t

    The predictor is DDIM, and at s = 0, where no network is defined, the step. With S steps there are 2S - 1
    network calls.

    References:
        Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*, 2022, algorithm 1, in
        the coordinates of Salimans and Ho, *Progressive Distillation*, 2022, appendix D.
    """

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class."""
        process = gaussian(process, self, "Ancestral")
        turn = angle(process.alpha_bar(s)) - angle(process.alpha_bar(t))
        slope = velocity(process, network, x_t, t)
        ahead = like(turn.cos(), x_t) * x_t + like(turn.sin(), x_t) * slope
        at_data = s == 0
        if bool(at_data.all()):
            return ahead
        later = velocity(process, network, ahead, torch.where(at_data, t, s))
        corrected = x_t + like(turn / 2, x_t) * (slope + later)
        return torch.where(spread(at_data, x_t), ahead, corrected)


def velocity(process: GaussianDiffusion, network: Network, x_t: Tensor, t: Tensor) -> Tensor:
    r""":math:`v = \sqrt{\bar\alpha}\, \hat\epsilon - \sqrt{1 - \bar\alpha}\, \hat x_0` of the thresholded estimate."""
    output = network(x_t, t)
    with full_precision(x_t):
        x0 = process.denoise(output, x_t, t)
        # v = (cos x_t - x_0) / sin, from x_t = cos x_0 + sin eps
        phi = angle(process.alpha_bar(t))
        return (like(phi.cos(), x_t) * x_t - x0) / like(phi.sin(), x_t)
