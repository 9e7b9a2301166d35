r"""Losses from hidden states: only the entries that count reach the vocabulary, and never all of them at once.

At K = 50,257 the logits of 16 x 1024 entries are 3 GB, and a plain loss keeps three or four tensors of that size. But
a loss is a sum over entries, each of which needs its own logits only: so entries are taken in pieces, and each piece
is multiplied out, scored and forgotten, then multiplied out once more on the way back (for a third more arithmetic in
the head). Entries that :math:`x_t` leaves no doubt about cost nothing under any loss, and are not multiplied out at
all: under the absorbing kernel that is half of them.

Fused kernels that take gradients on the way forward need one weight for all entries, which a bound does not have:
its entries are weighted by their times.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from d3pm.process import Process
from d3pm.projection import Projection

PIECE = 2**24
"""Logits multiplied out at once: 64 MB of float32. More where hidden states take more, so that pieces stay few."""

EntryLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
r"""``loss(output, x0, x_t, t)``: (B, \*), entry by entry."""


def may_defer(process: Process, network: object) -> bool:
    """Whether the network would rather give hidden states than logits, and the process lets entries be taken singly."""
    return process.entrywise and bool(getattr(network, "defers", False))


def piecewise(
    loss: EntryLoss, output: Projection, x0: Tensor, x_t: Tensor, t: Tensor, doubt: Tensor, capacity: int
) -> Tensor:
    r"""``loss(output.logits(), x0, x_t, t)``, (B, \*), without (B, \*, K) logits.

    Args:
        loss: The loss of every entry; each depends on what stands at that entry alone.
        output: Hidden states (B, \*, D) and their head.
        x0: Data (B, \*).
        x_t: Noisy data (B, \*).
        t: Times (B,).
        doubt: Which entries may have a loss, bool (B, \*); it is zero for the others.
        capacity: How many of them there may be where shapes must not depend on data (on a device, or compiled);
            where there are more, all losses are NaN. On the CPU there may be any number.
    """
    rows = _in_doubt(doubt.flatten(), capacity)
    per_entry = t.repeat_interleave(doubt[0].numel(), output_size=doubt.numel())
    hidden = output.hidden.flatten(0, -2).index_select(0, rows)
    states = [each.flatten().index_select(0, rows) for each in (x0, x_t, per_entry)]
    found = _scored(loss, Projection(hidden, output.weight, output.bias), *states)
    losses = found.new_zeros(doubt.numel()).index_copy(0, rows, found)
    if len(rows) < doubt.numel() and _fixed(doubt):
        losses = torch.where(doubt.sum() > capacity, math.nan, losses)
    return losses.view(doubt.shape)


def _fixed(doubt: Tensor) -> bool:
    """Whether shapes must not depend on data: a device would make the host wait, a compiler would give up."""
    return doubt.device.type != "cpu" or torch.compiler.is_compiling()


def _in_doubt(doubt: Tensor, capacity: int) -> Tensor:
    """Indices of the entries in doubt; where shapes are fixed ``capacity`` of them, filled up with others."""
    if not _fixed(doubt):
        return doubt.nonzero().squeeze(-1)
    if capacity >= len(doubt):
        return torch.arange(len(doubt), device=doubt.device)
    return doubt.byte().argsort(descending=True, stable=True)[:capacity]


def _scored(loss: EntryLoss, output: Projection, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The losses (n,) of entries (n,), in pieces."""

    def piece(hidden: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        logits = Projection(hidden.unsqueeze(1), output.weight, output.bias).logits()
        return loss(logits, x0.unsqueeze(1), x_t.unsqueeze(1), t).squeeze(1)

    num_states, dim = output.weight.shape
    size = piece_size(num_states, dim, len(x0))
    if len(x0) <= size:
        return piece(output.hidden, x0, x_t, t)
    pieces = zip(*(each.split(size) for each in (output.hidden, x0, x_t, t)), strict=True)
    return torch.cat(
        [checkpoint(piece, *each, use_reentrant=False, preserve_rng_state=False) for each in pieces]
    )


def piece_size(num_states: int, dim: int, entries: int) -> int:
    """Entries multiplied out at once."""
    return max(1, PIECE // num_states, entries * dim // num_states)


def capacity_for(share: float, batch: int, entries: int) -> int:
    r"""Entries in doubt that a batch of ``batch`` examples at evenly spread times has at most.

    With an expected ``share`` of entries in doubt that rises with t, times that are spread evenly (one in each of
    ``batch`` strata) put the expected number within six examples' worth of ``share * entries``; and by Hoeffding's
    inequality the number exceeds its expectation by :math:`5 \sqrt n` with a chance below :math:`e^{-50}`.
    """
    if not entries:
        return 0
    bound = share * entries + 6 * entries / batch + 5 * math.sqrt(entries)
    return min(entries, 64 * math.ceil(bound / 64))
