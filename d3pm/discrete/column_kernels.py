"""A kernel for every column of a table, from a few specs that leave open what only the data know."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from d3pm.data.base import DataSource
from d3pm.data.unigram import frequencies
from d3pm.errors import ConfigError, D3PMError
from d3pm.specs import Part, build, describe, find_class
from d3pm.transitions.base import Transition

Spec = dict[str, Any] | str


@dataclass
class Kernels:
    """The distinct kernels of a table's columns, made as columns ask for them.

    Args:
        num_steps: T of every kernel.
        data: Whose training split gives frequencies; it is read once, and only if a kernel asks for them.

    Attributes:
        transitions: Those made so far, all different.
    """

    num_steps: int
    data: DataSource
    transitions: list[Transition] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def place(self, spec: Spec, column: int) -> int:
        """The place in ``transitions`` of the kernel that a spec means for a column, made if there is none such.

        Whatever the class (or one nested in its arguments, such as a schedule) must be given and is not is
        filled in: ``num_states``, ``num_steps`` and ``frequencies``. A kernel with a mask gets one state more
        than the column has symbols.

        Raises:
            ConfigError: If the spec is none, or the kernel refuses; the message names the column.
        """
        codec: Any = self.data.codec
        symbols = codec.cardinalities[column]
        try:
            complete = self._filled(spec, symbols, column)
            key = json.dumps(describe(complete))
            if key not in self._known:
                self._known[key] = self._add(spec, complete, symbols, column)
            return self._known[key]
        except D3PMError as error:
            raise ConfigError(f"column {codec.columns[column].name}: {error}") from error

    def _add(self, spec: Spec, complete: Spec, symbols: int, column: int) -> int:
        transition = build(complete, (Part,))
        if not isinstance(transition, Transition):
            raise ConfigError(f"{type(transition).__name__} is no kernel: name a Transition")
        if transition.mask_state is not None and transition.num_states == symbols:
            transition = build(self._filled(spec, symbols + 1, column), (Part,))
        self.transitions.append(transition)
        return len(self.transitions) - 1

    def _filled(self, spec: Spec, num_states: int, column: int) -> Any:
        if isinstance(spec, str) and "." not in spec:
            spec = f"d3pm.transitions.{spec}"
        facts: dict[str, Callable[[], Any]] = {
            "num_states": lambda: num_states,
            "num_steps": lambda: self.num_steps,
            "frequencies": lambda: self.frequencies[column],
        }
        return fill(spec, facts)

    @cached_property
    def frequencies(self) -> list[Tensor]:
        """How often each symbol occurs in the training rows, float64, one law a column."""
        codec: Any = self.data.codec
        laws = frequencies(self.data.split("train"), codec.num_symbols, codec)
        return [law[:symbols] for law, symbols in zip(laws, codec.cardinalities, strict=True)]


def fill(spec: Any, facts: Mapping[str, Callable[[], Any]]) -> Any:
    """A spec with what its classes must be given, and are not, taken from ``facts``; a class path alone is a spec.

    >>> fill("d3pm.transitions.UniformTransition", {"num_states": lambda: 3, "num_steps": lambda: 9})["init_args"]
    {'num_states': 3, 'num_steps': 9}
    """
    if isinstance(spec, str):
        spec = {"class_path": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("class_path"), str):
        raise ConfigError(f"{spec!r} is no kernel: give a class path, or class_path and init_args")
    given = dict(spec.get("init_args") or {})
    nested = {
        name: fill(value, facts) if isinstance(value, dict) and "class_path" in value else value
        for name, value in given.items()
    }
    parameters = inspect.signature(find_class(spec["class_path"])).parameters.values()
    wanted = [p.name for p in parameters if p.default is p.empty and p.name in facts and p.name not in given]
    return {"class_path": spec["class_path"], "init_args": {**nested, **{n: facts[n]() for n in wanted}}}
