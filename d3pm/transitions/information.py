r"""How much of the data is left at a time, :math:`I(x_t; x_0)`, under the unigram law."""

from __future__ import annotations

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.transitions.base import Transition


def dense_information(matrices: Tensor, frequencies: Tensor) -> Tensor:
    r""":math:`I = H(x_t) - H(x_t | x_0)` in nats of matrices (N, K, K) :math:`q(x_t | x_0)`, (N,).

    >>> dense_information(torch.eye(4).double()[None], torch.full((4,), 0.25)).exp()
    tensor([4.], dtype=torch.float64)
    """
    law = frequencies.double()
    mixed = torch.special.entr(law @ matrices).sum(-1)
    given = torch.special.entr(matrices).sum(-1) @ law
    return (mixed - given).clamp(min=0)


def retained(transition: Transition, frequencies: Tensor, times: Tensor | None = None) -> Tensor:
    r""":math:`I(x_t; x_0) / H(x_0)` at whole times (N,), all T + 1 if not given: from 1 at t = 0 down to 0.

    Any kernel's, from its dense matrices one time after the other: O(K²) a time besides what those cost.

    Args:
        transition: The kernel.
        frequencies: The data's unigram law (K,).
        times: int64 (N,).

    References:
        Austin et al., 2021, appendix A.7.
    """
    law = frequencies.double() / frequencies.double().sum()
    if len(law) != transition.num_states:
        raise ConfigError(
            f"frequencies has {len(law)} entries: the kernel has {transition.num_states} states"
        )
    times = torch.arange(transition.num_steps + 1) if times is None else times
    parts = [
        dense_information(transition.between(torch.zeros_like(t), t).dense(), law) for t in times.split(1)
    ]
    return torch.cat(parts) / torch.special.entr(law).sum()
