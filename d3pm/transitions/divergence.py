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
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d3pm.distributions import pick, safe_divide
from d3pm.transitions.laws import Law, UniformLaw


@dataclass(frozen=True)
class Step:
    r"""One reverse step of a rank-one kernel.

    Attributes:
        signal: :math:`\bar\alpha_s`, broadcastable to the entries.
        alpha: :math:`\alpha_{t|s}`, likewise.
        at_data: Whether s = 0, likewise.
        law: :math:`\pi`.
        x_t: Where the step starts, (B, \*).
    """

    signal: Tensor
    alpha: Tensor
    at_data: Tensor
    law: Law
    x_t: Tensor


def divergence(step: Step, logits: Tensor, known: Tensor, x0: Tensor) -> Tensor:
    r"""KL of the posterior to the ``d3pm`` reverse step, (B, \*) in nats; zero, gradient too, where ``known``."""
    return _Divergence.apply(logits, step, known, x0)


def _over_law(step: Step, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r""":math:`\pi` and :math:`\rho / \pi_j`, broadcastable to (B, \*, K); a state without mass weighs nothing."""
    ratio = (step.signal / (1 - step.signal)).masked_fill_(step.signal == 1, 0.0).unsqueeze(-1)
    if isinstance(step.law, UniformLaw):
        num_states = step.law.num_states
        return ratio.new_full((1,), 1 / num_states, dtype=dtype), (ratio * num_states).to(dtype)
    law = step.law.probs(step.x_t.device)
    return law.to(dtype), (ratio * safe_divide(1.0, law)).to(dtype)


def _softened(log_p: Tensor, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`\hat g = \bar\alpha_s p + n`: its first part, the share of that in it, and its logarithm.

    Without noise the share is one, and p may lie below the smallest float64: its logarithm is taken as it is.
    """
    part, pure = log_p.exp().mul_(signal), noise == 0
    total = part + noise
    share = torch.where(pure, 1.0, part / total)
    return part, share, torch.where(pure, log_p + signal.log(), total.log_())


class _Divergence(torch.autograd.Function):
    """Where K is small the passes over entries cost most: those at x_0 and at x_t are made together, as (2, B, ...)."""

    @staticmethod
    def forward(ctx, logits, step, known, x0):  # type: ignore[no-untyped-def]
        signal, alpha, later, states = step.signal, step.alpha, ~step.at_data, torch.stack([x0, step.x_t])
        log_probs = logits.log_softmax(-1)
        log_p = pick(log_probs.expand(2, *log_probs.shape), states).double()
        probs = log_probs.exp_()
        law, scale = _over_law(step, probs.dtype)
        lift = (probs * scale).log1p_()
        lift = (lift.sum(-1) * law if len(law) == 1 else lift.mul_(law).sum(-1)).double()  # no TF32

        pi = step.law.at(states)
        noise, kept, pi_i = 1 - signal, signal * alpha, pi[-1]
        background, elsewhere = noise * pi, (1 - kept) * pi_i
        noise_0, noise_i = background[0], background[-1]
        part, share, (log_0, log_i) = _softened(log_p, signal, background)
        start = torch.xlogy(signal + noise_0, signal + noise_0) - torch.xlogy(noise_0, noise_0)

        same = (x0 == step.x_t).double()
        evidence = torch.addcmul(elsewhere, same, kept)
        g_i = torch.addcmul(noise_i, same, signal)
        weigh_i, weigh = alpha * g_i / evidence, (1 - alpha) * pi_i / evidence  # of h_i, and of the sum of h
        back = alpha * part[1]
        evidence_hat = back + elsewhere

        total = torch.where(g_i > 0, weigh_i * (g_i.log() - log_i), 0.0)
        total += weigh * (start - signal * log_0 - noise * lift)
        total += (evidence_hat / evidence).log_().mul_(later)

        # What the divergence gains per unit of log-belief at x_0 and at x_t, and of belief everywhere.
        gains = torch.stack([-signal * weigh, -weigh_i, torch.where(signal < 1, -signal, 0.0) * weigh])
        gains[:2] *= share
        gains[1] += (back / evidence_hat).mul_(later)
        ctx.save_for_backward(probs, states, gains.masked_fill_(known, 0.0).to(probs.dtype), law, scale)
        return total.masked_fill_(known, 0.0).to(probs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        probs, (x0, x_t), gains, law, scale = ctx.saved_tensors
        at_0, at_i, everywhere = (gains * grad).unsqueeze(-1)
        out = probs * scale
        torch.div(probs, out.add_(1), out=out)
        if len(law) > 1:
            out *= law > 0
        out *= everywhere
        out.scatter_add_(-1, x0.unsqueeze(-1), at_0)
        out.scatter_add_(-1, x_t.unsqueeze(-1), at_i)
        out.addcmul_(probs, out.sum(-1, keepdim=True), value=-1)
        return out, None, None, None
