r"""Entropy-bounded unmasking: as many masks a network call as can be drawn apart at a bounded error."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from d3pm.discrete.confidence import certainty, ranks, scores
from d3pm.discrete.masks import Pace, absorbing, masked_entries, of_entries
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler
from d3pm.transitions.absorbing import AbsorbingTransition


@dataclass
class EntropyBounded(Sampler):
    r"""Reveals, surest first, the largest set U of masks with

    .. math:: \sum_{l \in U} H_l - \max_{l \in U} H_l \le \gamma, \qquad H_l = H(\tilde p_l(\cdot | x_t)),

    again and again. For an exact belief the left side bounds the total correlation of the set, which is what drawing
    its entries apart costs, so the law is off by a divergence of at most :math:`\gamma` times the mean number of
    calls; and where the belief is sure, many go at once. At :math:`\gamma = 0` they go one by one (those that are
    certain come along), and with an exact belief the data's law is met; at infinity all go at once, in one call.

    The number of network calls of a row follows from what is met, at most one a mask. The grid does not matter to
    what is drawn: a step to s calls until no more masks are left than belong to s, and one step [T, 0] is enough. The
    network is told the time at which as many masks are left on average as the row has. Serves the absorbing kernel.

    Args:
        gamma: The bound in nats, 0 or more.
        order: What is surest, as in :class:`~d3pm.discrete.confidence.Confidence`: ``"entropy"``,
            ``"probability"`` or ``"margin"``.

    Raises:
        ConfigError: If ``gamma`` is negative or ``order`` none of these; from ``check_process``, if the kernel is
            not the absorbing one.

    References:
        Ben-Hamu et al., *Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking*, 2025
        (arXiv 2505.24857).
    """

    gamma: float = 0.1
    order: Literal["entropy", "probability", "margin"] = "entropy"

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ConfigError(f"EntropyBounded gamma is {self.gamma}: choose 0 or more, in nats")
        if self.order not in ("entropy", "probability", "margin"):
            raise ConfigError(
                f"EntropyBounded order is {self.order!r}: choose 'entropy', 'probability' or 'margin'"
            )
        self._pace: Pace | None = None

    def begin(self) -> EntropyBounded:
        """One that has counted no masks yet."""
        fresh = copy.copy(self)
        fresh._pace = None
        return fresh

    def check_process(self, process: Process) -> None:
        """See the base class."""
        absorbing(process, self)

    def default_steps(self, process: Process) -> int:
        """See the base class: one."""
        return 1

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class."""
        kernel, x = absorbing(process, self), x_t
        masked = masked_entries(kernel, x)
        self._pace = pace = self._pace or Pace(kernel, masked.sum(1), t)
        left = pace.left(s)
        while True:
            masks = masked.sum(1)
            rows = masks > left
            if not bool(rows.any()):
                return x
            told = pace.time(masks)
            output = network(x, told, rows=rows)
            with full_precision(x):
                chosen = self._chosen(kernel, output, masked & rows[:, None]).view(x.shape)
                x = kernel.belief(output, x, told).sample_where(chosen, x, generator)
            masked = masked_entries(kernel, x)

    def _chosen(self, kernel: AbsorbingTransition, output: Tensor, masked: Tensor) -> Tensor:
        certain = of_entries(kernel, output, masked, certainty)
        score = certain if self.order == "entropy" else scores(kernel, output, masked, self.order)
        return within(-certain, ranks(score, masked), masked, self.gamma)


def within(entropy: Tensor, rank: Tensor, where: Tensor, gamma: float) -> Tensor:
    """The first entries by ``rank`` whose entropies, without the largest, add up to ``gamma`` at most; all (B, L).

    One a row at least, where there is one.

    >>> entropy = torch.tensor([[0.3, 0.1, 0.2, 0.0]])
    >>> within(entropy, torch.tensor([[2, 0, 1, 3]]), torch.tensor([[True, True, True, False]]), gamma=0.15)
    tensor([[False,  True,  True, False]])
    """
    order = rank.argsort(-1)
    ordered = entropy.gather(-1, order)
    spent = ordered.cumsum(-1) - ordered.cummax(-1).values
    fits = (spent <= gamma) | (rank.gather(-1, order) == 0)  # rounding must not keep the first
    return where & fits.gather(-1, rank)
