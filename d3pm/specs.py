"""Objects as plain data and back: ``{"class_path": "d3pm.x.Y", "init_args": {...}}``.

One convention makes it work for any class, ours or a user's: every constructor argument is kept on the
object under its own name. Tensors are set apart by name, to be stored as tensors and not as text.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import Tensor

from d3pm.errors import ConfigError

Spec = dict[str, Any]
PLAIN = (str, int, float, bool, type(None))


class Part:
    """What a saved model may be made of, besides networks: a class under this one may be named in its config."""


def describe(value: Any, tensors: dict[str, Tensor] | None = None, name: str = "") -> Any:
    """Plain data from which :func:`build` makes an equal object.

    Args:
        value: An object that keeps its constructor's arguments, or plain data.
        tensors: Filled with the tensors met, by dotted name. Without it they are written out as lists.
        name: Where ``value`` stands; used in the names of tensors.

    Raises:
        ConfigError: If an argument is not kept under its name, or is neither plain nor such an object.

    >>> from d3pm.schedules import CosineSchedule
    >>> describe(CosineSchedule())["init_args"]
    {'offset': 0.008, 'max_beta': 0.999}
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: describe(item, tensors, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Tensor):
        if tensors is None:
            return value.tolist()
        tensors[name] = value.detach()
        return {"tensor": name}
    kind = type(value)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "builtins":
        raise ConfigError(
            f"{name or 'object'}: {kind.__qualname__} cannot be saved: define its class in a module"
        )
    arguments = {
        key: describe(_kept(value, key, name), tensors, f"{name}.{key}") for key in _parameters(kind)
    }
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def build(spec: Any, kinds: tuple[type, ...] = (object,), tensors: dict[str, Tensor] | None = None) -> Any:
    """The object a spec describes.

    Args:
        spec: From :func:`describe`, or written by hand.
        kinds: Only classes under these are made: a saved config must not be able to call anything it likes.
        tensors: Those that :func:`describe` set apart.

    Raises:
        ConfigError: If a class cannot be found, is of no allowed kind, or refuses its arguments.
    """
    if isinstance(spec, list):
        return [build(item, kinds, tensors) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"tensor"} and tensors is not None:
        return tensors[spec["tensor"]]
    if "class_path" not in spec:
        return {key: build(item, kinds, tensors) for key, item in spec.items()}
    kind = find_class(spec["class_path"])
    if not issubclass(kind, kinds):
        raise ConfigError(
            f"class_path {spec['class_path']}: not one of {', '.join(k.__name__ for k in kinds)}"
        )
    arguments = {key: build(item, kinds, tensors) for key, item in (spec.get("init_args") or {}).items()}
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{spec['class_path']}: {error}: see its documentation for the arguments"
        ) from error


def find_class(path: str) -> type:
    """The class at a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"class_path {path}: cannot be imported ({error}): check its spelling") from error
    if not inspect.isclass(found):
        raise ConfigError(f"class_path {path}: this is not a class")
    return found


def _parameters(kind: type) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(kind).parameters.values() if p.kind in named]


def _kept(value: Any, key: str, name: str) -> Any:
    try:
        return getattr(value, key)
    except AttributeError:
        raise ConfigError(
            f"{name or type(value).__name__}: {type(value).__name__} does not keep its argument {key!r} "
            f"as an attribute: set self.{key} in its constructor so that it can be saved"
        ) from None
