r"""The bound as T grows: an integral over continuous time.

Reverse jumps from i to j happen at the rate :math:`-\bar\alpha' / \bar\alpha\; \pi_i\, r_j` with
:math:`r_j = q(x_u = j | x_0) / q(x_u = i | x_0)`, those of the model with :math:`\hat r_j` instead, and the bound is

.. math:: \int_0^1 -\frac{\bar\alpha'}{\bar\alpha}\, \pi_i\; \mathrm E \sum_{j \ne i}
          \Big[ \hat r_j - r_j + r_j \log \frac{r_j}{\hat r_j} \Big]\, du, \qquad i = x_u.

For the absorbing kernel this is
:math:`\int -\bar\alpha' / (1 - \bar\alpha)\, \mathrm E \sum_{masked} -\log \tilde p(x_0)\, du`, which does
not depend on the schedule. In the ``d3pm`` form the ratio of the model is one of expectations, and only one sum runs
over K (see :mod:`d3pm.transitions.divergence`); in the ``mixture`` form it is an expectation of ratios.

References:
    Campbell et al., 2022, proposition 2; Shi et al. (MD4), 2024, section 3; Schiff et al., 2024, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.distributions import Categorical, pick, safe_divide, safe_log
from d3pm.errors import ConfigError
from d3pm.objectives import Objective, stratified
from d3pm.process import Process
from d3pm.schedules import Schedule
from d3pm.transitions.belief import Belief
from d3pm.transitions.divergence import Rate, divergence
from d3pm.transitions.operators import RankOneOperator, expand
from d3pm.transitions.rank_one import RankOneTransition


def survival_and_slope(schedule: Schedule, u: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\bar\alpha(u)` and :math:`\bar\alpha'(u)`, float64 (B,)."""
    u = u.detach().double()
    # Forwards: no compiler stops at it, and it may stand inside what is computed again on the way back.
    survival: tuple[Tensor, Tensor] = torch.func.jvp(schedule.alpha_bar, (u,), (torch.ones_like(u),))  # type: ignore
    return survival


def integrand(process: DiscreteDiffusion, output: Tensor, x0: Tensor, x_u: Tensor, u: Tensor) -> Tensor:
    """The integrand of every entry, (B, \\*) in nats a unit of u.

    Args:
        process: With a rank-one kernel.
        output: Logits (B, \\*, K) of the network at time u T.
        x0: Data (B, \\*).
        x_u: Drawn from q(x_u | x_0).
        u: Times in (0, 1), float64 (B,).
    """
    kernel = rank_one(process)
    alpha_bar, slope = (expand(a, x0) for a in survival_and_slope(kernel.schedule, u))
    if kernel.absorbing_state is not None:
        masked = x_u == kernel.absorbing_state
        surprise = -kernel.belief(output, x_u, torch.ones_like(u, dtype=torch.int64)).log_prob(x0)
        return torch.where(masked, -slope / (1 - alpha_bar) * surprise, 0.0).to(surprise.dtype)
    pace = safe_divide(-slope, alpha_bar)
    if process.reverse_form == "d3pm":
        belief = Belief(output, x_u, known=kernel.untouched(x_u, alpha_bar))
        return divergence(Rate(kernel.law, x_u, alpha_bar, pace), belief, x0)
    return _mixture(kernel, output, x0, x_u, alpha_bar, pace)


def _mixture(
    kernel: RankOneTransition, output: Tensor, x0: Tensor, x_u: Tensor, alpha_bar: Tensor, pace: Tensor
) -> Tensor:
    """The integrand where the model's ratio is the expectation of ratios; dense, in float64."""
    law = kernel.law.probs(x0.device)
    log_belief = Categorical(output).log_probs
    belief = log_belief.double().exp()
    noise = (1 - alpha_bar).unsqueeze(-1) * law
    true = noise.expand(*x0.shape, -1).scatter_add(
        -1, x0.unsqueeze(-1), alpha_bar.expand_as(x0).unsqueeze(-1)
    )
    ratio = true / pick(true, x_u).unsqueeze(-1)
    believed = _expected_ratios(belief, alpha_bar.unsqueeze(-1), noise, x_u)
    # r (d - log(1 + d)), d the relative excess: second order in the error, with no cancellation as signal fades.
    seen = ratio > 0
    excess = safe_divide(believed - ratio, ratio)
    near = excess.abs() < 0.5
    far_log = safe_log(believed) - safe_log(ratio)
    log_excess = torch.where(near, torch.where(near, excess, 0.0).log1p(), far_log)
    terms = torch.where(seen, ratio * (excess - log_excess), believed)
    total = terms.scatter(-1, x_u.unsqueeze(-1), 0.0).sum(-1)
    # Nothing jumps to a state without mass, and nothing is left to learn without signal.
    rate = pace * kernel.law.at(x_u)
    return torch.where(rate > 0, rate * total, 0.0).to(log_belief.dtype)


def _expected_ratios(belief: Tensor, alpha_bar: Tensor, noise: Tensor, x_u: Tensor) -> Tensor:
    r""":math:`\hat r_j`, the expectation of ratios."""
    noise_u, belief_u = pick(noise.expand_as(belief), x_u).unsqueeze(-1), pick(belief, x_u).unsqueeze(-1)
    noise_u = torch.where(noise_u > 0, noise_u, 1.0)
    return (alpha_bar * belief + (1 - belief_u) * noise) / noise_u + belief_u * noise / (alpha_bar + noise_u)


def rank_one(process: Process) -> RankOneTransition:
    """The process's kernel, refused if it has no continuous time."""
    kernel = getattr(process, "transition", None)
    if not isinstance(kernel, RankOneTransition):
        raise ConfigError(
            f"ContinuousTimeBound needs an absorbing, uniform or marginal kernel, not {type(kernel).__name__}: "
            "use VariationalBound"
        )
    return kernel


@dataclass(frozen=True)
class ContinuousTimeBound(Objective):
    r"""The limit of :class:`~d3pm.objectives.VariationalBound` as T grows; the network is told the time :math:`u T`.

    One stratified u in (0, 1] an example; O(1) an entry for the absorbing kernel beyond one cross-entropy, a few
    passes over K otherwise. Defined for rank-one kernels; refuses others.
    """

    is_bound: ClassVar[bool] = True

    def draw(self, process: Process, x0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """See the base class; fractional times u T."""
        kernel = rank_one(process)
        u = 1 - stratified(x0, generator)
        x_u = RankOneOperator(kernel.schedule.alpha_bar(u), kernel.law).sample(x0, generator)
        return u * process.num_steps, x_u

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The integrand at u = t / T. At whole times, as beside another loss, its mean is a sum, not the integral."""
        rank_one(process)
        assert isinstance(process, DiscreteDiffusion)
        return integrand(process, output, x0, x_t, t.double() / process.num_steps)
