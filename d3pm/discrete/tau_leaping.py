"""Tau-leaping: many jumps of the continuous-time reverse chain in one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.discrete.rates import EntrywiseSampler, Rates, at_data, discrete, jumps, rank_one
from d3pm.distributions import safe_divide
from d3pm.process import Process
from d3pm.transitions.blend import BeliefBlend, Weights
from d3pm.transitions.operators import expand


@dataclass(frozen=True)
class TauLeaping(EntrywiseSampler):
    r"""Hold the rates of the reverse chain at :math:`x_t` over the step, and let every entry jump by itself.

    With the rates r, r' of :func:`~d3pm.discrete.rates.reverse_rates` an entry at x jumps a Poisson number of times to
    other states of the belief and of the background, with means :math:`c\, (1 - \tilde p(x))` and
    :math:`c' (1 - \pi_x)`,

    .. math:: c = r\, (\bar\alpha_s - \bar\alpha_t), \qquad c' = r' \log(\bar\alpha_s / \bar\alpha_t),

    exact integrals of the rates with all else held. Categories have no order in which several jumps could be added
    up, so they are ranked: a jump to the belief counts before one to the background, and either once:

    .. math:: p(x_s) = w\, \tilde p + (1 - w)(1 - e^{-c'})\, \pi + (1 - w)\, e^{-c'} e_x, \qquad
              w = \frac{1 - e^{-c (1 - \tilde p(x))}}{1 - \tilde p(x)}.

    Where no signal is left at t, :math:`c' = \infty`: what is not drawn from the belief is a fresh draw from
    :math:`\pi`, which may be x. At s = 0 all is drawn from the belief. Under the absorbing kernel a mask is revealed
    with chance :math:`1 - e^{-c}`, :math:`c = (\bar\alpha_s - \bar\alpha_t) / (1 - \bar\alpha_t)`, where ancestral
    sampling has c.

    One network call a step. Approximate: with an exact belief the error of the law is of first order in the step.
    For absorbing, uniform and marginal kernels; the rates are those of the model's own reverse form.

    References:
        Campbell et al., *A Continuous Time Framework for Discrete Denoising Models*, 2022 (arXiv 2205.14987), section
        4.3. There an entry with more than one jump stays where it was.
    """

    def check_process(self, process: Process) -> None:
        """See the base class."""
        rank_one(process, self, "Ancestral or Tweedie")

    def law(self, process: Process, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> BeliefBlend:
        """See the base class; two stages, and of the belief in x_t one number an entry."""
        kernel = rank_one(process, self, "Ancestral or Tweedie")
        gained = expand(kernel.alpha_bars[s] - kernel.alpha_bars[t], x_t)
        clock = -expand(kernel.keep(s, t), x_t).log()

        def weigh(rates: Rates) -> Weights:
            mean, away = gained * rates.to_belief, 1 - rates.here
            seen = torch.where(away > 0, safe_divide(-torch.expm1(-mean * away), away), mean)
            fresh = torch.where(
                rates.to_noise > 0, clock * rates.to_noise, 0.0
            )  # the clock may run to infinity
            weights = seen, (1 - seen) * -torch.expm1(-fresh), (1 - seen) * torch.exp(-fresh)
            return at_data(expand(s, x_t), weights)

        return jumps(discrete(process, self, "Ancestral"), kernel, output, x_t, (s, t), weigh)
