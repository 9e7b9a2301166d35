"""What samples are worth, and what they cost, by the number of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.sampling import Samples


class Numbers(Protocol):
    """Numbers about one set of examples."""

    def as_dict(self) -> dict[str, float]:
        """Name to number."""


class Quality(Protocol):
    """What drawn examples are worth, beside others: a :class:`~d3pm.evaluation.TextQuality` and its like."""

    @property
    def tables(self) -> Mapping[str, Numbers]:
        """The drawn ones, ``samples``, and those beside them, by name."""

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""


@dataclass(frozen=True)
class Point:
    """Samples of one number of steps.

    Attributes:
        steps: How many.
        calls: Mean network calls a sample: fewer than steps where a sampler or an unchanged row saves some.
        seconds: Wall seconds a sample, drawn in batches.
        quality: What they are worth.
    """

    steps: int
    calls: float
    seconds: float
    quality: Quality

    def row(self) -> dict[str, float]:
        """Cost and quality, name to number."""
        cost = {"steps": self.steps, "calls": self.calls, "seconds": self.seconds}
        return cost | self.quality.tables["samples"].as_dict()


@dataclass(frozen=True)
class QualityCurve:
    """Samples by the number of steps, and what they are compared with.

    Attributes:
        points: In the order that was asked for.
    """

    points: tuple[Point, ...]

    def rows(self) -> Iterator[dict[str, float]]:
        """One for each number of steps."""
        return (point.row() for point in self.points)

    @property
    def references(self) -> dict[str, dict[str, float]]:
        """What the samples stand beside, name to numbers."""
        tables = self.points[-1].quality.tables
        return {name: table.as_dict() for name, table in tables.items() if name != "samples"}


def quality_curve(
    draw: Callable[[int], Samples], judge: Callable[[Tensor], Quality], steps: Sequence[int]
) -> QualityCurve:
    """Draw with each number of steps, and judge what came.

    Args:
        draw: Samples in so many steps; ``model.draw`` with its options.
        judge: Their quality.
        steps: The numbers of steps.

    Raises:
        ConfigError: If there is none.
    """
    if not steps:
        raise ConfigError("steps: there is none to draw in: give one or more, e.g. 8,16,64")
    return QualityCurve(tuple(_point(draw, judge, number) for number in steps))


def _point(draw: Callable[[int], Samples], judge: Callable[[Tensor], Quality], steps: int) -> Point:
    start = time.perf_counter()
    found = draw(steps)
    x0 = found.x0.cpu()  # waits for a device to be done
    seconds = (time.perf_counter() - start) / len(x0)
    return Point(steps, float(found.calls.double().mean()), seconds, judge(x0))
