"""A folder of pictures: splits, classes and files by where they lie."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d3pm.data.base import SPLITS
from d3pm.data.files import reading
from d3pm.data.gallery import Gallery
from d3pm.data.pictures import Pictures, Shape, picture_array, stack
from d3pm.data.splits import split_of
from d3pm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class PictureFolder(Gallery):
    """PNG, JPEG, WebP and BMP files below a folder, in the order of their names.

    Subfolders named train, valid… and test are the splits. Within a split (or the folder itself) the
    subfolders are the classes, numbered in the order of their names.

    Args:
        path: The folder.
        size: Cut and resample the pictures to squares of it; None demands that all have the first one's size.
    """

    def __init__(self, path: Path, size: int | None) -> None:
        self.path, self.size, self.where = path, size, str(path)
        self.splits = tuple(name for name in SPLITS if name in self._folders)

    @cached_property
    def shape(self) -> Shape:
        """The shape of the first training picture, the only one that is read for it."""
        file = self._files("train")[0]
        with reading(file):
            channels, height, width = picture_array(_load(file), str(file), None, self.size).shape
        return channels, height, width

    @cached_property
    def class_names(self) -> list[str] | None:
        """The subfolders of the training pictures; None if one lies in none."""
        names = {_class_of(file, self._folders["train"]) for file in self._files("train")}
        return None if None in names else sorted(name for name in names if name)

    def read(self, split: str) -> Pictures:
        """All pictures of a split; their classes if all of them lie in subfolders."""
        files = self._files(split)
        images = stack(_loaded(files), self.shape, self.size, str(self.path))
        return Pictures(images, self._labels(split, files))

    @cached_property
    def _folders(self) -> dict[str, Path]:
        inside = {split_of(folder.name): folder for folder in sorted(self.path.iterdir()) if folder.is_dir()}
        found = {split: folder for split, folder in inside.items() if split}
        if found and "train" not in found:
            raise DataError(f"source: {self.path} has {', '.join(found)} but no train folder: add one")
        return found or {"train": self.path}

    def _files(self, split: str) -> list[Path]:
        folder = self._folders[split]
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(
                f"source: no pictures in {folder}: put {', '.join(SUFFIXES)} files (or idx, .npz) there"
            )
        return files

    def _labels(self, split: str, files: list[Path]) -> np.ndarray | None:
        if self.class_names is None:
            return None
        numbers = {name: number for number, name in enumerate(self.class_names)}
        classes = [_class_of(file, self._folders[split]) for file in files]
        if strange := next(
            (file for file, name in zip(files, classes, strict=True) if name not in numbers), None
        ):
            raise DataError(
                f"source: {strange} is of no class of the training split ({', '.join(numbers)}): "
                f"put it into a subfolder of that name"
            )
        return np.array([numbers[str(name)] for name in classes], dtype=np.int64)


def _class_of(file: Path, folder: Path) -> str | None:
    inside = file.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else None


def _loaded(files: list[Path]) -> Iterator[tuple[str, "Image"]]:
    for file in files:
        with reading(file):
            image = _load(file)
        yield str(file), image


def _load(file: Path) -> "Image":
    from PIL import Image

    with Image.open(file) as image:
        image.load()
        return image
