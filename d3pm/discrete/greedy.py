r"""Greedy decoding: no draw, at every step what is most likely."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.discrete.confidence import highest, peak
from d3pm.discrete.masks import Pace, masked_entries, of_entries
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler
from d3pm.transitions.absorbing import AbsorbingTransition


@dataclass
class Greedy(Sampler):
    r"""The most likely, step by step: a function of :math:`x_T` and the network, and not the mode of the model.

    - Under an absorbing kernel: the masks whose largest belief is highest go first, to the state of that
      belief; as many a step as in :class:`~d3pm.discrete.confidence.Confidence`, and of equals the first.
      Since :math:`x_T` is all mask, a prompt has one completion.
    - Under other kernels: the mode of :math:`p_\theta(x_s | x_t)` entry by entry, which at s = 0 is that of the belief.
      The mode of a small step is mostly to stay, so take few: with one, it is the belief's mode at :math:`x_T`.

    One network call a step. Serves every ``DiscreteDiffusion``.

    Raises:
        ConfigError: From ``check_process``, if the process is another.

    References:
        Ghazvininejad et al., *Mask-Predict: Parallel Decoding of Conditional Masked Language Models*, 2019, section 3
        (arXiv 1904.09324), without going back on what stands.
    """

    def __post_init__(self) -> None:
        self._pace: Pace | None = None

    def begin(self) -> Greedy:
        """One that has counted no masks yet."""
        fresh = copy.copy(self)
        fresh._pace = None
        return fresh

    def check_process(self, process: Process) -> None:
        """See the base class."""
        _discrete(process)

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class; ``generator`` is not used."""
        process = _discrete(process)
        if isinstance(process.transition, AbsorbingTransition):
            return self._reveal(process.transition, network, x_t, s, t)
        output = network(x_t, t)
        with full_precision(x_t):
            return process.reverse(output, x_t, s, t).mode

    def _reveal(
        self, kernel: AbsorbingTransition, network: Network, x_t: Tensor, s: Tensor, t: Tensor
    ) -> Tensor:
        masked = masked_entries(kernel, x_t)
        self._pace = self._pace or Pace(kernel, masked.sum(1), t)
        going = masked.sum(1) - self._pace.left(s)
        output = network(x_t, t, rows=going > 0)
        with full_precision(x_t):
            masked &= (going > 0)[:, None]
            chosen = highest(of_entries(kernel, output, masked, peak), masked, going)
            states = of_entries(kernel, output, chosen, lambda log_probs: log_probs.argmax(-1)).long()
            return torch.where(chosen, states, x_t.reshape(chosen.shape)).view(x_t.shape)


def _discrete(process: Process) -> DiscreteDiffusion:
    if isinstance(process, DiscreteDiffusion):
        return process
    raise ConfigError(
        f"sampler: Greedy serves a DiscreteDiffusion only, and this is a {type(process).__name__}: take Ancestral"
    )
