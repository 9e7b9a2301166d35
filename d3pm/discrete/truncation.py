"""Sharper beliefs for sampling: temperature and the nucleus."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.objectives import Network
from d3pm.process import Process


class Truncated:
    r"""A network whose belief is tempered, then cut to its nucleus.

    It acts on :math:`\tilde p(x_0 | x_t)` *before* the process mixes it with the chance to be revealed, so a
    low temperature changes which token is chosen and never how many are revealed. The nucleus keeps the
    token that crosses ``top_p``.

    Args:
        process: Normalises the belief (the mask has no part in it).
        network: Gives the logits.
        temperature: Above 0; 1 changes nothing.
        top_p: In (0, 1]; 1 changes nothing.

    Raises:
        ConfigError: If either is outside its range.

    References:
        Holtzman et al., *The Curious Case of Neural Text Degeneration*, 2020, section 3.1.
    """

    def __init__(
        self, process: Process, network: Network, temperature: float = 1.0, top_p: float = 1.0
    ) -> None:
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}: it must be above 0")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p is {top_p}: choose a share in (0, 1]")
        self.process, self.network, self.temperature, self.top_p = process, network, temperature, top_p

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Logits (B, \\*, K) of the sharpened belief."""
        belief = self.process.predict(self.network(x_t, t, **cond), x_t, t)
        log_probs = belief.log_probs  # type: ignore[attr-defined]
        return nucleus((log_probs / self.temperature).log_softmax(-1), self.top_p)


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
