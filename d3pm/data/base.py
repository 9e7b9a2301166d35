"""What data is to the rest of the package: rows of integers, and a codec that turns them back.

Text, images and tables fit the same two classes. A :class:`Codec` knows the symbols, a
:class:`DataSource` knows where the rows come from; neither knows anything of diffusion.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from torch.utils.data import Dataset

SPLITS = ("train", "validation", "test")


class Codec(ABC):
    """A lossless code between things people read (a text, a picture, a row) and integers.

    Data symbols are ``0 … num_symbols - 1``. The integer ``num_symbols`` itself, the state that an
    absorbing kernel adds, is never the result of :meth:`encode`, but :meth:`decode` shows it.

    Two codecs are equal if both write each item in the same symbols and read them alike: one that was
    saved and loaded equals the first, another one of as many symbols does not.
    """

    num_symbols: int

    @abstractmethod
    def encode(self, item: Any) -> Tensor:
        """One item to its int64 symbols, e.g. a text of n characters to ``(n,)``.

        Raises:
            DataError: If the item holds a symbol the codec does not know: which, where, what is known.
        """

    @abstractmethod
    def decode(self, x: Tensor) -> list[Any]:
        """A batch of symbols ``(B, *)`` back to ``B`` items; a masked entry stays visible."""

    @abstractmethod
    def __eq__(self, other: object) -> bool:
        """Whether both are the same code; a codec that is to be hashed defines ``__hash__`` alike."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything that :meth:`from_pretrained` needs into ``folder``."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The codec that :meth:`save_pretrained` wrote, from a folder or by its name on the hub."""


class DataSource(ABC):
    """Three datasets of equally shaped rows, and the codec they share.

    Attributes:
        codec: The code of one row.
        shape: The shape of one row, e.g. ``(256,)`` for text or ``(H, W, C)`` for pictures.
    """

    codec: Codec
    shape: tuple[int, ...]

    @abstractmethod
    def split(self, name: str) -> Dataset[dict[str, Tensor]]:
        """``"train"``, ``"validation"`` or ``"test"``: a map-style dataset of ``{"x0": int64 shape}``."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what was found, where, how much of it, and how it was split."""
