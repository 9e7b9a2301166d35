"""What a model is worth on held-out data, in the terms of what it was trained for."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Report(ABC):
    """Numbers about a model, and how they are said. A judge of another kind of model is another subclass.

    Attributes:
        num_examples: Examples used.
        num_times: Times drawn for each.
    """

    num_examples: int
    num_times: int

    def as_dict(self) -> dict[str, float]:
        """Name to number, for logs and JSON."""
        return asdict(self)

    @abstractmethod
    def headline(self, unit: str) -> str:
        """The one number to look at, with its error; ``unit`` is what one dimension of the data is called."""

    @abstractmethod
    def rows(self, unit: str) -> list[tuple[str, str]]:
        """Names and values of all there is to tell, a line each."""


def plus_minus(value: float, error: float, unit: str = "", digits: int = 4) -> str:
    """A number with its standard error.

    >>> plus_minus(2.54812, 0.0263, " bits/char")
    '  2.5481 ± 0.0263 bits/char'
    """
    return f"{value:8.{digits}f} ± {error:.{digits}f}{unit}"
