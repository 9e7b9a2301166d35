"""Guidance towards a prompt by a network that was never trained with one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError
from d3pm.guidance import Around, check_uncut
from d3pm.objectives import Network
from d3pm.process import Process
from d3pm.transitions.absorbing import AbsorbingTransition


class PromptGuidance(Around):
    r"""Push the belief away from what it would be without the prompt: :math:`u + s\,(c - u)`.

    Under an absorbing kernel the known entries stand unmasked in :math:`x_t`, so the plain output c is the
    conditional one, and that for :math:`x_t` with the known entries masked is the unconditional one, u: no training
    for it is needed. On logits the belief is tilted to :math:`\tilde p_c^{\,s}\, \tilde p_u^{\,1-s}`: 1 is
    conditional (plain infilling), above 1 exaggerates what the prompt changes, 0 ignores it.

    Two network calls a step; one for scales 0 and 1. Cuts and constraints
    (:class:`~d3pm.discrete.truncation.Truncated`, :class:`~d3pm.discrete.constraints.Constrained`) go around it.

    Args:
        process: A :class:`DiscreteDiffusion` under an :class:`~d3pm.transitions.absorbing.AbsorbingTransition`.
        network: Gives the logits.
        known: The prompt's entries, bool, in the shape of one sample; or (B, \*), whose rows must then stay together:
            if they differ, sample with ``cache=False``.
        scale: s.

    Raises:
        ConfigError: If the kernel is another, ``known`` is not bool or the network is cut; when called, if the
            shape of ``known`` does not fit.

    References:
        Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022, section 3.2.
        Nie et al., *Scaling up Masked Diffusion Models on Text*, 2024, section 3 (unsupervised guidance).
    """

    def __init__(self, process: Process, network: Network, known: Tensor, scale: float) -> None:
        kernel = getattr(process, "transition", process)
        if not isinstance(process, DiscreteDiffusion) or not isinstance(kernel, AbsorbingTransition):
            raise ConfigError(
                f"PromptGuidance masks the prompt, the kernel is a {type(kernel).__name__}: it serves the "
                "AbsorbingTransition alone, sample others with scale 1 and without it"
            )
        check_uncut(network, "PromptGuidance")
        if known.dtype != torch.bool:
            raise ConfigError(f"known is {known.dtype}: give bool, true for the entries of the prompt")
        self.process, self.network, self.known, self.scale = process, network, known, scale
        self.mask = kernel.mask

    @property
    def calls(self) -> int:
        """Network calls that one of its own costs."""
        return super().calls * (1 if self.scale in (0, 1) else 2)

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The guided logits (B, \\*, K)."""
        if self.scale == 1:
            return self.network(x_t, t, **cond)
        unprompted = self.network(torch.where(self._known(x_t), self.mask, x_t), t, **cond)
        if self.scale == 0:
            return unprompted
        return unprompted + self.scale * (self.network(x_t, t, **cond) - unprompted)

    def _known(self, x_t: Tensor) -> Tensor:
        known = self.known.to(x_t.device)
        if known.shape == x_t.shape[1:]:
            return known
        if known.shape[1:] == x_t.shape[1:] and bool((known == known[:1]).all()):
            return known[0]  # one prompt's places for all rows, however many are asked about
        if known.shape != x_t.shape:
            raise ConfigError(
                f"known has shape {tuple(known.shape)}, x_t {tuple(x_t.shape)}: give it the shape of a sample, or of "
                "the batch and sample with cache=False"
            )
        return known
