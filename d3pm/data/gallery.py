"""Pictures somewhere: what every place that holds some has to tell."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from d3pm.data.pictures import Pictures, Shape


@dataclass(frozen=True)
class Custom:
    """How a well-known data set is split where it is not split already.

    Attributes:
        held_out: How many of its training pictures are kept aside for each split that it lacks.
        in_order: Whether these are its last ones; else they are evenly spread over every class.
    """

    held_out: int
    in_order: bool


class Gallery(ABC):
    """Pictures that were found: where, in what shape, and what splits they come in.

    Attributes:
        where: For people.
        splits: Those it has, always with ``"train"``; those it lacks are to be cut from that.
        levels: Grey levels of a channel.
        custom: How the splits that it lacks are cut by custom, None where there is none.
    """

    where: str
    splits: tuple[str, ...]
    levels: int = 256
    custom: Custom | None = None

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Channels, height and width, found out as cheaply as can be."""

    @property
    @abstractmethod
    def class_names(self) -> list[str] | None:
        """The name of each class, None where pictures have no class."""

    @abstractmethod
    def read(self, split: str) -> Pictures:
        """All pictures of a split."""
