r"""The network's belief :math:`\tilde p(x_0 \mid x_t)` from its logits, normalised only where it is needed.

A (B, \*, K) tensor of logits is the largest thing in a training step, so the passes over it decide the
speed of the bound. Reading off one state's log-probability takes one pass and one saved copy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d3pm.cached import cached_property
from d3pm.distributions import Categorical, draw, exp_, pick, uniforms


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
        self._asked: Tensor | None = None
        self._surprise: Tensor

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
        if x is self._asked:
            return -self._surprise
        if "log_probs" in self.__dict__:
            return pick(self.log_probs, x)
        never = None if self.excluded is None else x == self.excluded
        data = x if never is None else torch.where(never, 0 if self.excluded != 0 else 1, x)
        picked = -surprise(self.logits.to(self.dtype), data, self.known, self.excluded)
        if never is not None:
            picked = picked.masked_fill(never, -math.inf)
        return (
            picked
            if self.known is None
            else torch.where(self.known, certainly(x, self.x_t, self.dtype), picked)
        )

    def surprise(self, x0: Tensor) -> Tensor:
        """``-log_prob(x0)`` for data that can have led to x_t, unchecked: zero where ``known``. Asked twice, it is
        worked out once.
        """
        if x0 is not self._asked:
            self.remember(x0, surprise(self.logits.to(self.dtype), x0, self.known, self.excluded))
        return self._surprise

    def remember(self, x0: Tensor, surprise: Tensor) -> None:
        """The surprise at x0, from whoever came to know it on the way."""
        self._asked, self._surprise = x0, surprise

    def sample_where(self, where: Tensor, otherwise: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw at the entries ``where`` (B, \\*) is true, ``otherwise`` elsewhere; only those rows are touched.

        One uniform an entry is taken from the generator whichever entries are asked for.
        """
        u = uniforms(where.shape, where.device, generator)
        if self.known is not None:
            otherwise = torch.where(where & self.known, self.x_t, otherwise)
            where = where & ~self.known
        if torch.compiler.is_compiling():  # a graph has fixed shapes: all rows are drawn, and few are kept
            return torch.where(where, self._drawn(self.logits.clone(), u), otherwise)
        out = otherwise.clone()
        out[where] = self._drawn(self.logits[where], u[where])
        return out

    def _drawn(self, logits: Tensor, u: Tensor) -> Tensor:
        """A draw from each of the rows (\\*, K), which are written into, by its uniform (\\*)."""
        logits = logits.to(self.dtype)
        if self.excluded is not None:
            logits[..., self.excluded] = -math.inf
        return draw(logits.softmax(-1), u)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw an entry, (B, \\*)."""
        return self.sample_where(torch.ones_like(self.x_t, dtype=torch.bool), self.x_t, generator)


def certainly(x: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Log-probability of x under a point mass: 0 or minus infinity."""
    return torch.zeros(x.shape, dtype=dtype, device=x.device).masked_fill_(x != value, -math.inf)


def surprise(logits: Tensor, x: Tensor, known: Tensor | None, excluded: int | None) -> Tensor:
    """``-log_softmax(logits without excluded)[x]``, (B, \\*); zero, without a gradient, where ``known``.

    On the CPU only the rows in doubt are read, which for the absorbing kernel is the masked half of a
    batch. Elsewhere all are, because choosing rows would make the device wait for the host.
    """
    flat, target = logits.reshape(-1, logits.shape[-1]), x.reshape(-1)
    if known is None:
        return _Surprise.apply(flat, target, None, excluded).view(x.shape)
    doubt = ~known.reshape(-1)
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Surprise.apply(flat, target, doubt, excluded).view(x.shape)
    # A known row may ask for the excluded state, whose -inf must not reach the backward pass.
    safe = torch.where(doubt, target, (0 if excluded != 0 else 1))
    picked = _Surprise.apply(flat, safe, None, excluded)
    return torch.where(doubt, picked, 0.0).view(x.shape)


class _Surprise(torch.autograd.Function):
    """``-log_softmax(logits without excluded)[target]`` of the rows ``chosen`` (all if None), zero elsewhere.

    One copy of the chosen rows is kept for the way back.
    """

    @staticmethod
    def forward(ctx, logits, target, chosen, excluded):  # type: ignore[no-untyped-def]
        rows, ctx.shape = None, logits.shape
        if excluded == logits.shape[-1] - 1:  # the last state, as by default: leave it out while copying
            logits, excluded = logits[:, :-1], None
        if chosen is not None:
            rows = chosen.nonzero().squeeze(-1)
            logits, target = logits.index_select(0, rows), target.index_select(0, rows)
        if excluded is not None:
            logits = logits.clone() if chosen is None else logits
            logits[:, excluded] = -math.inf
        log_probs = logits.log_softmax(-1)
        picked = pick(log_probs, target).neg_()
        ctx.save_for_backward(exp_(log_probs), target, rows)
        return picked if rows is None else picked.new_zeros(ctx.shape[0]).index_copy_(0, rows, picked)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        probs, target, rows = ctx.saved_tensors
        grad = (grad if rows is None else grad.index_select(0, rows)).unsqueeze(-1)
        here = probs * grad
        here.scatter_add_(-1, target.unsqueeze(-1), -grad)
        if here.shape == ctx.shape:
            return here, None, None, None
        out = here.new_zeros(ctx.shape)
        inside = out[:, : here.shape[-1]]
        inside.copy_(here) if rows is None else inside.index_copy_(0, rows, here)
        return out, None, None, None
