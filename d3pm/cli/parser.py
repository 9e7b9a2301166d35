"""A ``jsonargparse`` parser whose complaints are one line, with the name that was probably meant."""

import argparse
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from d3pm.errors import ConfigError, D3PMError
from d3pm.specs import find_class

_NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value.*"
    r"|Expected a <class 'NoneType'>|Expected a path but .*"
)
_UNKNOWN = (
    r"Option '([^']+)' is not accepted|unrecognized arguments: --([\w.]+)"
    r"|Group '([^']+)' does not accept option '([^']+)'"
)
_PLAINER = {
    r'Parser key "([^"]+)":': r"\1:",
    r"Problem with given class_path '([^']+)':": r"\1:",
    r"Expected a dot import path string: (\S+)": r"there is no class \1 (give a dotted path)",
    r"Expected a typing.Literal\[(.*)\]\. Got value: ": r"choose one of \1, not ",
    r"Expected a <class '(\w+)'>\. Got value: ": r"expected \1, got ",
    r"Unexpected config: *(.*)": r"config holds '\1', no keys: name a YAML file with data, process, ...",
}
_EXPECTED = r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])"
_MISFITS = tuple(
    re.compile(rf'Parser key "([^"]+)":\s+{wanted}', re.DOTALL)
    for wanted in (
        rf"{_EXPECTED}\. Got value: (.*)",
        rf"Does not validate.*?Errors:\s+- {_EXPECTED}\s+- Expected a <class 'NoneType'>.*?Given value: (.*)",
    )
)
"""A value of the wrong type, alone and where null would do too: key, type or choices, value."""
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list"}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Types and defaults beside each option; the description's lines as they were written."""


class Parser(ArgumentParser):
    """Options may be spelt with ``-`` or ``_``; errors are raised as :class:`~d3pm.errors.ConfigError`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # as jsonargparse makes more of its kind
        ours: dict[str, Any] = {
            "formatter_class": _HelpFormatter,
            "allow_abbrev": False,
            "exit_on_error": False,
        }
        super().__init__(*args, **ours | kwargs)

    def parse_args(self, args: Sequence[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse, taking ``--num-steps`` for ``--num_steps``."""
        with self._plainly():
            return super().parse_args([_underscores(arg) for arg in args], **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Any:
        """Parse nested dicts."""
        with self._plainly():
            return super().parse_object(*args, **kwargs)

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """Make the objects; what a constructor refuses is raised in its own words."""
        try:
            return super().instantiate(*args, **kwargs)
        except (argparse.ArgumentError, ValueError) as error:
            ours = _ours(error)
            if ours is not None:
                raise ours from ours.__cause__
            raise ConfigError(one_line(str(error))) from error

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except argparse.ArgumentError as error:
            raise ConfigError(one_line(str(error)) + self._suggestion(str(error))) from error

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Help taken from docstrings, without the marks that make formulas of them."""
        return re.sub(r":\w+:`~?([^`]*)`", r"\1", super().format_help(*args, **kwargs))

    def _suggestion(self, message: str) -> str:
        found = re.search(_UNKNOWN, message)
        if found is None:
            return ""
        name = ".".join(part for part in found.groups() if part)
        owners = re.findall(r"class_path '([^']+)'", message[: found.start()])
        if owners:
            return did_you_mean(name, _parameters(owners[-1]))
        return did_you_mean(name, {action.dest for action in self._actions})


def one_line(message: str) -> str:
    r"""The lines of a ``jsonargparse`` message that say something, as one.

    >>> one_line("Parser key \"network\":\n  Errors:\n    - Option 'dim' is not accepted\n  Given value: 3")
    "network: Option 'dim' is not accepted"
    >>> one_line("Parser key \"num\":\n  Expected a <class 'int'>. Got value: 8.5")
    'num is 8.5: give a whole number'
    """
    for misfit in _MISFITS:
        if found := misfit.fullmatch(message):
            key, kind, choices, value = found.groups()
            wanted = f"one of {choices}" if choices else _KINDS.get(kind, kind)
            return f"{key} is {' '.join(value.split())}: give {wanted}"
    for pattern, plainer in _PLAINER.items():
        message = re.sub(pattern, plainer, message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if line and not _NOISE.fullmatch(line))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the nearest known name, or nothing.

    >>> did_you_mean("learing_rate", ["learning_rate", "seed"])
    '; did you mean learning_rate?'
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _ours(error: BaseException | None) -> D3PMError | None:
    """The first error of this package among the causes: ``jsonargparse`` wraps what constructors raise."""
    while error is not None and not isinstance(error, D3PMError):
        error = error.__cause__ or error.__context__
    return error


def _parameters(path: str) -> list[str]:
    try:
        return list(inspect.signature(find_class(path)).parameters)
    except ConfigError:
        return []


def _underscores(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if arg.startswith("--") else arg
