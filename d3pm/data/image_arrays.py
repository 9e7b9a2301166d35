"""Pictures that lie as arrays in files: MNIST's idx format, and ``.npz``."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from d3pm.data.base import SPLITS
from d3pm.data.files import reading
from d3pm.data.gallery import Custom, Gallery
from d3pm.data.idx import read_idx
from d3pm.data.pictures import Pictures, Shape, resized
from d3pm.data.splits import split_of
from d3pm.errors import DataError

Reader = Callable[[], tuple[np.ndarray, np.ndarray | None]]


class Arrays(Gallery):
    """Pictures that lie as arrays in files, read whole.

    Args:
        where: For people.
        readers: For each split a function that gives images uint8 ``(N, H, W)`` or ``(N, H, W, C)`` and classes
            ``(N,)`` or None.
        size: Height and width to resample to.
        levels: Grey levels of a channel.
        custom: How the splits that are not there are cut.
    """

    def __init__(
        self,
        where: str,
        readers: dict[str, Reader],
        size: int | None = None,
        levels: int = 256,
        custom: Custom | None = None,
    ) -> None:
        self.where, self.readers, self.size, self.levels, self.custom = where, readers, size, levels, custom
        self.splits = tuple(name for name in SPLITS if name in readers)

    @property
    def shape(self) -> Shape:
        """The shape of the training pictures, which are read for it."""
        channels, height, width = self._train.images.shape[1:]
        return channels, height, width

    @cached_property
    def class_names(self) -> list[str] | None:
        """The numbers that occur in training, as text."""
        labels = self._train.labels
        return None if labels is None else [str(number) for number in range(int(labels.max()) + 1)]

    def read(self, split: str) -> Pictures:
        """All pictures of a split, resampled if they are to be."""
        return self._train if split == "train" else self._read(split)

    @cached_property
    def _train(self) -> Pictures:
        return self._read("train")

    def _read(self, split: str) -> Pictures:
        images, labels = self.readers[split]()
        where = f"{self.where} ({split})"
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        if labels is not None and labels.shape != (len(images),):
            raise DataError(
                f"source: {where} has {len(images):,} pictures, {len(labels):,} labels: replace it"
            )
        if not len(images):
            raise DataError(f"source: no picture in {where}: give one that has some")
        images = np.ascontiguousarray(resized(images, self.size))
        return Pictures(images, None if labels is None else labels.astype(np.int64))


def idx_readers(folder: Path) -> dict[str, Reader]:
    """Readers of MNIST's own files: ``train-…`` and ``t10k-…``, ``images`` and ``labels``, plain or gzipped."""

    def file(start: str, what: str) -> Path | None:
        names = (f"{start}-{what}-ubyte{packed}" for packed in ("", ".gz"))
        return next((folder / name for name in names if (folder / name).is_file()), None)

    def reader(images: Path, labels: Path | None) -> Reader:
        return lambda: (_read_images(images), None if labels is None else read_idx(labels))

    starts = {"train": "train", "test": "t10k"}
    found = {
        split: (file(start, "images-idx3"), file(start, "labels-idx1")) for split, start in starts.items()
    }
    return {split: reader(images, labels) for split, (images, labels) in found.items() if images}


def _read_images(path: Path) -> np.ndarray:
    images = read_idx(path)
    if images.ndim != 3:
        raise DataError(f"source: {path} holds {images.ndim} axes: give one of pictures (N, H, W)")
    return images


def npz_readers(folder: Path) -> dict[str, Reader]:
    """Readers of ``train….npz``, ``valid….npz`` and ``test….npz``; a single file of any name is the training split."""
    files = sorted(folder.glob("*.npz"))
    named = {split_of(file.name): file for file in files}
    if len(files) == 1:
        named = {"train": files[0]}
    return {split: npz_reader(file) for split, file in named.items() if split}


def npz_reader(file: Path) -> Reader:
    """The reader of one ``.npz`` file: ``images`` uint8 and, if they have classes, ``labels``."""
    return lambda: _read_npz(file)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with reading(path), np.load(path) as arrays:
        if "images" not in arrays:
            raise DataError(f"source: {path} holds {', '.join(arrays)}: name the array of pictures 'images'")
        images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
        raise DataError(
            f"source: {path} has images {images.dtype} {images.shape}: give uint8 (N, H, W) or (N, H, W, 1 or 3)"
        )
    return images, labels
