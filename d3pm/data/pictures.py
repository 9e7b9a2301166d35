"""Pictures in memory: bytes and classes, all of one shape."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from d3pm.data.files import reading
from d3pm.data.image_codec import MODES
from d3pm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Pictures:
    """Grey levels of many pictures of one shape, and their classes where these are known.

    Attributes:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``, classes from 0 on, or None.
    """

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def at(self, places: np.ndarray | slice) -> "Pictures":
        """Those at some places."""
        return Pictures(self.images[places], None if self.labels is None else self.labels[places])


def stack(
    named: Iterable[tuple[str, "Image"]], shape: Shape | None, size: int | None, where: str
) -> np.ndarray:
    """Pillow images, each with a name for errors, as uint8 ``(N, C, H, W)``.

    ``shape`` is what all of them must have, None that of the first; with ``size`` they are cut and resampled to it.

    Raises:
        DataError: If there is none, one has another size, or is in colour where grey is wanted.
    """
    rows: list[np.ndarray] = []
    for name, image in named:
        with reading(name):
            row = picture_array(image, name, shape[0] if shape else None, size)
        shape = shape or _shape(row)
        if row.shape != shape:
            _, height, width = row.shape
            raise DataError(
                f"source: {name} is {height} x {width} (height x width), where {where} has {shape[1]} x {shape[2]}: "
                f"set size, e.g. size={min(shape[1:])}, to cut all pictures to squares of it"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"source: no picture in {where}: give one that has some")
    return np.stack(rows)


def picture_array(image: "Image", name: str, channels: int | None, size: int | None) -> np.ndarray:
    """One picture as uint8 ``(C, H, W)``: upright, on white where it is transparent, cut to a square of ``size``.

    Args:
        image: Any Pillow image of 8 bits a channel.
        name: What to call it in errors.
        channels: 1 or 3, None for what the picture has. Grey becomes colour; colour does not become grey.
        size: Height and width of the result, None for those of the picture.
    """
    from PIL import ImageOps

    if image.mode.startswith(("I", "F")):
        raise DataError(f"source: {name} has more than 8 bits a channel ({image.mode}): convert it to 8 bits")
    image = _opaque(ImageOps.exif_transpose(image))
    grey = image.mode in ("1", "L")
    if channels == 1 and not grey:
        raise DataError(
            f"source: {name} is in colour ({image.mode}), the first picture is grey: convert it to grey"
        )
    image = image.convert(MODES[channels or (1 if grey else 3)])
    if size is not None and image.size != (size, size):
        image = square(image, size)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def square(image: "Image", size: int) -> "Image":
    """The central square of a picture, resampled to ``size`` x ``size``.

    Bilinear with a support as wide as a pixel of the result: each is a mean of old ones, so no value
    leaves the range of the levels.
    """
    from PIL.Image import Resampling

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return cut.resize((size, size), Resampling.BILINEAR)


def resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """Pictures uint8 ``(N, C, H, W)``, each as :func:`square` makes it."""
    from PIL import Image

    if size is None or images.shape[2:] == (size, size):
        return images
    result = np.empty((*images.shape[:2], size, size), np.uint8)
    for i, j in np.ndindex(images.shape[:2]):
        result[i, j] = np.asarray(square(Image.fromarray(images[i, j]), size))
    return result


def held_out(pictures: Pictures, counts: Sequence[int]) -> list[np.ndarray]:
    """Places of ``counts`` pictures for each held-out split, evenly spread over every class.

    Nothing is drawn: the pictures are ordered by class, and places at even distances are taken, so each class
    gives its share to within one picture. Without classes they are evenly spread over all.

    Examples:
        >>> labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
        >>> [part.tolist() for part in held_out(Pictures(np.zeros((8, 1, 1, 1)), labels), [2, 2])]
        [[4, 5], [2, 3]]
    """
    order = (
        np.arange(len(pictures)) if pictures.labels is None else np.argsort(pictures.labels, kind="stable")
    )
    parts = []
    for count in counts:
        taken = (2 * np.arange(count) + 1) * len(order) // (2 * count)
        parts.append(np.sort(order[taken]))
        order = np.delete(order, taken)
    return parts


def _opaque(image: "Image") -> "Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return on_white.convert("L" if grey else "RGB")


def _shape(row: np.ndarray) -> Shape:
    channels, height, width = row.shape
    return channels, height, width
