"""How close drawn pictures come to real ones, beside what costs nothing and what cannot be beaten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.errors import DataError
from d3pm.evaluation.features import Features, PixelFeatures
from d3pm.evaluation.frechet import check_number, frechet, moments


@dataclass(frozen=True)
class PictureNumbers:
    """How far some pictures are from the training pictures.

    Attributes:
        num_pictures: How many.
        frechet: Squared Fréchet distance in the features; it falls as there are more pictures: compare as many.
        label_variation: Total variation of their classes, as a classifier tells them, from those of the training
            pictures as it tells them; None without a classifier.
    """

    num_pictures: int
    frechet: float
    label_variation: float | None = None

    def as_dict(self) -> dict[str, float]:
        """Name to number."""
        classes = {} if self.label_variation is None else {"label_variation": self.label_variation}
        return {"frechet": self.frechet, **classes, "num_pictures": self.num_pictures}


@dataclass(frozen=True)
class PictureQuality:
    """Drawn pictures, memoryless ones and real ones, equally many of each, against the same training pictures.

    Attributes:
        name: What the distance is called, by the features it is taken in.
        num_features: How many they are.
        num_train: Training pictures that are compared with.
        samples: What is judged.
        independent: Each pixel that of a training picture drawn by itself: costs nothing, and is to be beaten.
        real: Held-out pictures: what a perfect sampler would get, with so many pictures.
    """

    name: str
    num_features: int
    num_train: int
    samples: PictureNumbers
    independent: PictureNumbers
    real: PictureNumbers

    @property
    def tables(self) -> dict[str, PictureNumbers]:
        """The three by name."""
        return {"samples": self.samples, "independent": self.independent, "real": self.real}

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        what = {"distance": self.name, "num_features": self.num_features, "num_train": self.num_train}
        return what | {name: table.as_dict() for name, table in self.tables.items()}


class PictureJudge:
    """Holds what drawn pictures are compared with, and what it says of real and of memoryless ones.

    Args:
        real: Held-out pictures, uint8 (M, C, H, W); ``num`` of them, evenly spread, are put beside.
        train: Training pictures, uint8 (L, C, H, W).
        num: How many pictures are judged at a time, M at most.
        features: What they are compared in; pixels, fitted on ``train``, if not given.
        seed: Of the memoryless pictures.

    Raises:
        DataError: If there are not more pictures than features, or fewer real ones than are judged.
    """

    def __init__(
        self, real: Tensor, train: Tensor, num: int, *, features: Features | None = None, seed: int = 0
    ) -> None:
        if num > len(real):
            raise DataError(
                f"real: {len(real)} pictures are too few to put beside {num}: give more, or judge fewer"
            )
        self.features = features or PixelFeatures.fit(train)
        check_number(num, self.features.size)
        self.num, self.num_train = num, len(train)
        self.mean, self.cov = moments(self.features(train))
        self.shares = self._shares(train)
        self.real = self._numbers(real[[(2 * i + 1) * len(real) // (2 * num) for i in range(num)]])
        self.independent = self._numbers(memoryless(train, num, seed))

    def __call__(self, samples: Tensor) -> PictureQuality:
        """Judge ``num`` pictures, uint8 (num, C, H, W); more are left out."""
        if len(samples) < self.num:
            raise DataError(f"samples: there are {len(samples)}, but {self.num} are to be judged: give more")
        return PictureQuality(
            name=self.features.name,
            num_features=self.features.size,
            num_train=self.num_train,
            samples=self._numbers(samples[: self.num]),
            independent=self.independent,
            real=self.real,
        )

    def _numbers(self, pictures: Tensor) -> PictureNumbers:
        distance = frechet(*moments(self.features(pictures)), self.mean, self.cov)
        shares, variation = self._shares(pictures), None
        if self.shares is not None and shares is not None:
            size = max(len(shares), len(self.shares))
            gap = torch.zeros(size, dtype=torch.float64)
            gap[: len(shares)] += shares
            gap[: len(self.shares)] -= self.shares
            variation = float(gap.abs().sum() / 2)
        return PictureNumbers(len(pictures), distance, variation)

    def _shares(self, pictures: Tensor) -> Tensor | None:
        """How often each class is told, float64."""
        labels = self.features.labels(pictures)
        return None if labels is None else torch.bincount(labels).double() / len(labels)


def picture_quality(samples: Tensor, real: Tensor, train: Tensor, **options: Any) -> PictureQuality:
    """Compare drawn pictures with real ones; all are uint8 (N, C, H, W).

    Of drawn, memoryless and real pictures equally many are used, as many as there are of the fewest.

    Args:
        samples: Drawn pictures.
        real: Held-out pictures.
        train: Pictures the model was trained on.
        **options: Of :class:`PictureJudge`.

    Raises:
        DataError: If there are not more pictures than features.
    """
    return PictureJudge(real, train, min(len(samples), len(real)), **options)(samples)


def memoryless(train: Tensor, num: int, seed: int = 0) -> Tensor:
    """Pictures whose pixels are as they should be, each by itself: every entry is that of some training picture."""
    generator = torch.Generator().manual_seed(seed)
    flat = train.flatten(1)
    which = torch.randint(len(train), (num, flat.shape[1]), generator=generator)
    return flat.gather(0, which).view(num, *train.shape[1:])
