r"""The probability-flow equation: no noise, and the marginals :math:`p_u` of the SDE all the same.

.. math:: \frac{dx}{du} = f(u)\, x - \tfrac12 g(u)^2\, \nabla \log p_u(x)

Run down it turns noise into data, run up it encodes data; each map is the other's inverse.

References:
    Song et al., 2021, section 4.3 and appendix D; Dormand and Prince, 1980 (the solver, by ``torchdiffeq``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.gaussian.euler_maruyama import begin, check_end, time_batch
from d3pm.gaussian.process import like
from d3pm.gaussian.score import Score, denoised
from d3pm.gaussian.sde import SDE

State = tuple[Tensor, ...]


def velocity(sde: SDE, score: Score, x: Tensor, u: Tensor) -> Tensor:
    r""":math:`dx/du` at x (B, \*) and u (B,); one network call."""
    return sde.drift(x, u) - 0.5 * like(sde.diffusion(u), x) ** 2 * score(x, u)


@torch.no_grad()
def transport(
    sde: SDE, score: Score, x: Tensor, *, start: float, end: float, rtol: float = 1e-5, atol: float = 1e-5
) -> Tensor:
    r"""Carry x along the flow: from data up to noise (an encoding), or from noise down to data.

    Args:
        sde: The equation.
        score: Its score; calls are counted by :class:`~d3pm.gaussian.score.Counted`.
        x: (B, \*) at time ``start``. The network sees its dtype, the solver works in float64.
        start: Time in (0, 1].
        end: Time in (0, 1], above or below ``start``.
        rtol: Relative tolerance, for each example by itself; see :func:`solve`.
        atol: Absolute tolerance.

    Returns:
        (B, \*) at time ``end``, in x's dtype.

    Raises:
        ConfigError: If a time is outside (0, 1], or the solver cannot keep the tolerance.
    """

    def rates(u: Tensor, state: State) -> State:
        y = state[0].to(x.dtype)
        return (velocity(sde, score, y, u).double(),)

    (moved,) = solve(rates, (x.double(),), start, end, rtol, atol)
    return moved.to(x.dtype)


@torch.no_grad()
def ode_sample(
    sde: SDE,
    score: Score,
    shape: Sequence[int],
    *,
    end: float = 1e-3,
    x_1: Tensor | None = None,
    denoise: bool = True,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Samples by the probability flow from the prior; a function of :math:`x_1` alone.

    The solver chooses its steps by the tolerance: some tens to hundreds of network calls, six a step.

    Args:
        sde: The equation.
        score: Its score.
        shape: Of the batch, (B, \*).
        end: Where to stop; at 0 the score of noiseless data would be asked for.
        x_1: Start here instead of at a draw from the prior.
        denoise: Return :math:`\mathrm E[x_0 | x_{end}]`, for one more call, instead of :math:`x_{end}`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        generator: Equal seeds give equal samples.
        device: Where to sample; that of ``x_1`` or of the generator if not given.
        dtype: Of the samples, where ``x_1`` does not say.

    Returns:
        Samples (B, \*).

    Raises:
        ConfigError: If ``end`` is not in (0, 1), or the solver cannot keep the tolerance.
    """
    x = begin(sde, shape, x_1, generator, device, dtype)
    x = transport(sde, score, x, start=1.0, end=check_end(end), rtol=rtol, atol=atol)
    return denoised(sde, score, x, time_batch(end, x)) if denoise else x


def solve(
    rates: Callable[[Tensor, State], State], state: State, start: float, end: float, rtol: float, atol: float
) -> State:
    """Integrate ``rates(u, state)``, u float64 (B,), over a batch of tensors (B, \\*) by Dormand–Prince 5(4).

    One step size serves the whole batch. It is chosen for the example with the largest error (the root mean square
    over its entries), so the tolerance holds for every example and no answer hides in a batch of easier ones. How a
    batch is split then moves an answer within the tolerance only.
    """
    from torchdiffeq import odeint

    _check(start, end, rtol, atol)

    times = torch.tensor([start, end], dtype=torch.float64, device=state[0].device)
    low, high = sorted((start, end))

    def batched(u: Tensor, now: State) -> State:
        return rates(u.double().clamp(low, high).expand(len(now[0])), now)

    def worst(now: State) -> Tensor:
        return torch.stack([y.reshape(len(y), -1).square().mean(1).max() for y in now]).max().sqrt()

    # The last step ends where the path does: nothing is asked, nor interpolated, from beyond, where no law may be.
    options = {"norm": worst, "step_t": times[1:]}
    try:
        path = odeint(batched, state, times, rtol=rtol, atol=atol, method="dopri5", options=options)
    except (
        AssertionError
    ) as error:  # the solver's way to say that no step is small enough, or a value not finite
        reason = str(error).splitlines()[0][:80]
        raise ConfigError(
            f"rtol is {rtol} and atol {atol}: the solver fails ({reason}): loosen them, or check the network's output"
        ) from error
    return tuple(y[-1] for y in path)


def _check(start: float, end: float, rtol: float, atol: float) -> None:
    for name, u in (("start", start), ("end", end)):
        if not 0 < u <= 1:
            raise ConfigError(f"{name} is {u}: choose a time in (0, 1]")
    if start == end:
        raise ConfigError(f"start and end are both {start}: choose two times")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not tolerance > 0:
            raise ConfigError(f"{name} is {tolerance}: it must be above 0, such as 1e-5")
