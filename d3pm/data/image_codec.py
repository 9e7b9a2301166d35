"""Pictures as numbers: grey levels as even steps in [-1, 1], or as the levels themselves; without loss."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.data.records import record_file, write_record
from d3pm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB"}
"""What Pillow calls a picture of so many channels."""

FILE = "image_codec.json"

MASK = 128
"""The 8-bit grey that shows a masked entry: the middle one."""


class ImageCodec(Codec):
    r"""Pictures to ``(C, H, W)`` and back: float32 in [-1, 1], or int64 levels; as a JSON file beside the model.

    .. math::
        x = \frac{2 v}{\text{levels} - 1} - 1, \qquad v \in \{0, …, \text{levels} - 1\}

    The levels are ``levels`` even steps that begin in -1 and end in 1, both exactly. :meth:`decode` takes the
    nearest one, so it gives back what was encoded, and what a sampler left between two levels (or beyond the
    ends) becomes a picture. With ``discrete``, entries are the levels v themselves, and the symbol ``levels``, an
    absorbing kernel's mask, is shown as the middle grey. All costs are O(1) an entry.

    Args:
        shape: Channels (1: grey, 3: colour), height and width of a picture.
        levels: Grey levels a channel has: 256 for photographs and MNIST, 17 for scikit-learn's digits.
        discrete: Whether entries are the levels, as a :class:`~d3pm.DiscreteDiffusion` wants them, and not floats.

    Raises:
        ConfigError: If the shape is none of a picture, or ``levels`` do not fit 8 bits.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, section 3.3: the scaling to [-1, 1].

    Examples:
        >>> codec = ImageCodec((1, 2, 2), levels=5)
        >>> x = codec.encode(np.array([[0, 1], [2, 4]]))
        >>> x.tolist()
        [[[-1.0, -0.5], [0.0, 1.0]]]
        >>> codec.symbols(x).tolist()
        [[[0, 1], [2, 4]]]
        >>> np.asarray(codec.decode(x[None])[0]).tolist()  # shown as 8-bit grey
        [[0, 64], [128, 255]]
        >>> ImageCodec((1, 2, 2), levels=5, discrete=True).encode(np.array([[0, 1], [2, 4]])).tolist()
        [[[0, 1], [2, 4]]]
    """

    def __init__(self, shape: Sequence[int], levels: int = 256, discrete: bool = False) -> None:
        if len(shape) != 3 or shape[0] not in MODES or min(shape) < 1:
            raise ConfigError(
                f"shape: {tuple(shape)} is none of a picture: give (channels, height, width), 1 or 3 channels"
            )
        if not 2 <= levels <= 256:
            raise ConfigError(f"levels: {levels} do not fit 8-bit pictures: give 2 … 256")
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.levels = levels
        self.discrete = discrete
        self.num_symbols = levels

    @property
    def real(self) -> bool:  # type: ignore[override] # one class, two codes
        """Whether entries are floats."""
        return not self.discrete

    def __eq__(self, other: object) -> bool:
        """Whether both write pictures of one shape in the same levels, and these in the same way."""
        if not isinstance(other, ImageCodec):
            return NotImplemented
        return self._record() == other._record()

    def __hash__(self) -> int:
        return hash((self.shape, self.levels, self.discrete))

    def encode(self, item: Any) -> Tensor:
        """One picture to ``(C, H, W)``: float32 in [-1, 1], or int64 levels.

        Args:
            item: Integers ``(H, W)`` or ``(H, W, C)`` in ``0 … levels - 1``; or a Pillow image (8 bits a
                channel), whose values go to the nearest of ``levels`` levels: what :meth:`decode` made
                comes back as it was.

        Raises:
            DataError: If the size, the channels, the type or a value does not fit: which, and where.
        """
        shown = _pillow_array(item, MODES[self.shape[0]])
        levels = np.asarray(item) if shown is None else requantize(shown, 256, self.levels)
        return self.rows(torch.from_numpy(self._checked(levels).transpose(2, 0, 1)))

    def rows(self, levels: Tensor) -> Tensor:
        """Grey levels of any integer type as entries of the code: of the same shape."""
        return levels.to(torch.int64) if self.discrete else self.values(levels)

    def values(self, symbols: Tensor) -> Tensor:
        """The value in [-1, 1] of each grey level, float32 of the same shape."""
        ends = self.levels - 1
        # Both sides of the division are whole numbers, so the result is the float nearest to the true value.
        return (2 * symbols.to(torch.float32) - ends) / ends

    def symbols(self, x: Tensor) -> Tensor:
        """The grey level nearest to each entry, int64 of the same shape; beyond the ends it is 0 or levels - 1.

        Entries of a discrete code are levels already.

        Raises:
            DataError: If ``x`` is of another type than the code's, or holds values that are not finite.
        """
        if self.discrete:
            return _whole(x)
        if not x.is_floating_point():
            raise DataError(f"x: {x.dtype} is no picture in [-1, 1]: give floats")
        if not x.isfinite().all():
            wrong = int((~x.isfinite()).sum())
            raise DataError(
                f"x: {wrong} of {x.numel()} entries are not finite: the model or the sampler diverged, "
                f"so train longer or lower the learning rate"
            )
        values = x.detach().to(
            torch.promote_types(x.dtype, torch.float32)
        )  # halves cannot tell 256 levels apart
        return ((values + 1) * ((self.levels - 1) / 2)).round_().clamp_(0, self.levels - 1).to(torch.int64)

    def decode(self, x: Tensor) -> "list[Image]":
        """Pictures ``(B, C, H, W)`` of any device and float type to ``B`` 8-bit Pillow images.

        Height and width may be other ones than the codec's: a convolutional network draws any size.

        Raises:
            DataError: If ``x`` has another rank or other channels, is of another type than the code's, or holds
                what is no level.
        """
        from PIL import Image

        if x.ndim != 4 or x.shape[1] != self.shape[0]:
            raise DataError(
                f"x: {tuple(x.shape)} is no batch of pictures of {self.shape[0]} channels: give (B, C, H, W)"
            )
        shown = self._shown(self.symbols(x).cpu().numpy()).transpose(0, 2, 3, 1)
        shown = shown[..., 0] if self.shape[0] == 1 else shown
        return [Image.fromarray(np.ascontiguousarray(row)) for row in shown]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``image_codec.json``."""
        write_record(self._record(), folder, FILE)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The codec of a folder or of a repository on the hub.

        Raises:
            DataError: If there is none, it cannot be read, or the hub is out of reach.
        """
        file = record_file(name, FILE)
        try:
            record = json.loads(file.read_text())
            return cls(record["shape"], record["levels"], record.get("discrete", False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"codec: {file} cannot be read ({reason}): write one with codec.save_pretrained(folder)"
            ) from error

    def _checked(self, levels: np.ndarray) -> np.ndarray:
        """Levels uint8 ``(H, W, C)`` of which all is right, a copy."""
        channels, height, width = self.shape
        if levels.dtype == bool or not np.issubdtype(levels.dtype, np.integer):
            raise DataError(
                f"image: {levels.dtype} values are no grey levels: give integers 0 … {self.levels - 1} "
                f"or a Pillow image (floats in [-1, 1] need no encoding)"
            )
        if levels.ndim == 2:
            levels = levels[..., None]
        if levels.shape != (height, width, channels):
            raise DataError(
                f"image: shape {levels.shape} is not (height, width, channels) = "
                f"{(height, width, channels)}: resize or convert it, or use the codec of its own size"
            )
        refuse_outside(levels, self.levels, ("row", "column", "channel"))
        return levels.astype(np.uint8)

    def _shown(self, levels: np.ndarray) -> np.ndarray:
        """Levels in 8 bits, the mask of a discrete code among them."""
        refuse_outside(levels, self.levels + self.discrete, ("picture", "channel", "row", "column"))
        shown = requantize(np.minimum(levels, self.levels - 1), self.levels, 256)
        return np.where(levels == self.levels, np.uint8(MASK), shown)

    def _record(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "levels": self.levels, "discrete": self.discrete}


def refuse_outside(levels: np.ndarray, number: int, axes: Sequence[str]) -> None:
    """Refuse (DataError) an array that holds anything but ``0 … number - 1``: the first that does, and where."""
    outside = (levels < 0) | (levels >= number)
    if outside.any():
        place = np.argwhere(outside)[0]
        where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=True))
        raise DataError(
            f"image: value {levels[tuple(place)]} at {where} lies outside 0 … {number - 1}: "
            f"give grey levels, or a codec of more levels"
        )


def requantize(levels: np.ndarray, before: int, after: int) -> np.ndarray:
    """Each of ``before`` even levels to the nearest of ``after`` even ones, uint8; up and down again loses nothing.

    Examples:
        >>> requantize(np.array([0, 1, 2, 3, 4]), 5, 3).tolist()
        [0, 1, 1, 2, 2]
    """
    if before == after:
        return levels.astype(np.uint8, copy=False)
    table = (2 * np.arange(before) * (after - 1) + before - 1) // (2 * (before - 1))
    return table.astype(np.uint8)[levels]


def _whole(x: Tensor) -> Tensor:
    if x.is_floating_point() or x.dtype == torch.bool:
        raise DataError(f"x: {x.dtype} is no picture of grey levels: give whole numbers")
    return x.to(torch.int64)


def _pillow_array(item: Any, mode: str) -> np.ndarray | None:
    """The 8-bit values of a Pillow image, None for anything else."""
    from PIL.Image import Image

    if not isinstance(item, Image):
        return None
    if item.mode != mode:
        raise DataError(f"image: its mode is {item.mode}, not {mode}: give image.convert('{mode}')")
    return np.asarray(item)
