"""Names on the command line and what they mean: grids of times, samplers, classes to draw."""

import importlib
import importlib.util

import d3pm.grids
from d3pm.cli.parser import did_you_mean
from d3pm.errors import ConfigError
from d3pm.grids import Grid


def grids() -> dict[str, Grid]:
    """The functions of :mod:`d3pm.grids` by name, without ``_grid``."""
    return {
        name.removesuffix("_grid"): grid for name, grid in vars(d3pm.grids).items() if name.endswith("_grid")
    }


def find_grid(name: str) -> Grid:
    """The grid that is called so.

    Raises:
        ConfigError: Lists them.
    """
    known = grids()
    if name not in known:
        raise ConfigError(f"--grid is {name}{did_you_mean(name, known)} (grids: {', '.join(known)})")
    return known[name]


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
    """Have the Gaussian wing's samplers, where it is there, go by their short names too: ``--sampler DDIM``."""
    if importlib.util.find_spec("d3pm.gaussian"):
        importlib.import_module("d3pm.gaussian")
