r"""Exact likelihoods by the probability flow, a continuous normalizing flow.

.. math:: \log p_\varepsilon(x) = \log p_1(x_1) + \int_\varepsilon^1 \operatorname{div} v_u(x_u)\, du,
          \qquad v_u(x) = f x - \tfrac12 g^2\, \nabla \log p_u(x)

The divergence is exact at D backward passes, or estimated without bias at one a probe:
:math:`\operatorname{div} v = \mathrm E[z^\top (\partial v / \partial x)\, z]`.

References:
    Song et al., 2021, section 4.3 and appendix D.2; Grathwohl et al., *FFJORD*, 2019; Hutchinson, 1990.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from d3pm.distributions import Normal, uniforms
from d3pm.errors import ConfigError, DataError
from d3pm.gaussian.euler_maruyama import check_end
from d3pm.gaussian.ode import State, solve
from d3pm.gaussian.process import like
from d3pm.gaussian.score import Counted, Score
from d3pm.gaussian.sde import SDE

Probe = Literal["rademacher", "gaussian"]


@dataclass(frozen=True)
class Likelihood:
    r"""What :func:`log_likelihood` found out about a batch.

    Attributes:
        log_prob: (B,) nats, float64: a log-density, or with ``levels`` a lower bound on the log-probability.
        latent: :math:`x_1` (B, \*), where the flow has carried the data.
        num_dims: Entries an example has.
        evaluations: Network calls, for the whole batch.
    """

    log_prob: Tensor
    latent: Tensor
    num_dims: int
    evaluations: int

    def bits_per_dim(self) -> Tensor:
        """Bits an entry, (B,)."""
        return -self.log_prob / (self.num_dims * math.log(2))


@torch.no_grad()
def log_likelihood(
    sde: SDE,
    score: Score,
    x0: Tensor,
    *,
    levels: int | None = None,
    probes: int | None = 1,
    probe: Probe = "rademacher",
    start: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> Likelihood:
    r"""The log-likelihood of each example under the model whose samples are :func:`~d3pm.gaussian.ode.ode_sample`'s.

    Data are read as :math:`x_\varepsilon`: what is found is :math:`\log p_\varepsilon`, the data's density under the
    noise :math:`\sigma(\varepsilon)` (1e-3 for the linear VP-SDE; ``sigma_min`` for the VE-SDE).

    Args:
        sde: The equation.
        score: Its score, not thresholded.
        x0: Data (B, \*). The network sees its dtype, the solver works in float64.
        levels: For pictures of so many levels in [-1, 1]: they are dequantized (:func:`dequantize`) and the bin's
            width is counted, :math:`\log_2(\text{levels} / 2)` bits an entry: 7 for 256.
        probes: Hutchinson probes, each a backward pass a network call; None for the exact divergence, D passes.
            They are drawn once and kept over the path, as a solver needs.
        probe: Their law. Rademacher is exact where the score's Jacobian is diagonal.
        start: :math:`\varepsilon`.
        rtol: Relative tolerance, for each example by itself.
        atol: Absolute tolerance, of the latent's entries and of the nats.
        generator: Source of the probes and of the dequantization.

    Returns:
        Log-probabilities, latents, and the number of network calls.

    Raises:
        ConfigError: If a number makes no sense, or the solver cannot keep the tolerance.
        DataError: If ``levels`` is given and the data leave [-1, 1].
    """
    _check(probes, probe, levels)
    x = x0 if levels is None else dequantize(x0, levels, generator)
    directions = _directions(x, probes, probe, generator)
    counted = Counted(score)

    def rates(u: Tensor, state: State) -> State:
        y = state[0].to(x.dtype)
        gradient, divergence = with_divergence(counted, y, u, directions, exact=probes is None)
        decay, half = sde.decay(u), 0.5 * sde.diffusion(u) ** 2
        moved = like(decay, state[0]) * state[0] - like(half, state[0]) * gradient
        return moved, decay * num_dims - half * divergence

    num_dims = x[0].numel()
    begun = (x.double(), x.new_zeros(len(x), dtype=torch.float64))
    latent, change = solve(rates, begun, check_end(start), 1.0, rtol, atol)
    log_prob = (
        sde.prior(latent.shape, latent.device, latent.dtype).log_prob(latent).flatten(1).sum(1) + change
    )
    if levels is not None:
        log_prob = log_prob + num_dims * math.log(2 / levels)
    return Likelihood(log_prob, latent.to(x.dtype), num_dims, counted.calls)


def with_divergence(
    score: Score, x: Tensor, u: Tensor, directions: Tensor | Sequence[Tensor], *, exact: bool
) -> tuple[Tensor, Tensor]:
    r"""The score (B, \*) and its divergence (B,), float64: one network call, one backward pass a direction.

    ``directions`` are probes (k, B, \*), whose quadratic forms are averaged, or a basis, over which they are summed.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = score(x, u)
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for z in directions:
            (pulled,) = torch.autograd.grad(value, x, z.expand_as(value), retain_graph=True)
            total += (pulled * z).flatten(1).sum(1, dtype=torch.float64)
    return value.detach().double(), total if exact else total / len(directions)


def dequantize(x0: Tensor, levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    r"""Spread each level k = 0 … L-1, given as :math:`2k/(L-1) - 1`, evenly over its bin :math:`2(k + [0,1))/L - 1`.

    The density of the result, times the bin's width :math:`2/L` an entry, bounds the probability of the picture from
    below on average (Jensen).

    References:
        Theis et al., *A note on the evaluation of generative models*, 2016, section 3.1; Song et al., 2021,
        appendix D.2.

    Raises:
        DataError: If the data leave [-1, 1].

    >>> spread = dequantize(torch.tensor([-1.0, 1.0]).repeat(1000), levels=2)  # two bins: [-1, 0) and [0, 1)
    >>> spread.sign()[:4]
    tensor([-1.,  1., -1.,  1.])
    """
    if x0.numel() and not -1 - 1e-4 <= float(x0.min()) <= float(x0.max()) <= 1 + 1e-4:
        raise DataError(
            f"x0 runs from {float(x0.min()):.4g} to {float(x0.max()):.4g}: pictures of {levels} levels lie in [-1, 1]"
        )
    level = ((x0.double() + 1) / 2 * (levels - 1)).round()
    return (2 * (level + uniforms(x0.shape, x0.device, generator)) / levels - 1).to(x0.dtype)


def _directions(
    x: Tensor, probes: int | None, probe: Probe, generator: torch.Generator | None
) -> Tensor | list[Tensor]:
    """Probes (k, B, \\*), or the unit vectors, each (1, \\*)."""
    if probes is None:
        basis = torch.eye(x[0].numel(), device=x.device, dtype=x.dtype)
        return [e.view(1, *x.shape[1:]) for e in basis]
    shape = torch.Size((probes, *x.shape))
    if probe == "rademacher":
        return (2 * (uniforms(shape, x.device, generator) < 0.5) - 1).to(x.dtype)
    zeros = x.new_zeros(shape)
    return Normal(zeros, torch.ones_like(zeros)).sample(generator)


def _check(probes: int | None, probe: str, levels: int | None) -> None:
    if probes is not None and probes < 1:
        raise ConfigError(f"probes is {probes}: choose 1 or more, or None for the exact divergence")
    if probe not in ("rademacher", "gaussian"):
        raise ConfigError(f"probe is {probe!r}: choose 'rademacher' or 'gaussian'")
    if levels is not None and levels < 2:
        raise ConfigError(f"levels is {levels}: a picture has 2 or more")
