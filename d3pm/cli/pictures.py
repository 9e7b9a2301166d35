"""Many pictures in one: grids, strips and animations, in Pillow and numpy alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2
"""Pixels between two pictures."""

LEAST = 64
"""Small pictures are enlarged by a whole factor, as long as they stay within so many pixels."""


def grid(pictures: Sequence["Image"], columns: int | None = None) -> "Image":
    """Pictures of one size row by row on white, a square of them if no number of columns is given.

    >>> from PIL import Image
    >>> grid([Image.new("L", (40, 40))] * 6).size  # 3 columns, 2 rows
    (128, 86)
    """
    from PIL import Image

    columns = columns or math.ceil(math.sqrt(len(pictures)))
    tiles = [enlarged(picture) for picture in pictures]
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    size = (GAP + columns * (width + GAP), GAP + rows * (height + GAP))
    sheet = Image.new(tiles[0].mode, size, "white")
    for n, tile in enumerate(tiles):
        row, column = divmod(n, columns)
        sheet.paste(tile, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def strip(moments: Sequence[Sequence["Image"]]) -> "Image":
    """Each sample a row, each moment a column: ``moments[k][i]`` is sample i at moment k."""
    return grid([picture for row in zip(*moments, strict=True) for picture in row], columns=len(moments))


def enlarged(picture: "Image") -> "Image":
    """A small picture with every pixel a square of them, so that one can see it; others as they are."""
    factor = max(LEAST // max(picture.size), 1)
    if factor == 1:
        return picture
    from PIL import Image

    return Image.fromarray(np.asarray(picture).repeat(factor, axis=0).repeat(factor, axis=1))


def save_animation(frames: Sequence["Image"], file: Path, milliseconds: int = 80) -> None:
    """Write the frames as a GIF that repeats for ever and shows each for so long."""
    frames[0].save(file, save_all=True, append_images=list(frames[1:]), duration=milliseconds, loop=0)
