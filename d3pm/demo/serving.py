"""Which samplers can draw from a process: found among all there are, by asking each."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.process import Process
from d3pm.sampling import Ancestral, Sampler, draw

WINGS = ("d3pm.discrete", "d3pm.gaussian")


def samplers_of(process: Process, shape: Sequence[int]) -> dict[str, Sampler]:
    """The samplers that serve a process, by name, made without arguments; the ancestral one first.

    A sampler written in either wing, or by a user and imported, is found unasked.

    >>> from d3pm.discrete.process import DiscreteDiffusion
    >>> from d3pm.transitions import AbsorbingTransition
    >>> next(iter(samplers_of(DiscreteDiffusion(AbsorbingTransition(num_states=3, num_steps=4)), (2,))))
    'Ancestral'
    """
    _import_wings()
    made = {kind.__name__: kind() for kind in sorted(_kinds(Sampler), key=_order) if _needs_nothing(kind)}
    return {name: sampler for name, sampler in made.items() if _serves(sampler, process, shape)}


def _import_wings() -> None:
    for wing in WINGS:
        if importlib.util.find_spec(wing) is not None:
            for module in pkgutil.iter_modules(importlib.import_module(wing).__path__, f"{wing}."):
                importlib.import_module(module.name)


def _kinds(base: Any) -> Iterator[type[Sampler]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from _kinds(kind)


def _needs_nothing(kind: type[Sampler]) -> bool:
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(kind).parameters.values()
    return all(p.default is not p.empty or p.kind in free for p in parameters)


def _order(kind: type[Sampler]) -> tuple[bool, str]:
    return kind is not Ancestral, kind.__name__


class _AskedError(Exception):
    """The sampler got as far as its network."""


def _serves(sampler: Sampler, process: Process, shape: Sequence[int]) -> bool:
    """Whether it gets as far as the network: a sampler refuses a process before it asks for anything."""
    try:
        draw(process, _ask, (1, *shape), steps=1, sampler=sampler, generator=torch.Generator().manual_seed(0))
    except ConfigError:
        return False
    except _AskedError:
        return True
    return True


def _ask(x_t: Tensor, t: Tensor) -> Tensor:
    raise _AskedError
