r"""What a kernel must say, and everything that follows from it.

A kernel gives :math:`Q_{s+1} \cdots Q_t` as an :class:`Operator` and its stationary law. The laws of the
diffusion follow by Bayes' rule from rows and columns alone, at O(K) to O(K²) an entry; a kernel with more
structure overrides them with closed forms, and a test holds the two together.

Row-stochastic everywhere: ``Q[i, j] = q(x_t = j | x_{t-1} = i)``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from d3pm.cached import cached_property
from d3pm.distributions import Categorical, safe_log
from d3pm.specs import Part
from d3pm.transitions.operators import Operator, expand

ReverseForm = Literal["d3pm", "mixture"]


class Transition(Part, ABC):
    r"""A Markov chain of T steps on K states.

    Attributes:
        num_states: K, the absorbing state included where there is one.
        num_steps: T.
        moving: Whether steps have stationary laws of their own, of which no two need be equal; the chain then
            ends in that of its last step.
        masks_only: Whether noise is the mask and nothing else, so that every other state is the data for certain. A
            kernel with an absorbing state may have noise between the other states besides.
        entrywise: Whether a time for each entry costs no more than one for each example: no matrix is made for each.
    """

    num_states: int
    num_steps: int
    moving: ClassVar[bool] = False
    masks_only: ClassVar[bool] = False
    entrywise: ClassVar[bool] = False

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> Transition:
        """A small instance for tests and docs; override it where the constructor needs more."""
        return cls(num_states=num_states, num_steps=num_steps)  # type: ignore[call-arg]

    @abstractmethod
    def between(self, s: Tensor, t: Tensor) -> Operator:
        r""":math:`Q_{s+1} \cdots Q_t` for int64 s <= t of shape (B,); the identity where s = t."""

    def from_start(self, t: Tensor) -> Operator:
        r""":math:`\bar Q_t = Q_1 \cdots Q_t` for int64 t of shape (B,)."""
        return self.between(torch.zeros_like(t), t)

    @abstractmethod
    def stationary(self) -> Tensor:
        r"""The law :math:`\pi` of :math:`x_T`, float64 (K,): the one that every step keeps, but see ``moving``."""

    @cached_property
    def absorbing_state(self) -> int | None:
        """The state that swallows all others; None if there is none."""
        law = self.stationary()
        top = int(law.argmax())
        return top if float(law[top]) == 1.0 else None

    @property
    def mask_state(self) -> int | None:
        """The state that is noise alone, which data therefore never takes: the absorbing one, where there is one."""
        return self.absorbing_state

    def reachable(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Where :math:`q(x_t | x_0) > 0`, bool (B, \*)."""
        return self.from_start(t).at(x0, x_t) > 0

    def prior(self, shape: tuple[int, ...], device: torch.device) -> Categorical:
        r""":math:`p(x_T) = \pi` at every entry of ``shape``."""
        return Categorical(safe_log(self.stationary().to(device)).expand(*shape, -1))

    def marginal(self, x0: Tensor, t: Tensor) -> Categorical:
        r""":math:`q(x_t | x_0)`, row :math:`x_0` of :math:`\bar Q_t`."""
        return Categorical(safe_log(self.from_start(t).rows(x0)))

    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Categorical:
        r""":math:`q(x_s | x_t, x_0) \propto Q_{s \to t}[x_s, x_t]\; \bar Q_s[x_0, x_s]`."""
        likelihood = self.between(s, t).cols(x_t)
        reached = self.from_start(s).rows(x0)
        return Categorical(safe_log(likelihood) + safe_log(reached))

    def belief(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Categorical:
        r"""Softmax over the states data can take and that can have led to :math:`x_t`."""
        possible = self.from_start(t).cols(x_t) > 0
        if self.mask_state is not None:
            possible[..., self.mask_state] = False
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return Categorical(logits.to(dtype).masked_fill(~possible, -torch.inf))

    def reverse(self, logits: Tensor, x_t: Tensor, s: Tensor, t: Tensor, form: ReverseForm) -> Categorical:
        r""":math:`p_\theta(x_s | x_t)` from the belief :math:`\tilde p`; the belief itself at s = 0.

        ``"d3pm"``: :math:`Q_{s \to t}[x_s, x_t] \sum_x \tilde p(x)\, \bar Q_s[x, x_s]`, normalised (eq. 4).
        ``"mixture"``: :math:`\sum_x q(x_s | x_t, x)\, \tilde p(x)`.
        """
        log_belief = self.belief(logits, x_t, t).log_probs
        # In float64 throughout: a kernel's smallest probabilities lie far below float32, and are not zero.
        weights = _floored(log_belief.double()).exp()
        if form == "mixture":
            likelihood = self.from_start(t).cols(x_t)
            weights = weights / torch.where(likelihood > 0, likelihood, 1.0)
        reached = self.from_start(s).apply(weights)
        likelihood = self.between(s, t).cols(x_t)
        log_reverse = (safe_log(likelihood) + safe_log(reached)).log_softmax(-1).to(log_belief.dtype)
        at_data = expand(s == 0, log_reverse)
        return Categorical(torch.where(at_data, log_belief, log_reverse))

    def __repr__(self) -> str:
        arguments = ", ".join(
            f"{name}={tuple(value.shape)}" if isinstance(value, Tensor) else f"{name}={value!r}"
            for name in inspect.signature(type(self)).parameters
            if (value := getattr(self, name, None)) is not None
        )
        return f"{type(self).__name__}({arguments})"


LEAST = -690.0
"""Log-belief below which a possible state counts as this likely: its exponential would be lost, and the divergence
infinite where nothing else leads to a state that the posterior visits."""


def _floored(log_belief: Tensor) -> Tensor:
    """At least ``LEAST`` where finite; the gradient passes as if nothing were done."""
    low = (log_belief < LEAST) & (log_belief > -torch.inf)
    return torch.where(low, LEAST + (log_belief - log_belief.detach()), log_belief)
