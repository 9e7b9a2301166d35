"""What data is to the rest of the package: rows of integers or of floats, and a codec that turns them back.

Text, images and tables fit the same two classes. A :class:`Codec` knows the symbols, a
:class:`DataSource` knows where the rows come from; neither knows anything of diffusion.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.utils.data import Dataset

SPLITS = ("train", "validation", "test")


class Codec(ABC):
    """A lossless code between things people read (a text, a picture, a row) and tensors.

    Every entry of a row stands for one of ``num_symbols`` symbols. A row of integers (text) holds the symbols
    ``0 … num_symbols - 1`` themselves; a row of floats (a picture) holds a value for each, and
    :meth:`symbols` tells which. The integer ``num_symbols`` itself, the state that an absorbing kernel adds,
    is never the result of :meth:`encode`, but :meth:`decode` of integers shows it.

    Two codecs are equal if both write each item in the same entries and read them alike: one that was
    saved and loaded equals the first, another one of as many symbols does not.
    """

    num_symbols: int
    real: ClassVar[bool] = False
    """Whether rows are floats, not the symbols themselves."""
    columnwise: ClassVar[bool] = False
    """Whether entry i of every row is a variable of its own, with its own symbols: a column of a table."""

    @abstractmethod
    def encode(self, item: Any) -> Tensor:
        """One item to its row: a text of n characters to int64 ``(n,)``, a picture to float32 ``(C, H, W)``.

        Raises:
            DataError: If the item holds a symbol the codec does not know: which, where, what is known.
        """

    @abstractmethod
    def decode(self, x: Tensor) -> list[Any]:
        """A batch of rows ``(B, *)`` back to ``B`` items; a masked entry stays visible."""

    def symbols(self, x: Tensor) -> Tensor:
        """Which symbol each entry of ``x`` stands for: int64, of the same shape; integers are symbols already."""
        return x

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
        shape: The shape of one row, e.g. ``(256,)`` for text or ``(C, H, W)`` for pictures.
    """

    codec: Codec
    shape: tuple[int, ...]

    @abstractmethod
    def split(self, name: str) -> Dataset[dict[str, Tensor]]:
        """``"train"``, ``"validation"`` or ``"test"``: a map-style dataset of ``{"x0": shape, …}``.

        ``x0`` is int64 symbols or float32 values, as the codec's :meth:`Codec.encode` makes them. What else
        an item holds (an ``attention_mask``, ``labels``) is handed to the network under its name.
        """

    def read_in(self, codec: Codec) -> Self:
        """The same data written in another code, such as that of a model; itself where a code is not fitted to data."""
        return self

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what was found, where, how much of it, and how it was split."""
