r"""Confidence order: in every step, the masks the belief is surest of are revealed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from d3pm.discrete.masks import Pace, absorbing, masked_entries, of_entries
from d3pm.distributions import uniforms
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler
from d3pm.transitions.absorbing import AbsorbingTransition

ORDERS = ("probability", "margin", "entropy", "random", "drawn")


@dataclass
class Confidence(Sampler):
    r"""Mask diffusion where the order of the entries follows the belief instead of chance.

    If a row began the run at time T with n masks, a step to s leaves
    :math:`\lfloor n\, (1 - \bar\alpha_s) / (1 - \bar\alpha_T) \rfloor` of them: what ancestral sampling leaves on
    average. Those that go have the highest scores, and their states are drawn from :math:`\tilde p(\cdot | x_t)`. One
    network call a step; a row from which nothing goes is not looked at. Serves the absorbing kernel.

    **This is not a draw from the model**: which entries go together depends on what the belief says of them, and
    those that go together are drawn apart. With an exact belief, and steps so many that masks go one by one, the data's
    law is met all the same by every order but "drawn", which prefers likely states even then.

    Args:
        order: The score of an entry: ``"probability"``, the largest log-belief; ``"margin"``, by how much the
            largest belief exceeds the second; ``"entropy"``, less the belief's entropy in nats; ``"random"``;
            or ``"drawn"``, the log-belief in a state drawn first, which then is the one revealed (MaskGIT).
        noise: Standard Gumbel noise is added to scores, times ``noise`` s/T: none at the end.

    Raises:
        ConfigError: If ``order`` is none of these, or ``noise`` is negative; from ``check_process``, if the kernel is
            not the absorbing one.

    References:
        Chang et al., *MaskGIT: Masked Generative Image Transformer*, 2022, section 3.2 (arXiv 2202.04200).
        Kim et al., *Train for the Worst, Plan for the Best*, 2025, section 4 (arXiv 2502.06768): the margin.
    """

    order: Literal["probability", "margin", "entropy", "random", "drawn"] = "probability"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"Confidence order is {self.order!r}: choose one of {', '.join(ORDERS)}")
        if not self.noise >= 0:
            raise ConfigError(f"Confidence noise is {self.noise}: choose 0 or more")
        self._pace: Pace | None = None

    def begin(self) -> Confidence:
        """One that has counted no masks yet."""
        fresh = copy.copy(self)
        fresh._pace = None
        return fresh

    def check_process(self, process: Process) -> None:
        """See the base class."""
        absorbing(process, self)

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
        kernel = absorbing(process, self)
        masked = masked_entries(kernel, x_t)
        self._pace = self._pace or Pace(kernel, masked.sum(1), t)
        going = masked.sum(1) - self._pace.left(s)
        output = network(x_t, t, rows=going > 0)
        with full_precision(x_t):
            masked &= (going > 0)[:, None]
            belief = kernel.belief(output, x_t, t)
            if self.order == "drawn":
                drawn = belief.sample_where(masked.view(x_t.shape), x_t, generator)
                score = belief.log_prob(drawn).double().view(masked.shape)
            else:
                score = scores(kernel, output, masked, self.order, generator)
            if self.noise:
                score = score + (self.noise * s / process.num_steps)[:, None] * gumbel(score, generator)
            chosen = highest(score, masked, going).view(x_t.shape)
            if self.order == "drawn":
                return torch.where(chosen, drawn, x_t)
            return belief.sample_where(chosen, x_t, generator)


def scores(
    kernel: AbsorbingTransition,
    output: Tensor,
    masked: Tensor,
    order: str,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How sure the belief is of the masked entries, float64 (B, L); of other entries nothing is said."""
    if order == "random":
        return uniforms(masked.shape, masked.device, generator)
    measure = {"probability": peak, "margin": margin, "entropy": certainty}[order]
    return of_entries(kernel, output, masked, measure)


def peak(log_probs: Tensor) -> Tensor:
    """The largest log-belief: (N, K) to (N,)."""
    return log_probs.max(-1).values


def margin(log_probs: Tensor) -> Tensor:
    """The largest belief less the second."""
    first, second = log_probs.topk(2).values.exp().unbind(-1)
    return first - second


def certainty(log_probs: Tensor) -> Tensor:
    """Less the entropy, in nats."""
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)  # 0 log 0 = 0
    return torch.linalg.vecdot(log_probs.exp(), finite).clamp(max=0)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise, float64, from 53 random bits."""
    u = uniforms(like.shape, like.device, generator)
    return -(-(u + 2.0**-54).log()).log()


def ranks(score: Tensor, where: Tensor) -> Tensor:
    """Places from 0 in falling order of ``score`` (B, L), entries ``where`` first; of equals the first comes first."""
    score = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~where, -torch.inf)
    order = score.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(-1)


def highest(score: Tensor, where: Tensor, count: Tensor) -> Tensor:
    """The ``count`` (B,) entries of each row with the highest score among ``where``, bool (B, L).

    >>> highest(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[True, False, True]]), torch.tensor([1]))
    tensor([[False, False,  True]])
    """
    return where & (ranks(score, where) < count[:, None])
