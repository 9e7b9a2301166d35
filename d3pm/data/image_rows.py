"""Pictures in memory as a dataset of floats, or of grey levels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.data.image_codec import ImageCodec
from d3pm.data.pictures import Pictures

Item = dict[str, Tensor]


class ImageRows(Dataset[Item]):
    """Pictures kept as bytes, ``{"x0": (C, H, W), "labels": int64 ()}`` made on access.

    Args:
        pictures: The pictures, in levels of the codec.
        codec: What turns levels into entries: floats, or int64 levels if it is discrete.
        labels: Whether items hold the class.
        flip: Whether each access shows a picture or its mirror image, by a draw of torch's global generator
            (so that a run which restores that generator sees the same pictures again).

    Examples:
        >>> import numpy as np
        >>> pictures = Pictures(np.zeros((3, 1, 2, 2), np.uint8), labels=np.array([5, 6, 7]))
        >>> item = ImageRows(pictures, ImageCodec((1, 2, 2)), labels=True)[1]
        >>> item["x0"].tolist(), item["labels"].item()
        ([[[-1.0, -1.0], [-1.0, -1.0]]], 6)
    """

    def __init__(
        self, pictures: Pictures, codec: ImageCodec, labels: bool = False, flip: bool = False
    ) -> None:
        self.codec, self.flip = codec, flip
        self.images = torch.from_numpy(pictures.images)
        self.labels = torch.from_numpy(pictures.labels) if labels and pictures.labels is not None else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """A batch at once, which is what a ``DataLoader`` asks for."""
        places = torch.as_tensor(indices, dtype=torch.int64)
        levels = self.images[places]
        if self.flip:
            mirrored = torch.rand(len(places)) < 0.5
            levels = torch.where(mirrored[:, None, None, None], levels.flip(-1), levels)
        x0 = self.codec.rows(levels)
        if self.labels is None:
            return [{"x0": row} for row in x0]
        return [{"x0": row, "labels": label} for row, label in zip(x0, self.labels[places], strict=True)]
