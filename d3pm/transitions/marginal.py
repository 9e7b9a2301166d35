"""Diffusion towards the data's own unigram law."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules import Schedule, UnsquaredCosineSchedule
from d3pm.transitions.laws import ListedLaw, checked_law
from d3pm.transitions.rank_one import RankOneTransition


class MarginalTransition(RankOneTransition):
    r"""With chance :math:`\beta_t` a token is redrawn from the frequencies of the data.

    .. math:: Q_t = (1 - \beta_t)\, I + \beta_t\, \mathbf 1 \pi^\top

    Each marginal then keeps the unigram law of the data, so noise looks like shuffled text. Storage O(K),
    corruption O(1) a token (alias method), the bound one pass over K.

    Args:
        frequencies: :math:`\pi`, (K,), non-negative, sum one.
        num_steps: T.
        schedule: How fast.

    Raises:
        ConfigError: If the frequencies are no law (the message names the entry or the sum), or one symbol has all.

    References:
        Vignac et al., *DiGress*, 2022, section 4.2.

    >>> MarginalTransition([0.75, 0.25], num_steps=4).stationary()
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(
        self, frequencies: Tensor | Sequence[float], num_steps: int, schedule: Schedule | None = None
    ) -> None:
        self.frequencies = checked_law(torch.as_tensor(frequencies, dtype=torch.float64), "frequencies")
        if int((self.frequencies > 0).sum()) < 2:
            raise ConfigError(
                "frequencies has one symbol only: for a state that swallows all, use AbsorbingTransition"
            )
        super().__init__(ListedLaw(self.frequencies), num_steps, schedule or UnsquaredCosineSchedule())

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> MarginalTransition:
        """Frequencies falling like Zipf's."""
        weights = 1 / torch.arange(1, num_states + 1, dtype=torch.float64)
        return cls(weights / weights.sum(), num_steps=num_steps)
