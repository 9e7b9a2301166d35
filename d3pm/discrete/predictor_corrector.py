r"""Predictor and corrector: after each step, jumps forth and back that keep :math:`q_s` and repair other laws."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from d3pm.discrete.rates import Rates, discrete, jumps, rank_one
from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Ancestral, Sampler
from d3pm.transitions.blend import BeliefBlend, Weights
from d3pm.transitions.operators import expand


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    r"""Any sampler's step to s, then ``corrections`` leaps of the chain with the rates :math:`R_s + \hat R_s`.

    Forward and reverse rates at one time s add up to a chain that keeps :math:`q_s`. Time stands still, and an own
    clock runs for :math:`\epsilon (1 - \bar\alpha_s)`, :math:`\epsilon` the ``size``: an entry is noised
    :math:`\epsilon (1 - \bar\alpha_s)` times on average and, where it is noise, drawn from the belief
    :math:`\epsilon \bar\alpha_s` times, neither of which grows without bound at either end. With
    :math:`\epsilon = 1` an entry is drawn anew about once. Of several jumps in one correction the last counts:

    .. math:: p(x_s' | x_s) = (1 - e^{-c - c'}) \frac{c\, \tilde p + c' \pi}{c + c'} + e^{-c - c'} e_{x_s}, \qquad
              c = \epsilon (1 - \bar\alpha_s)\, \bar\alpha_s\, r, \quad c' = \epsilon (1 - \bar\alpha_s) (1 + r'),

    with the rates r, r' of :func:`~d3pm.discrete.rates.reverse_rates` at s. Under the absorbing kernel this masks
    tokens with chance :math:`(1 - \bar\alpha_s)(1 - e^{-\epsilon})` and reveals them with
    :math:`\bar\alpha_s (1 - e^{-\epsilon})`, so that mistakes can be taken back.

    ``corrections`` more network calls a step, but none for the step to s = 0, which is not corrected. With an exact
    belief, in the mixture form, a correction moves :math:`q_s` by :math:`O(\epsilon^2)`, and not at all for a single
    entry under the absorbing kernel; from a wrong law it leads towards :math:`q_s`. For absorbing, uniform and marginal
    kernels. Known entries are put back after the step, so with several corrections the later ones may look at noise in
    their place.

    Args:
        corrections: How many after each step; with 0 this is the predictor.
        size: :math:`\epsilon > 0`.
        predictor: Takes the steps.

    Raises:
        ConfigError: If ``corrections`` is negative or ``size`` not positive.

    References:
        Campbell et al., *A Continuous Time Framework for Discrete Denoising Models*, 2022 (arXiv 2205.14987), section
        4.4.
    """

    corrections: int = 1
    size: float = 0.1
    predictor: Sampler = field(default_factory=Ancestral)

    def __post_init__(self) -> None:
        if self.corrections < 0:
            raise ConfigError(f"PredictorCorrector corrections is {self.corrections}: choose 0 or more")
        if not 0 < self.size < float("inf"):
            raise ConfigError(f"PredictorCorrector size is {self.size}: choose it above 0, such as 0.1")

    def begin(self) -> PredictorCorrector:
        """See the base class."""
        return replace(self, predictor=self.predictor.begin())

    def check_process(self, process: Process) -> None:
        """See the base class."""
        self.predictor.check_process(process)
        rank_one(process, self, type(self.predictor).__name__)

    def default_steps(self, process: Process) -> int:
        """As many as the predictor takes."""
        return self.predictor.default_steps(process)

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
        x_s = self.predictor.step(process, network, x_t, s, t, generator)
        if bool((s == 0).all()):
            return x_s
        at_data = expand(s == 0, x_s)
        seen = torch.where(s == 0, t, s)
        for _ in range(self.corrections):
            output = network(x_s, seen)
            with full_precision(x_s):
                corrected = self.law(process, output, x_s, seen).sample(generator)
            x_s = torch.where(at_data, x_s, corrected)
        return x_s

    def law(self, process: Process, output: Tensor, x_s: Tensor, s: Tensor) -> BeliefBlend:
        r"""The law of every entry after one correction, given the network's output at :math:`x_s`; s > 0."""
        kernel = rank_one(process, self, type(self.predictor).__name__)
        signal = expand(kernel.alpha_bars[s], x_s)
        clock = self.size * (1 - signal)

        def weigh(rates: Rates) -> Weights:
            seen, fresh = clock * signal * rates.to_belief, clock * (1 + rates.to_noise)
            total = seen + fresh
            a = -torch.expm1(-total) * safe_divide(seen, total)
            b = -torch.expm1(-total) * safe_divide(fresh, total)
            return a, b, torch.exp(-total)

        return jumps(discrete(process, self, "Ancestral"), kernel, output, x_s, (s, s), weigh)
