r"""The exponential of a rate matrix, without cancellation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TERMS = 20
"""Of the series: the next one is below 1e-19 of the first where the exponent is at most 1."""


def expm(rates: Tensor, times: Tensor) -> Tensor:
    r""":math:`e^{\tau R}` for a rate matrix R (K, K) and finite times :math:`\tau` >= 0 (N,): (N, K, K) float64.

    With c the largest rate of leaving a state, :math:`R + cI` has no negative entry, so neither has any term of

    .. math:: e^{\tau R} = \Big( e^{-h c} \sum_n \frac{h^n}{n!} (R + cI)^n \Big)^{2^m}, \qquad h = 2^{-m} \tau

    Nothing cancels: entries of :math:`10^{-200}` are as precise as those near one, and what cannot be reached is
    exactly zero. Cost O((20 + m) K³) a time, with :math:`h c \le 1`.

    References:
        Jensen, *Markoff chains as an aid in the study of Markoff processes*, 1953 (uniformization).
        Higham, *Functions of Matrices*, 2008, chapter 10 (scaling and squaring).

    >>> expm(torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, math.log(2)]))[1]
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]], dtype=torch.float64)
    """
    rates, times = rates.double(), times.double()
    leave = float(-rates.diagonal().min())
    eye = torch.eye(len(rates), dtype=torch.float64, device=rates.device)
    if leave == 0 or not len(times):
        return eye.expand(len(times), -1, -1).clone()
    halvings = _halvings(leave * float(times.max()), len(rates))
    steps = (times * leave / 2**halvings).view(-1, 1, 1)
    jump = (rates + leave * eye) / leave
    term, total = eye.expand(len(times), -1, -1), eye.expand(len(times), -1, -1)
    for n in range(1, TERMS + 1):
        term = term @ jump * (steps / n)
        total = total + term
    for _ in range(halvings):
        total = total / total.sum(-1, keepdim=True)
        total = total @ total
    return torch.where(times.view(-1, 1, 1) == 0, eye, total / total.sum(-1, keepdim=True))


def _halvings(exponent: float, num_states: int) -> int:
    """How often to halve: until the series converges fast, and so that its products can reach any state."""
    for_size = math.ceil(math.log2(max(exponent, 1)))
    return max(for_size, math.ceil(math.log2(max(1, (num_states - 1) / TERMS))))
