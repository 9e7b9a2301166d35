r"""The network's belief :math:`\tilde p(x_0 \mid x_t)` from its logits, normalised only where it is needed.

A (B, \*, K) tensor of logits is the largest thing in a training step, so the passes over it decide the
speed of the bound. Reading off one state's log-probability takes one pass and one saved copy.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d3pm.distributions import Categorical, draw, pick, uniforms


class Belief(Categorical):
    r"""A softmax over the states data can take, certain where :math:`x_t` leaves no doubt.

    Args:
        logits: The network's output (B, \*, K).
        x_t: The noisy states, int64 (B, \*).
        known: Where :math:`x_0 = x_t` for sure, bool (B, \*); None where no entry is.
        excluded: A state data never takes (the absorbing one), or None.
    """

    def __init__(
        self, logits: Tensor, x_t: Tensor, known: Tensor | None = None, excluded: int | None = None
    ) -> None:
        super().__init__(logits)
        self.x_t, self.known, self.excluded = x_t, known, excluded
        self.dtype = torch.promote_types(logits.dtype, torch.float32)

    @cached_property
    def log_probs(self) -> Tensor:
        """The whole belief (B, \\*, K); one pass over K."""
        logits = self.logits.to(self.dtype)
        if self.excluded is not None:
            column = torch.arange(logits.shape[-1], device=logits.device) == self.excluded
            logits = logits.masked_fill(column, -math.inf)
        log_probs = logits.log_softmax(-1)
        if self.known is None:
            return log_probs
        certain = torch.full_like(log_probs, -math.inf).scatter_(-1, self.x_t.unsqueeze(-1), 0.0)
        return torch.where(self.known.unsqueeze(-1), certain, log_probs)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-belief in the states x (B, \\*), without normalising the rest."""
        if "log_probs" in self.__dict__:
            return pick(self.log_probs, x)
        picked = self.surprise(x).neg()
        return (
            picked
            if self.known is None
            else torch.where(self.known, certainly(x, self.x_t, self.dtype), picked)
        )

    def surprise(self, x0: Tensor) -> Tensor:
        """``-log_prob(x0)`` for data that can have led to x_t: zero where ``known``, and unchecked there."""
        return picked_log_softmax(self.logits.to(self.dtype), x0, self.known, self.excluded).neg()

    def sample_where(self, where: Tensor, otherwise: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw at the entries ``where`` (B, \\*) is true, ``otherwise`` elsewhere; only those rows are touched.

        One uniform an entry is taken from the generator whichever entries are asked for.
        """
        u = uniforms(where.shape, where.device, generator)
        if self.known is not None:
            otherwise = torch.where(where & self.known, self.x_t, otherwise)
            where = where & ~self.known
        logits = self.logits[where].to(self.dtype)
        if self.excluded is not None:
            logits[:, self.excluded] = -math.inf
        out = otherwise.clone()
        out[where] = draw(logits.softmax(-1), u[where])
        return out

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw an entry, (B, \\*)."""
        return self.sample_where(torch.ones_like(self.x_t, dtype=torch.bool), self.x_t, generator)


def certainly(x: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Log-probability of x under a point mass: 0 or minus infinity."""
    return torch.zeros(x.shape, dtype=dtype, device=x.device).masked_fill_(x != value, -math.inf)


def picked_log_softmax(logits: Tensor, x: Tensor, known: Tensor | None, excluded: int | None) -> Tensor:
    """``log_softmax(logits without excluded)[x]``, (B, \\*); zero, without a gradient, where ``known``.

    On the CPU only the rows in doubt are read, which for the absorbing kernel is the masked half of a
    batch. Elsewhere all are, because choosing rows would make the device wait for the host.
    """
    flat, target = logits.reshape(-1, logits.shape[-1]), x.reshape(-1)
    if known is None:
        return _PickedLogSoftmax.apply(flat, target, None, excluded).view(x.shape)
    doubt = ~known.reshape(-1)
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        rows = doubt.nonzero().squeeze(-1)
        picked = _PickedLogSoftmax.apply(flat, target[rows], rows, excluded)
        return picked.new_zeros(len(flat)).index_copy(0, rows, picked).view(x.shape)
    # A known row may ask for the excluded state, whose -inf must not reach the backward pass.
    safe = torch.where(doubt, target, (0 if excluded != 0 else 1))
    picked = _PickedLogSoftmax.apply(flat, safe, None, excluded)
    return torch.where(doubt, picked, 0.0).view(x.shape)


class _PickedLogSoftmax(torch.autograd.Function):
    """``log_softmax(logits[rows] without excluded)[target]`` with one saved copy of the chosen rows."""

    @staticmethod
    def forward(ctx, logits, target, rows, excluded):  # type: ignore[no-untyped-def]
        chosen = logits if rows is None else logits.index_select(0, rows)
        if excluded is not None:
            chosen = chosen.clone() if rows is None else chosen
            chosen[:, excluded] = -math.inf
        log_probs = chosen.log_softmax(-1)
        ctx.save_for_backward(log_probs, target, rows)
        ctx.num_rows = len(logits)
        return pick(log_probs, target)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        log_probs, target, rows = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        out = log_probs.exp().mul_(-grad)
        out.scatter_add_(-1, target.unsqueeze(-1), grad)
        if rows is not None:
            out = out.new_zeros(ctx.num_rows, out.shape[-1]).index_copy_(0, rows, out)
        return out, None, None, None
