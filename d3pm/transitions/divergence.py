r"""The bound's term of a rank-one kernel in one pass over K.

Write :math:`i = x_t`. The posterior is :math:`(\alpha e_i + (1-\alpha)\pi_i)_j\, g_j / Z` and the reverse step
:math:`(\alpha e_i + (1-\alpha)\pi_i)_j\, \hat g_j / \hat Z`, with

.. math::
    g = \bar\alpha_s e_{x_0} + (1-\bar\alpha_s)\pi, & \hat g = \bar\alpha_s \tilde p + (1-\bar\alpha_s)\pi, \\
    Z = \bar\alpha_t [x_0 = i] + (1-\bar\alpha_t)\pi_i, & \hat Z = \bar\alpha_t \tilde p_i + (1-\bar\alpha_t)\pi_i.

The common factor cancels:

.. math::
    \mathrm{KL} = \log\frac{\hat Z}{Z} + \frac{1}{Z} \Big[ \alpha\, h_i + (1-\alpha)\,\pi_i \sum_j h_j \Big],
    \qquad h_j = g_j \log\frac{g_j}{\hat g_j}

and only :math:`\sum_j \pi_j \log \hat g_j` runs over K. At s = 0 the reverse step is the belief itself, whose
divergence is the same without :math:`\log \hat Z / Z`.

For an infinitesimal step, :math:`\alpha = 1 - d\tau`, this is :math:`d\tau` times

.. math::
    \frac{\pi_i}{g_i} \Big[ \sum_j h_j + \frac{g_i}{\hat g_i} - 1 - \log \frac{g_i}{\hat g_i} \Big],

with :math:`\bar\alpha_s = \bar\alpha_t`: the divergence of the two laws of a fresh :math:`x_t`, and what the one at
hand says on top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d3pm.distributions import exp_, pick, safe_divide
from d3pm.transitions.belief import Belief
from d3pm.transitions.laws import Law, UniformLaw


@dataclass(frozen=True)
class Term(ABC):
    r"""A divergence that knows the belief by three numbers an entry.

    Attributes:
        law: :math:`\pi`.
        x_t: Where the step starts, (B, \*).
        signal: :math:`\bar\alpha_s`, float64, broadcastable to the entries.
    """

    law: Law
    x_t: Tensor
    signal: Tensor

    @abstractmethod
    def __call__(self, same: Tensor, pi: Tensor, log_p: Tensor, lift: Tensor) -> tuple[Tensor, Tensor]:
        r"""The term, and what it gains per unit of log-belief in x_0 and in x_t, and of belief everywhere.

        Args:
            same: Where :math:`x_0 = x_t`, float64 (B, \*).
            pi: Mass of x_0 and of x_t, broadcastable to (2, B, \*).
            log_p: Log-belief in x_0 and in x_t, (2, B, \*).
            lift: :math:`\sum_j \pi_j \log(1 + \rho\, \tilde p_j / \pi_j)` with
                :math:`\rho = \bar\alpha_s / (1 - \bar\alpha_s)`, (B, \*).

        Returns:
            The term (B, \*), and the gains (3, B, \*).
        """


@dataclass(frozen=True)
class Step(Term):
    r"""One reverse step.

    Attributes:
        alpha: :math:`\alpha_{t|s}`, broadcastable to the entries.
        at_data: Whether s = 0, likewise.
    """

    alpha: Tensor
    at_data: Tensor

    def __call__(self, same: Tensor, pi: Tensor, log_p: Tensor, lift: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        signal, alpha, later = self.signal, self.alpha, ~self.at_data
        noise, kept, pi_i = 1 - signal, signal * alpha, pi[-1]
        background, elsewhere = noise * pi, (1 - kept) * pi_i
        noise_0, noise_i = background[0], background[-1]
        part, share, (log_0, log_i) = _softened(log_p, signal, background)
        start = torch.xlogy(signal + noise_0, signal + noise_0) - torch.xlogy(noise_0, noise_0)

        evidence = torch.addcmul(elsewhere, same, kept)
        g_i = torch.addcmul(noise_i, same, signal)
        weigh_i, weigh = alpha * g_i / evidence, (1 - alpha) * pi_i / evidence  # of h_i, and of the sum of h
        back = alpha * part[1]
        evidence_hat = back + elsewhere

        total = torch.where(g_i > 0, weigh_i * (g_i.log() - log_i), 0.0)
        total += weigh * (start - signal * log_0 - noise * lift)
        total += (evidence_hat / evidence).log_().mul_(later)

        gains = torch.stack([-signal * weigh, -weigh_i, torch.where(signal < 1, -signal, 0.0) * weigh])
        gains[:2].mul_(share)
        gains[1].add_((back / evidence_hat).mul_(later))
        return total, gains


@dataclass(frozen=True)
class Rate(Term):
    r"""An infinitesimal step, per unit of whatever the pace is per.

    Attributes:
        pace: How fast tokens are drawn afresh, :math:`-\bar\alpha' / \bar\alpha`, broadcastable to the entries.
    """

    pace: Tensor

    def __call__(self, same: Tensor, pi: Tensor, log_p: Tensor, lift: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class. Differences are taken of numbers as small as the signal, which may fade."""
        signal, noise = self.signal, 1 - self.signal
        background = noise * pi
        noise_0, noise_i = background[0], background[-1]
        part, share, (log_0, _) = _softened(log_p, signal, background)
        some = torch.where(noise_0 > 0, noise_0, 1.0)
        noisy = (signal + noise_0) * (signal / some).log1p() - signal * (part[0] / some).log1p()
        marginal = (
            torch.where(noise_0 > 0, noisy, torch.xlogy(signal, signal) - signal * log_0) - noise * lift
        )

        seen, g_i = noise_i > 0, torch.addcmul(noise_i, same, signal)
        weight = torch.where(seen, self.pace * pi[-1] / g_i, 0.0)
        ratio = torch.where(seen, g_i / (part[1] + noise_i), 1.0)
        excess = torch.where(seen, (signal * same - part[1]) / (part[1] + noise_i), 0.0)
        log_ratio = torch.where(excess.abs() < 0.5, excess.log1p(), ratio.log())
        everywhere = torch.where(signal < 1, -signal, 0.0) * weight
        gains = torch.stack([-signal * weight * share[0], -excess * weight * share[1], everywhere])
        return weight * (marginal + excess - log_ratio), gains


