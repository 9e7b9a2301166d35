"""Texts longer than those of training: block by block, each given the symbols before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.objectives import Network
from d3pm.process import Process
from d3pm.sampling import Samples, Time, draw


def extend(
    process: Process,
    network: Network,
    shape: Sequence[int],
    *,
    block: int,
    context: int,
    known: Tensor | None = None,
    x0: Tensor | None = None,
    watch: Callable[[Time, Tensor], None] | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Samples:
    r"""Draw rows of any length from left to right, ``block`` entries at a time (semi-autoregressive).

    .. math:: p(x) = \prod_b p_\theta(x_{\text{block } b} \mid x_{\text{the } c \text{ entries before it}})

    Each factor is one run of :func:`d3pm.sampling.draw` in a window of ``context + block`` entries, its left part held
    as it was drawn. The windows are all of that length (the first one has no left part and is filled whole, the last
    one is moved left to end with the row), so a network sees what it was trained on. If the data are Markov of order
    at most ``context``, and the sampler and the network are exact under a kernel that holds known entries exactly (the
    absorbing one), so is the law of the whole row. Cost: the calls of ceil((L - context) / block) runs.

    Args:
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        shape: (B, L).
        block: New entries in a window.
        context: Entries before a block that it sees, at least.
        known: Entries that are given, bool (B, L). What comes before the first unknown one is not drawn; a block does
            not see what is given to the right of its window.
        x0: Their values.
        watch: Called with (s, x_s) after every step: all entries up to the end of the block, (B, ≤ L).
        device: Where to sample; that of ``x0``, or the CPU, if not given.
        **options: Of :func:`d3pm.sampling.draw`; steps are those of each block.

    Returns:
        Rows (B, L), and the network calls of each over all blocks.

    Raises:
        ConfigError: If the shape is none of rows, ``block`` is below 1 or ``context`` below 0; and as ``draw`` does.

    References:
        Arriola et al., *Block Diffusion*, 2025, section 3; Sahoo et al., *Simple and Effective Masked Diffusion
        Language Models*, 2024, section 4.2 (semi-autoregressive decoding).
    """
    _check(shape, block, context)
    device = device or (torch.device("cpu") if x0 is None else x0.device)
    text = (
        torch.zeros(tuple(shape), dtype=torch.int64, device=device) if x0 is None else x0.to(device).clone()
    )
    given = torch.zeros_like(text, dtype=torch.bool) if known is None else known.to(device).clone()
    calls, forwards = torch.zeros(len(text), dtype=torch.int64), 0
    while not bool(given.all()):
        window = _window(given, block, context)
        part = draw(
            process,
            network,
            text[:, window].shape,
            known=given[:, window],
            x0=text[:, window],
            watch=_after(text[:, : window.start], watch),
            device=device,
            **options,
        )
        text[:, window] = part.x0
        given[:, : window.stop] = True
        calls, forwards = calls + part.calls, forwards + part.forwards
    return Samples(text, calls, forwards)


def _window(given: Tensor, block: int, context: int) -> slice:
    """Where the next block is drawn: from before the first column that is not given in every row."""
    length, start = given.shape[1], int((~given).any(0).nonzero()[0])
    stop = min(max(start, context) + block, length)
    return slice(max(stop - block - context, 0), stop)


def _after(
    before: Tensor, watch: Callable[[Time, Tensor], None] | None
) -> Callable[[Time, Tensor], None] | None:
    if watch is None:
        return None
    return lambda s, x: watch(s, torch.cat([before, x], 1))


def _check(shape: Sequence[int], block: int, context: int) -> None:
    if len(shape) != 2:
        raise ConfigError(f"shape is {tuple(shape)}: blocks are of rows, give (B, L)")
    if block < 1:
        raise ConfigError(f"block is {block}: draw 1 entry or more at a time")
    if context < 0:
        raise ConfigError(f"context is {context}: give 0 or more entries before a block")
