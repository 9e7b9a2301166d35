"""Names on the command line and what they mean: grids of times, samplers, classes to draw."""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import d3pm.grids
from d3pm.cli.parser import did_you_mean
from d3pm.errors import ConfigError
from d3pm.grids import Grid
from d3pm.model import DiffusionModel
from d3pm.sampling import Sampler


def grids(model: DiffusionModel | None = None) -> dict[str, Grid]:
    """The functions of :mod:`d3pm.grids` by name, without ``_grid``; and ``optimal``, the plans of a model."""
    named = {
        name.removesuffix("_grid"): grid for name, grid in vars(d3pm.grids).items() if name.endswith("_grid")
    }
    return named | {"optimal": partial(_planned, model)}


def find_grid(name: str, model: DiffusionModel | None = None) -> Grid:
    """The grid that is called so; ``optimal`` is that of the ``model``, as ``d3pm plan-steps`` saved it.

    Raises:
        ConfigError: Lists them. The grid itself raises it, if the model has no plan of as many steps.
    """
    known = grids(model)
    if name not in known:
        raise ConfigError(f"--grid is {name}{did_you_mean(name, known)} (grids: {', '.join(known)})")
    return known[name]


def check_grid(model: DiffusionModel, name: str, steps: object) -> None:
    """Refuse a grid where there is no number of steps that it could place.

    Raises:
        ConfigError: If ``steps`` are times, or nobody said how many the ``optimal`` grid is to have.
    """
    if isinstance(steps, list) and name != "uniform":
        raise ConfigError(
            f"--grid is {name}, but --steps are times already: give their number, or leave --grid out"
        )
    if steps is None and name == "optimal":
        plans = ", ".join(sorted(model.config.plans, key=int))
        run = model.name_or_path or "RUN"
        remedy = (
            f"give one that it has a plan of (plans: {plans})"
            if plans
            else f"make a plan with `d3pm plan-steps {run} --steps 16` (plans: none yet)"
        )
        raise ConfigError(f"--grid is optimal, but no number of --steps is given: {remedy}")


def times(text: str | None) -> int | list[int | float] | None:
    """A number of steps, or falling times; None for nothing.

    >>> times("64"), times("1000,500,0"), times("[10, 2.5, 0]"), times(None)
    (64, [1000, 500, 0], [10, 2.5, 0], None)

    Raises:
        ConfigError: If it is neither.
    """
    if text is None:
        return None
    try:
        found = [_number(part) for part in text.strip("[] ").split(",")]
    except ValueError:
        found = []
    if len(found) == 1 and isinstance(found[0], int) and "[" not in text:
        return found[0]
    if len(found) < 2 or found[-1] != 0 or not all(a > b for a, b in pairwise(found)):
        raise ConfigError(f"--steps is {text}: give a number of steps, or falling times such as 1000,500,0")
    return found


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _planned(model: DiffusionModel | None, num_steps: int, steps: int) -> list[int]:
    if model is None:
        raise ConfigError(
            "--grid is optimal, which is measured for one model and saved with it: name its run"
        )
    return model.plan(steps)


def labels_of(text: str, num_classes: int | None) -> list[int]:
    """The classes to draw in turn; none for ``none``, or for ``all`` of a model without classes.

    >>> labels_of("all", 3), labels_of("0,2", 3), labels_of("none", 3), labels_of("all", None)
    ([0, 1, 2], [0, 2], [], [])

    Raises:
        ConfigError: If something is no class.
    """
    if text == "none" or (text == "all" and num_classes is None):
        return []
    if num_classes is None:
        raise ConfigError(
            f"--label is {text}, but the model has no classes: train one with labels, or leave it out"
        )
    if text == "all":
        return list(range(num_classes))
    named = [part.strip() for part in text.strip("[] ").split(",")]
    for part in named:
        if not part.isdecimal() or int(part) >= num_classes:
            raise ConfigError(
                f"--label {part} is no class: give one of 0 … {num_classes - 1}, or all, or none"
            )
    return [int(part) for part in named]


def know_samplers() -> None:
    """Have the samplers of each wing that is there go by their short names: ``--sampler DDIM``."""
    for wing in ("d3pm.discrete", "d3pm.gaussian"):
        if importlib.util.find_spec(wing):
            importlib.import_module(wing)


def sampler_names() -> list[str]:
    """The short names of those that can be made of nothing."""
    return sorted({kind.__name__ for kind in _kinds(Sampler) if kind.__module__.startswith("d3pm.")})


def _kinds(kind: type) -> Iterator[type]:
    """The classes below one, however deep, that need no argument."""
    below: type
    for below in kind.__subclasses__():
        needed = [p for p in inspect.signature(below).parameters.values() if p.default is p.empty]
        if not (needed or inspect.isabstract(below)):
            yield below
        yield from _kinds(below)


@contextmanager
def naming_samplers() -> Iterator[None]:
    """What a parser says of ``--sampler`` in words of the command line, with the names there are."""
    try:
        yield
    except ConfigError as error:
        names = sampler_names()
        if found := re.match(r"sampler: there is no class (\S+)", str(error)):
            said = f"--sampler is {found[1]}, but there is no class {found[1]}{did_you_mean(found[1], names)}"
        elif "d3pm.sampling.Sampler is abstract" in str(error):
            said = "an option of a sampler is given, but no --sampler: name one"
        elif str(error) == "sampler: the following arguments are required: classifier, labels":
            named = re.search(r"class_path='[\w.]*?(\w+)'", str(error.__cause__))
            raise ConfigError(
                f"--sampler is {named[1] if named else 'guided'}, whose classifier cannot be named there: give "
                "--classifier RUN instead"
            ) from error
        else:
            raise
        raise ConfigError(f"{said} (samplers: {', '.join(names)})") from error
