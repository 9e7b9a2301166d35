r"""What the samplers of rank-one kernels share: reverse rates, laws entry by entry, and whom they refuse.

On the clock :math:`\tau = -\log \bar\alpha` a token is drawn afresh from :math:`\pi` once a unit of time, so it goes
from y to x at the rate :math:`\pi_x`, and the reverse chain from x to y at
:math:`\pi_x \sum_{x_0} \tilde p(x_0 | x)\, q_t(y | x_0) / q_t(x | x_0)`.

References:
    Campbell et al., *A Continuous Time Framework for Discrete Denoising Models*, 2022 (arXiv 2205.14987), section 3.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.distributions import Categorical, safe_divide
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler
from d3pm.transitions.absorbing import AbsorbingTransition
from d3pm.transitions.base import ReverseForm
from d3pm.transitions.belief import Belief
from d3pm.transitions.blend import BeliefBlend, Weights
from d3pm.transitions.laws import Law
from d3pm.transitions.operators import expand
from d3pm.transitions.rank_one import RankOneTransition


class EntrywiseSampler(Sampler):
    """A sampler whose step draws every entry from a law of its own: one network call a step."""

    @abstractmethod
    def law(self, process: Process, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Categorical:
        r"""The law of every entry of :math:`x_s`, given the network's output at :math:`x_t`."""

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
        output = network(x_t, t)
        with full_precision(x_t):
            return self.law(process, output, x_t, s, t).sample(generator)


def discrete(process: Process, sampler: Sampler, instead: str) -> DiscreteDiffusion:
    """The process, refused (ConfigError) unless it is a :class:`DiscreteDiffusion`, of one kernel."""
    if not isinstance(process, DiscreteDiffusion):
        raise ConfigError(
            f"sampler is {type(sampler).__name__}, which serves a DiscreteDiffusion, and the process is a "
            f"{type(process).__name__}: use {instead}"
        )
    return process


def rank_one(process: Process, sampler: Sampler, instead: str) -> RankOneTransition:
    """The process's kernel, refused (ConfigError) unless it keeps a token or draws it afresh from one law."""
    kernel = discrete(process, sampler, instead).transition
    if not isinstance(kernel, RankOneTransition):
        raise ConfigError(
            f"sampler is {type(sampler).__name__}, which serves absorbing, uniform and marginal kernels, and the "
            f"kernel is a {type(kernel).__name__}: use {instead}"
        )
    return kernel


class Rates(NamedTuple):
    r"""How fast an entry at x goes to :math:`y \ne x`: float64, broadcastable against x (B, \*).

    Attributes:
        to_belief: r, of jumps to :math:`\tilde p`, a unit of :math:`\bar\alpha`.
        to_noise: r', of jumps to :math:`\pi`, a unit of :math:`\log \bar\alpha`.
        here: :math:`\tilde p(x)`, what of the belief is no jump.
    """

    to_belief: Tensor
    to_noise: Tensor
    here: Tensor


def reverse_rates(
    kernel: RankOneTransition, form: ReverseForm, x_t: Tensor, t: Tensor, belief_t: Tensor
) -> Rates:
    r"""The reverse rates of every entry, from the belief in the state where it is.

    For :math:`y \ne x` the reverse rate is :math:`r\, \tilde p(y)` a unit of :math:`\bar\alpha` and
    :math:`r'\, \pi_y` a unit of :math:`\log \bar\alpha`, with :math:`q_x = \bar\alpha + (1 - \bar\alpha) \pi_x` and

    - ``"mixture"``, an expectation of ratios: :math:`r = 1 / (1 - \bar\alpha)` and
      :math:`r' = 1 - \tilde p(x) + \tilde p(x)\, (1 - \bar\alpha) \pi_x / q_x`;
    - ``"d3pm"``, a ratio of expectations: :math:`r = \pi_x / Z`, :math:`r' = (1 - \bar\alpha) \pi_x / Z` and
      :math:`Z = \bar\alpha\, \tilde p(x) + (1 - \bar\alpha) \pi_x`.

    Args:
        kernel: Gives :math:`\bar\alpha` and :math:`\pi`.
        form: How the model's reverse step is made of its belief.
        x_t: Where the entries are, (B, \*).
        t: When, (B,).
        belief_t: :math:`\tilde p(x)`, float64 (B, \*).
    """
    signal, fresh = expand(kernel.alpha_bars[t], x_t), kernel.law.at(x_t)
    noise = (1 - signal) * fresh
    if form == "d3pm":
        evidence = signal * belief_t + noise
        return Rates(safe_divide(fresh, evidence), safe_divide(noise, evidence), belief_t)
    same = belief_t * safe_divide(noise, signal + noise)
    return Rates(safe_divide(1.0, 1 - signal), (1 - belief_t).clamp(min=0) + same, belief_t)


def jumps(
    process: DiscreteDiffusion,
    kernel: RankOneTransition,
    output: Tensor,
    x_t: Tensor,
    times: tuple[Tensor, Tensor],
    weigh: Callable[[Rates], Weights],
) -> BeliefBlend:
    """A blend of belief, background and staying, weighed by the :func:`reverse_rates` at the later time.

    Under the absorbing kernel the rates need no look at the belief: a masked token has no other noise to go to.
    """
    belief, t = kernel.belief(output, x_t, times[1]), times[1]
    if isinstance(kernel, AbsorbingTransition):
        rate = safe_divide(1.0, 1 - expand(kernel.alpha_bars[t], x_t))
        none = torch.zeros_like(rate)
        return FixedBlend(kernel.law, belief, weigh(Rates(rate, none, none)), times)

    def solve(belief_t: Tensor) -> Weights:
        return weigh(reverse_rates(kernel, process.reverse_form, x_t, t, belief_t))

    return BeliefBlend(kernel.law, belief, solve, times)


class FixedBlend(BeliefBlend):
    """A blend with the belief whose weights, float64 and broadcastable, do not depend on it."""

    def __init__(self, law: Law, belief: Belief, weights: Weights, times: tuple[Tensor, Tensor]) -> None:
        super().__init__(law, belief, lambda _: weights, times)
        self.weights = weights  # type: ignore[misc]


def at_data(s: Tensor, weights: Weights) -> Weights:
    """The weights, but at s = 0 (broadcastable) a draw from the belief."""
    zero = s == 0
    return tuple(torch.where(zero, end, w) for end, w in zip((1.0, 0.0, 0.0), weights, strict=True))  # type: ignore[return-value]
