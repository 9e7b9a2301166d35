r"""The score :math:`\nabla_x \log p_u(x)` of any linear SDE, from a denoising network.

For :math:`x_t = \sqrt{\bar\alpha} x_0 + \sqrt{1 - \bar\alpha}\, \epsilon` the score is
:math:`-\mathrm E[\epsilon | x_t] / \sqrt{1 - \bar\alpha}` (Tweedie), and a change of scale divides it by that scale.

References:
    Song et al., 2021, section 3.3; Efron, *Tweedie's Formula and Selection Bias*, 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion, like
from d3pm.gaussian.sde import SDE
from d3pm.objectives import Network, full_precision

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(x, u)``: (B, \\*) and float64 (B,) give (B, \\*)."""


def score_of(
    process: GaussianDiffusion,
    network: Network,
    sde: SDE,
    *,
    first: float = 1.0,
    threshold: bool = False,
    **cond: Any,
) -> Score:
    r"""What a network trained for ``process`` says of the law :math:`p_u` of ``sde``.

    The input is scaled to the process's :math:`x_t` and **the time is matched by noise level**: the network is asked
    at the (fractional) t with :math:`\bar\alpha_t = a^2 / (a^2 + \sigma^2)`. Song et al. give it 999 u (counted from 0)
    instead, which is nearly the same noise for the linear VP-SDE (its :math:`\bar\alpha(1)` belongs to t = 996.6 of a
    thousand discrete steps) and another noise for every other equation.

    A network that knows whole times only must round by itself. Its likelihood then wants rtol and atol of 1e-3 or so:
    a stricter solver spends its calls on the jumps.

    Noise below :math:`\bar\alpha_1` or above :math:`\bar\alpha_T` was never seen in training. There the score *at that
    level* is kept, which differs little if data are smooth on the scale :math:`\sqrt{1 - \bar\alpha_1}`, where a
    denoised image held fixed would give an error divided by the vanishing variance.

    Args:
        process: What the network was trained for: its schedule, its T, its prediction.
        network: ``network(x_t, t, **cond)`` with float64 t (B,).
        sde: Whose score is wanted.
        first: The earliest time the network knows; 0 for one trained on all of [0, T].
        threshold: Threshold the denoised data as the process does. Not for likelihoods: it is no longer a score.
        **cond: Passed to the network.

    Returns:
        ``score(x, u)``, one network call each, differentiable in x.

    Raises:
        ConfigError: If ``first`` is not in [0, T].
    """
    if not 0 <= first <= process.num_steps:
        raise ConfigError(f"first is {first}: choose a time in 0 .. T={process.num_steps}")

    def score(x: Tensor, u: Tensor) -> Tensor:
        scale, alpha_bar = sde.level(u)
        t = process.time(alpha_bar).clamp(first, process.num_steps).to(x.device)
        x_t = x / like(scale, x)
        output = network(x_t, t, **cond)
        with full_precision(x):
            exact = x_t.double()  # differences are divided by a noise that vanishes
            noise = process.noise(process.denoise(output, exact, t, threshold=threshold), exact, t)
            std = (1 - process.alpha_bar(t)).sqrt() * scale.to(x.device)
            return (-noise / like(std, noise)).to(x.dtype)

    return score


class Counted:
    """A score that counts its network calls, as ``calls``."""

    def __init__(self, score: Score) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """The score."""
        self.calls += 1
        return self.score(x, u)


def denoised(sde: SDE, score: Score, x: Tensor, u: Tensor) -> Tensor:
    r""":math:`\mathrm E[x_0 | x_u] = (x + \sigma^2\, \nabla \log p_u(x)) / a` (Tweedie), (B, \*); one network call."""
    scale, std = (like(m, x) for m in sde.moments(u))
    return (x + std**2 * score(x, u)) / scale
