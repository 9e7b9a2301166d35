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

from d3pm.distributions import pick, safe_divide, safe_log
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
    ratio = safe_divide(step.signal, 1 - step.signal)
    uniform = isinstance(step.law, UniformLaw)
    law = step.law.at(step.x_t).flatten()[:1] if uniform else step.law.probs(step.x_t.device)
    inverse = safe_divide(1.0, law)
    return law.to(dtype), (ratio.unsqueeze(-1) * inverse).to(dtype)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """``exp(part - whole)`` of a part in its sum; the part is all of it where both vanish."""
    return torch.where(whole > -torch.inf, torch.exp(part - whole), 1.0)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, step, known, x0):  # type: ignore[no-untyped-def]
        signal, alpha, x_t = step.signal, step.alpha, step.x_t
        log_probs = logits.log_softmax(-1)
        log_0, log_i = pick(log_probs, x0).double(), pick(log_probs, x_t).double()
        probs = log_probs.exp_()

        law, scale = _over_law(step, probs.dtype)
        lift = (probs * scale).log1p_()
        lift = (lift.sum(-1) * law if len(law) == 1 else (lift * law).sum(-1)).double()  # no TF32

        same, pi_0, pi_i = (x0 == x_t).double(), step.law.at(x0), step.law.at(x_t)
        noise, kept, log_signal = 1 - signal, signal * alpha, safe_log(signal)
        evidence = kept * same + (1 - kept) * pi_i
        noise_0, noise_i = noise * pi_0, noise * pi_i
        log_hat_0 = torch.logaddexp(log_signal + log_0, noise_0.log())
        log_hat_i = torch.logaddexp(log_signal + log_i, noise_i.log())
        g_i = signal * same + noise_i
        surprise_i = torch.where(g_i > 0, g_i * (g_i.log() - log_hat_i), 0.0)
        start = torch.xlogy(signal + noise_0, signal + noise_0) - torch.xlogy(noise_0, noise_0)
        surprise = start - signal * log_hat_0 - noise * lift
        belief_i = log_i.exp()
        evidence_hat = kept * belief_i + (1 - kept) * pi_i
        fresh = (1 - alpha) * pi_i
        total = (alpha * surprise_i + fresh * surprise) / evidence
        total = total + torch.where(step.at_data, 0.0, (evidence_hat / evidence).log())

        # What the divergence gains per unit of log-belief at x_0 and at x_t, and of belief elsewhere.
        at_0 = -signal * fresh / evidence * _share(log_signal + log_0, log_hat_0)
        at_i = -alpha * g_i / evidence * _share(log_signal + log_i, log_hat_i)
        at_i = at_i + torch.where(step.at_data, 0.0, kept * belief_i / evidence_hat)
        elsewhere = -signal * fresh / evidence
        ctx.step = step
        saved = [w.masked_fill(known, 0.0).to(probs.dtype) for w in (at_0, at_i, elsewhere.expand_as(total))]
        ctx.save_for_backward(probs, x0, *saved)
        return total.masked_fill(known, 0.0).to(probs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        probs, x0, at_0, at_i, elsewhere = ctx.saved_tensors
        law, scale = _over_law(ctx.step, probs.dtype)
        out = probs * scale
        torch.div(probs, out.add_(1), out=out)
        if len(law) > 1:
            out *= law > 0
        out *= torch.where(ctx.step.at_data, 0.0, elsewhere * grad).to(out.dtype).unsqueeze(-1)
        out.scatter_add_(-1, x0.unsqueeze(-1), (at_0 * grad).unsqueeze(-1))
        out.scatter_add_(-1, ctx.step.x_t.unsqueeze(-1), (at_i * grad).unsqueeze(-1))
        out.addcmul_(probs, out.sum(-1, keepdim=True), value=-1)
        return out, None, None, None
