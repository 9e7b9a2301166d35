"""Names on the command line and what they mean: grids of times, samplers, classes to draw."""

import importlib
import importlib.util
from functools import partial

import d3pm.grids
from d3pm.cli.parser import did_you_mean
from d3pm.errors import ConfigError
from d3pm.grids import Grid
from d3pm.model import DiffusionModel


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
