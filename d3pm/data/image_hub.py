"""Pictures of a dataset on the hub, through ``datasets``."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from d3pm.data.base import SPLITS
from d3pm.data.files import reading
from d3pm.data.gallery import Custom, Gallery
from d3pm.data.pictures import Pictures, Shape, picture_array, stack
from d3pm.data.places import from_hub
from d3pm.data.splits import split_of
from d3pm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


class HubPictures(Gallery):
    """An image column and, where there is one, a class column of a dataset on the hub.

    Args:
        source: What the user called it.
        name: Its name on the hub.
        subset: Its configuration.
        column: The column of pictures; None takes the first that holds any.
        size: Cut and resample the pictures to squares of it; None demands that all have the first one's size.
        cache_dir: Where ``datasets`` keeps what it downloads; None: where it always does.
        custom: How the splits that it lacks are cut.

    Raises:
        DataError: If it is not to be had, or has no such column.
    """

    def __init__(
        self,
        source: str,
        name: str,
        subset: str | None = None,
        column: str | None = None,
        size: int | None = None,
        cache_dir: str | None = None,
        custom: Custom | None = None,
    ) -> None:
        self.where = " ".join(["hub dataset", name, *([subset] if subset else [])])
        self.size, self.custom = size, custom
        self._rows = _by_split(
            from_hub(source, name, subset, built_in="digits", cache_dir=cache_dir), self.where
        )
        self.splits = tuple(split for split in SPLITS if split in self._rows)
        self.column = self._image_column(column)

    @cached_property
    def shape(self) -> Shape:
        """The shape of the first training picture, the only one that is read for it."""
        name, image = next(self._pictures("train"))
        channels, height, width = picture_array(image, name, None, self.size).shape
        return channels, height, width

    @cached_property
    def class_names(self) -> list[str] | None:
        """The names of the first class column, or the numbers in a column named label or labels."""
        from datasets import ClassLabel

        if self._label_column is None:
            return None
        feature = self._rows["train"].features[self._label_column]
        if isinstance(feature, ClassLabel):
            return list(feature.names)
        return [str(number) for number in range(int(max(self._rows["train"][self._label_column])) + 1)]

    def read(self, split: str) -> Pictures:
        """All pictures of a split, decoded one by one."""
        images = stack(self._pictures(split), self.shape, self.size, self.where)
        if self._label_column is None:
            return Pictures(images, None)
        return Pictures(images, np.array(self._rows[split][self._label_column], dtype=np.int64))

    def _pictures(self, split: str) -> Iterator[tuple[str, "Image"]]:
        with reading(self.where):
            for place, row in enumerate(self._rows[split].select_columns([self.column])):
                name = f"row {place} of {self.where} ({split})"
                if row[self.column] is None:
                    raise DataError(f"column: {self.column!r} of {name} is empty: give each row a picture")
                yield name, row[self.column]

    @cached_property
    def _label_column(self) -> str | None:
        from datasets import ClassLabel

        features = self._rows["train"].features
        named = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        integers = ("int", "uint")
        plain = [
            name
            for name in ("label", "labels")
            if name in features and str(getattr(features[name], "dtype", "")).startswith(integers)
        ]
        return next(iter([*named, *plain]), None)

    def _image_column(self, column: str | None) -> str:
        from datasets import Image

        features = self._rows["train"].features
        found = [name for name, feature in features.items() if isinstance(feature, Image)]
        chosen = column or next(iter(found), None)
        if chosen not in found:
            raise DataError(
                f"column: no pictures in column {chosen!r} of {self.where}: set column to one of "
                f"{', '.join(found)}"
                if found
                else f"source: {self.where} has no pictures, only {', '.join(features)}: name another dataset"
            )
        return str(chosen)


def _by_split(dataset: Any, where: str) -> dict[str, Any]:
    rows = {split_of(key): split for key, split in dataset.items()}
    if len(dataset) == 1:
        return {"train": next(iter(dataset.values()))}
    if "train" not in rows:
        raise DataError(f"source: {where} has {', '.join(dataset)} but no train split: name another dataset")
    return {split: found for split, found in rows.items() if split}
