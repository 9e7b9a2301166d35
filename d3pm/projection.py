"""Logits that are not multiplied out yet: the last hidden states of a network, and the head they would go through."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(NamedTuple):
    r"""What stands for logits (B, \*, K) where K is large: :math:`h W^\top + b`, for whoever needs only some of them.

    Attributes:
        hidden: h, (B, \*, D).
        weight: W, (K, D).
        bias: b, (K,), or None.

    >>> projection = Projection(torch.ones(2, 3, 4), torch.ones(5, 4), None)
    >>> projection.logits().shape
    torch.Size([2, 3, 5])
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def logits(self) -> Tensor:
        r"""All of them, (B, \*, K)."""
        return F.linear(self.hidden, self.weight, self.bias)


def project(hidden: Tensor, head: nn.Linear) -> Projection:
    """Hidden states and a head, in the precision in which the head would have been applied here.

    It is applied later, where autocast is off; so what autocast would have rounded is rounded now, and once.
    """
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind):
        return Projection(hidden, head.weight, head.bias)
    dtype = torch.get_autocast_dtype(kind)
    bias = None if head.bias is None else head.bias.to(dtype)
    return Projection(hidden.to(dtype), head.weight.to(dtype), bias)
