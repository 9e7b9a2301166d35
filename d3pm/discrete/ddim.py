"""DDIM's categorical analogue: reverse steps with the same marginals and more or less fresh noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from d3pm.discrete.rates import EntrywiseSampler, FixedBlend, rank_one
from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.process import Process
from d3pm.transitions.operators import expand


@dataclass(frozen=True)
class CategoricalDDIM(EntrywiseSampler):
    r"""A step that keeps :math:`x_t`, takes the data, or draws from the background, with chances fixed by the times.

    .. math::
        q_\sigma(x_s | x_t, x_0) = \sigma\, e_{x_t} + (\bar\alpha_s - \sigma \bar\alpha_t)\, e_{x_0}
        + \eta\, (1 - \bar\alpha_s)\, \pi, \qquad \sigma = (1 - \eta)\, \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t},

    with :math:`x_0` drawn from the belief, read as :math:`q(x_0 | x_t)`. Every :math:`\sigma` keeps all
    :math:`q(x_s | x_0)`; the bound on it is the largest that leaves no chance below 0, so :math:`\eta = 0` brings no
    fresh noise at all: an entry stays or becomes data. At :math:`\eta = 1` nothing is kept: :math:`x_0` is guessed and
    noised to s anew.

    Under the absorbing kernel :math:`\eta = 0` *is* ancestral sampling, and a larger one masks revealed tokens again,
    each with chance :math:`\eta (1 - \bar\alpha_s)`, so that mistakes can be taken back. Under the others ancestral
    sampling is no member of the family: its chances depend on whether :math:`x_0 = x_t`.

    One network call a step; for absorbing, uniform and marginal kernels. With an exact belief single entries are exact
    at any number of steps. Entries are drawn apart, which costs joint laws an error of the first order in the step at
    :math:`\eta = 0`. With fresh noise every step draws a share of all entries anew however small the step is, and the
    error falls more slowly, at :math:`\eta = 1` about with the root of the step.

    Args:
        eta: The share of the noise that is drawn anew, in [0, 1].

    Raises:
        ConfigError: If ``eta`` is outside [0, 1].

    References:
        Song et al., *Denoising Diffusion Implicit Models*, 2021 (arXiv 2010.02502), appendix A.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"CategoricalDDIM eta is {self.eta}: choose it in [0, 1]")

    def check_process(self, process: Process) -> None:
        """See the base class."""
        rank_one(process, self, "Ancestral")

    def law(self, process: Process, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> FixedBlend:
        """See the base class; at s = 0 the belief, whatever eta is."""
        kernel = rank_one(process, self, "Ancestral")
        at_s, at_t = expand(kernel.alpha_bars[s], x_t), expand(kernel.alpha_bars[t], x_t)
        sigma = (1 - self.eta) * safe_divide(1 - at_s, 1 - at_t)
        weights = at_s - sigma * at_t, self.eta * (1 - at_s), sigma
        return FixedBlend(kernel.law, kernel.belief(output, x_t, t), weights, (s, t))
