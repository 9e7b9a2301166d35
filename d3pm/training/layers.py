"""The layers of a network, and what is done to each of them: computed again, or compiled."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def layers(network: nn.Module) -> list[nn.Module]:
    """What a deep network is a pile of: the members of its outermost lists of modules, each once.

    >>> pile = nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.ReLU()])])
    >>> [type(layer).__name__ for layer in layers(nn.Sequential(nn.GELU(), pile))]
    ['Linear', 'ReLU']
    """
    found: dict[nn.Module, None] = {}
    for child in network.children():
        is_layer = isinstance(network, nn.ModuleList) and not isinstance(
            child, (nn.ModuleList, nn.ModuleDict)
        )
        found |= dict.fromkeys([child] if is_layer else layers(child))
    return list(found)


def recompute(network: nn.Module) -> None:
    """Keep only what enters each layer; what happened inside is computed again, dropout included, on the way back.

    A third more arithmetic for memory that no longer grows with what a layer keeps. Gradients are the same.
    """
    for layer in layers(network):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_layers(network: nn.Module, **options: Any) -> None:
    """Compile layer by layer: for networks whose weights come and go between them, which no compiler looks through.

    Options are those of ``torch.compile``.
    """
    for layer in layers(network):
        layer.forward = torch.compile(layer.forward, **options)  # type: ignore[method-assign]
