"""Pictures as a data source: from a name to floats in [-1, 1], or to grey levels."""

from functools import cached_property

import numpy as np

from d3pm.data.base import SPLITS, DataSource
from d3pm.data.gallery import Gallery
from d3pm.data.image_codec import ImageCodec, requantize
from d3pm.data.image_rows import ImageRows
from d3pm.data.image_sources import find
from d3pm.data.pictures import Pictures, held_out
from d3pm.data.splits import HELD_OUT_PERCENT, known
from d3pm.errors import ConfigError, DataError


class ImageData(DataSource):
    """Pictures found by name, kept in memory as bytes, shown as floats in [-1, 1] or as grey levels.

    Nothing is read before it is asked for; ``shape`` and ``codec`` ask for as little as can be. Splits that the
    source lacks are cut from its training pictures, always in the same way: the last 5,000 of MNIST,
    Fashion-MNIST and CIFAR-10; 180 for validation and 180 for test of the 1,797 digits; 5 % of anything else.
    But for the first three, those are evenly spread over every class.

    Args:
        source: ``"digits"`` (8 x 8, 17 levels, inside scikit-learn, no download); ``"mnist"``,
            ``"fashion_mnist"`` or ``"cifar10"``; a folder of PNG or JPEG files (subfolders train, valid and test
            are splits, those below them classes), of idx files, or of ``.npz`` files (``images`` uint8
            ``(N, H, W, C)``, ``labels``); or a dataset on the hub. A plain name is looked for in the
            folder ``$D3PM_DATA`` first.
        size: Cut pictures to their central square and resample them to this height and width; None
            leaves them as they are, all of one size.
        levels: Grey levels to keep, the nearest of so many even ones; None keeps all.
        labels: Whether items hold their class, ``"labels"``.
        validation: Pictures to keep aside from training where the source has no validation split.
        flip: Show each training picture or its mirror image, at random.
        column: The column of a hub dataset that holds the pictures; None takes the first that does.
        subset: The configuration of a hub dataset.
        cache_dir: Where ``datasets`` keeps what it downloads.
        discrete: Show int64 levels ``0 … levels - 1``, for a discrete process, instead of floats in [-1, 1].

    Raises:
        ConfigError: If an option is out of range, or contradicts the source (the latter at first use).
        DataError: (At first use) if pictures are missing, broken or of several sizes, or have no class
            where ``labels`` are asked for.

    Examples:
        >>> data = ImageData("digits", labels=True)
        >>> data.shape, data.codec.num_symbols, data.num_classes
        ((1, 8, 8), 17, 10)
        >>> print(data.describe())
        digits: 1,797 pictures 8 x 8, grey, 17 levels, 10 classes, scikit-learn: train 1,437, validation 180, test 180
    """

    def __init__(
        self,
        source: str = "digits",
        size: int | None = None,
        levels: int | None = None,
        labels: bool = False,
        validation: int | None = None,
        flip: bool = False,
        column: str | None = None,
        subset: str | None = None,
        cache_dir: str | None = None,
        discrete: bool = False,
    ) -> None:
        self.source = source
        self.size = size
        self.levels = levels
        self.labels = labels
        self.validation = validation
        self.flip = flip
        self.column = column
        self.subset = subset
        self.cache_dir = cache_dir
        self.discrete = discrete
        self._check()
        self._pictures: dict[str, Pictures] = {}

    @cached_property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override] # an attribute, found when first asked for
        """``(C, H, W)`` of one picture."""
        return self._gallery.shape

    @cached_property
    def codec(self) -> ImageCodec:  # type: ignore[override]
        """The codec of every split.

        Raises:
            ConfigError: If more levels are asked for than the pictures have.
        """
        if self.levels is not None and self.levels > self._gallery.levels:
            raise ConfigError(
                f"levels: {self.levels} are more than the {self._gallery.levels} that {self.source} has: "
                f"lower it or leave it out"
            )
        return ImageCodec(self.shape, self.levels or self._gallery.levels, self.discrete)

    @property
    def class_names(self) -> list[str] | None:
        """The name of each class, None without ``labels``.

        Raises:
            DataError: If ``labels`` are asked for and the pictures have none.
        """
        if not self.labels:
            return None
        if self._gallery.class_names is None:
            raise DataError(
                f"labels: the pictures of {self._gallery.where} have no classes: set labels to false, "
                f"or give a source that has them (a folder with one subfolder a class)"
            )
        return self._gallery.class_names

    @property
    def num_classes(self) -> int | None:
        """How many classes there are, None without ``labels``."""
        return None if self.class_names is None else len(self.class_names)

    def split(self, name: str) -> ImageRows:
        """``"train"``, ``"validation"`` or ``"test"``.

        Raises:
            ConfigError: If there is no split of that name.
            DataError: If the pictures cannot be read, differ in shape, or lack the classes asked for.
        """
        known(name)
        classes = self.num_classes
        pictures = self._read(name)
        if classes is not None:
            self._check_labels(pictures, classes, name)
        return ImageRows(pictures, self.codec, self.labels, self.flip and name == "train")

    def describe(self) -> str:
        """One line: what was found, where, how many of what shape, and how they are split."""
        amounts = {name: len(self._read(name)) for name in SPLITS}
        channels, height, width = self.shape
        what = (
            f"{sum(amounts.values()):,} pictures {height} x {width}, {'grey' if channels == 1 else 'colour'}"
        )
        classes = [f"{self.num_classes} classes"] if self.labels else []
        levels = f"{self.codec.levels} levels{' as categories' if self.discrete else ''}"
        facts = ", ".join([what, levels, *classes, self._gallery.where])
        return (
            f"{self.source}: {facts}: {', '.join(f'{name} {amount:,}' for name, amount in amounts.items())}"
        )

    @cached_property
    def _gallery(self) -> Gallery:
        return find(self.source, self.size, self.column, self.subset, self.cache_dir)

    def _read(self, name: str) -> Pictures:
        """The pictures of a split in levels of the codec, read once."""
        if name not in self._pictures:
            own = name in self._gallery.splits and name != "train"
            found = {name: self._gallery.read(name)} if own else self._cut(self._gallery.read("train"))
            self._pictures |= {split: self._in_levels(pictures, split) for split, pictures in found.items()}
        return self._pictures[name]

    def _cut(self, whole: Pictures) -> dict[str, Pictures]:
        """The training pictures, and apart from them the splits that the source lacks."""
        counts = self._counts(len(whole))
        if not counts:
            return {"train": whole}
        custom = self._gallery.custom
        if custom and custom.in_order and len(counts) == 1:
            ((name, count),) = counts.items()
            border = len(whole) - count
            return {"train": whole.at(slice(border)), name: whole.at(slice(border, None))}
        places = held_out(whole, list(counts.values()))
        rest = np.setdiff1d(np.arange(len(whole)), np.concatenate(places))
        parts = {name: whole.at(part) for name, part in zip(counts, places, strict=True)}
        return {"train": whole.at(rest), **parts}

    def _counts(self, total: int) -> dict[str, int]:
        """How many pictures of ``total`` each split is given that the source lacks."""
        gallery = self._gallery
        missing = [name for name in SPLITS if name not in gallery.splits]
        usual = gallery.custom.held_out if gallery.custom else max(1, total * HELD_OUT_PERCENT // 100)
        counts = dict.fromkeys(missing, usual)
        if self.validation is not None:
            if "validation" not in missing:
                raise ConfigError(
                    f"validation: {self.validation} cannot be cut, {gallery.where} has a validation split of "
                    f"its own: leave validation out"
                )
            counts["validation"] = self.validation
        if sum(counts.values()) >= total:
            raise ConfigError(
                f"validation: {total} pictures less {counts} leave none for training: lower it, or give more"
            )
        return counts

    def _in_levels(self, pictures: Pictures, split: str) -> Pictures:
        if pictures.images.shape[1:] != self.shape:
            raise DataError(
                f"source: the {split} pictures of {self._gallery.where} have shape {pictures.images.shape[1:]}, "
                f"those of training {self.shape}: make them alike, or set size"
            )
        images = requantize(pictures.images, self._gallery.levels, self.codec.levels)
        return Pictures(images, pictures.labels)

    def _check_labels(self, pictures: Pictures, classes: int, split: str) -> None:
        labels = pictures.labels
        if labels is None or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
            found = "none" if labels is None else f"{labels.min()} … {labels.max()}"
            raise DataError(
                f"labels: those of the {split} split of {self._gallery.where} are {found}, outside 0 … "
                f"{classes - 1}: mend them, or set labels to false"
            )

    def _check(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size: {self.size} is no height and width: give 1 or more, e.g. 32")
        if self.levels is not None and not 2 <= self.levels <= 256:
            raise ConfigError(f"levels: {self.levels} do not fit 8-bit pictures: give 2 … 256")
        if self.validation is not None and self.validation < 1:
            raise ConfigError(f"validation: {self.validation} is no split: give 1 or more pictures")