def divergence(term: Term, belief: Belief, x0: Tensor) -> Tensor:
    r"""The term, (B, \*) in nats; zero, gradient too, where the belief is known. One pass over K.

    The belief's surprise at x0 is a by-product, and is left with it.
    """
    assert belief.known is not None
    total, surprise = _OnePass.apply(belief.logits.to(belief.dtype), term, belief.known, x0)
    belief.remember(x0, surprise)
    return total


def _over_law(term: Term, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r""":math:`\pi` and :math:`\rho / \pi_j`, broadcastable to (B, \*, K); a state without mass weighs nothing."""
    ratio = (term.signal / (1 - term.signal)).masked_fill_(term.signal == 1, 0.0).unsqueeze(-1)
    if isinstance(term.law, UniformLaw):
        num_states = term.law.num_states
        return ratio.new_full((1,), 1 / num_states, dtype=dtype), (ratio * num_states).to(dtype)
    law = term.law.probs(term.x_t.device)
    return law.to(dtype), (ratio * safe_divide(1.0, law)).to(dtype)


def _softened(log_p: Tensor, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`\hat g = \bar\alpha_s p + n`: its first part, the share of that in it, and its logarithm.

    Without noise the share is one, and p may lie below the smallest float64: its logarithm is taken as it is.
    """
    part, pure = log_p.exp().mul_(signal), noise == 0
    total = part + noise
    share = torch.where(pure, 1.0, part / total)
    return part, share, torch.where(pure, log_p + signal.log(), total.log_())


class _OnePass(torch.autograd.Function):
    """The term and the surprise at x_0.

    Where K is small the passes over entries cost most: those at x_0 and at x_t are made together, as (2, B, ...).
    """

    @staticmethod
    def forward(ctx, logits, term, known, x0):  # type: ignore[no-untyped-def]
        states = torch.stack([x0, term.x_t])
        log_probs = logits.log_softmax(-1)
        picked = pick(log_probs.expand(2, *log_probs.shape), states)
        probs = exp_(log_probs)
        law, scale = _over_law(term, probs.dtype)
        lift = (probs * scale).log1p_()
        lift = (lift.sum(-1) * law if len(law) == 1 else lift.mul_(law).sum(-1)).double()  # no TF32
        same, pi = (x0 == term.x_t).double(), term.law.at(states)
        total, gains = term(same, pi, picked.double(), lift)
        gains = gains.to(probs.dtype).masked_fill_(known, 0.0)
        ctx.save_for_backward(probs, states, gains, law, scale, known)
        ctx.set_materialize_grads(False)  # the surprise is seldom asked for
        return total.to(probs.dtype).masked_fill_(known, 0.0), (-picked[0]).masked_fill_(known, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_surprise):  # type: ignore[no-untyped-def]
        probs, (x0, x_t), gains, law, scale, known = ctx.saved_tensors
        at_0, at_i, everywhere = (torch.zeros_like(gains) if grad is None else gains * grad).unsqueeze(-1)
        if grad_surprise is not None:
            at_0 -= grad_surprise.masked_fill(known, 0.0).unsqueeze(-1)
        out = probs * scale
        torch.div(probs, out.add_(1), out=out)
        if len(law) > 1:
            out *= law > 0
        out *= everywhere
        out.scatter_add_(-1, x0.unsqueeze(-1), at_0)
        out.scatter_add_(-1, x_t.unsqueeze(-1), at_i)
        out.addcmul_(probs, out.sum(-1, keepdim=True), value=-1)
        return out, None, None, None
