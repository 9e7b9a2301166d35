"""Sharper beliefs for sampling: temperature, the likeliest k, the nucleus, and a share of the likeliest."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError
from d3pm.guidance import Around
from d3pm.objectives import Network
from d3pm.process import Process


class Truncated(Around):
    r"""A network whose belief is tempered, then cut to its likeliest states.

    It acts on :math:`\tilde p(x_0 | x_t)` *before* the process mixes it with the chance to be revealed, so a
    low temperature changes which token is chosen and never how many are revealed. In this order:

    1. temperature: :math:`\tilde p^{1/\tau}`, normalised;
    2. ``top_k``: the k likeliest states;
    3. ``top_p``: of these, normalised, the fewest that reach the mass, the one that crosses it included;
    4. ``min_p``: of these, those with at least that share of the likeliest one's probability.

    Cost beside the network's: O(K) an entry for temperature and ``min_p``, a selection of k for ``top_k`` (after
    which the nucleus looks at k states), a sort of K for ``top_p`` alone. It goes around other wrappers (guides,
    constraints), not into them: they need the logits of every state.

    Args:
        process: Normalises the belief (the mask has no part in it).
        network: Gives the logits.
        temperature: Above 0; 1 changes nothing.
        top_p: In (0, 1]; 1 changes nothing.
        top_k: At least 1; None changes nothing.
        min_p: In [0, 1]; 0 changes nothing.

    Raises:
        ConfigError: If one is outside its range.

    References:
        Fan et al., *Hierarchical Neural Story Generation*, 2018, section 5 (top-k).
        Holtzman et al., *The Curious Case of Neural Text Degeneration*, 2020, section 3.1 (the nucleus).
        Nguyen et al., *Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs*, 2024, section 3.
    """

    cuts: ClassVar[bool] = True

    def __init__(
        self,
        process: Process,
        network: Network,
        temperature: float = 1.0,
        top_p: float = 1.0,
        *,
        top_k: int | None = None,
        min_p: float = 0.0,
    ) -> None:
        if not 0 < temperature < math.inf:
            raise ConfigError(f"temperature is {temperature}: it must be above 0, and finite")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p is {top_p}: choose a share in (0, 1]")
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k is {top_k}: keep 1 state or more, or leave it out")
        if not 0 <= min_p <= 1:
            raise ConfigError(f"min_p is {min_p}: choose a share in [0, 1]")
        self.process, self.network, self.temperature, self.top_p = process, network, temperature, top_p
        self.top_k, self.min_p = top_k, min_p

    @property
    def time_conditioned(self) -> bool:
        """Whether the time matters: to the network, or to which states can have led to x_t."""
        timeless = isinstance(self.process, DiscreteDiffusion) and self.process.transition.masks_only
        return super().time_conditioned or not timeless

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Logits (B, \\*, K) of the sharpened belief."""
        belief = self.process.predict(self.network(x_t, t, **cond), x_t, t)
        log_probs = belief.log_probs  # type: ignore[attr-defined]
        if self.temperature != 1:
            top = log_probs.amax(-1, keepdim=True)  # stays finite, however low the temperature
            log_probs = ((log_probs - top) / self.temperature).log_softmax(-1)
        if self.top_k is not None and self.top_k < log_probs.shape[-1]:
            log_probs = likeliest(log_probs, self.top_k, self.top_p)
        else:
            log_probs = nucleus(log_probs, self.top_p)
        return near_the_top(log_probs, self.min_p)


def likeliest(log_probs: Tensor, top_k: int, top_p: float = 1.0) -> Tensor:
    """The ``top_k`` likeliest states, normalised, and of these the nucleus; among equals, any.

    >>> likeliest(torch.tensor([0.2, 0.5, 0.3]).log(), 2).exp()
    tensor([0.0000, 0.6250, 0.3750])
    """
    top, states = log_probs.topk(top_k, -1)
    kept = nucleus(top.log_softmax(-1), top_p)
    return torch.full_like(log_probs, -torch.inf).scatter(-1, states, kept)


def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Keep the fewest states whose mass reaches ``top_p``, the one that crosses it included.

    >>> nucleus(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).exp()
    tensor([0.5000, 0.3000, 0.0000])
    """
    if top_p >= 1:
        return log_probs
    ordered, order = log_probs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return log_probs.masked_fill(dropped, -torch.inf)


def near_the_top(log_probs: Tensor, min_p: float) -> Tensor:
    """Keep the states with at least ``min_p`` times the probability of the likeliest.

    >>> near_the_top(torch.tensor([0.5, 0.3, 0.2]).log(), 0.5).exp()
    tensor([0.5000, 0.3000, 0.0000])
    """
    if min_p <= 0:
        return log_probs
    least = log_probs.amax(-1, keepdim=True) + math.log(min_p)
    return log_probs.masked_fill(log_probs < least, -torch.inf)
