"""What pictures are compared in: pixels, a classifier's inner life, or that of the Inception network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from d3pm.data.image_codec import ImageCodec, requantize
from d3pm.errors import ConfigError

PIXEL_FEATURES = 32
"""Directions in which pixels are compared."""
FINEST = 32
"""Pixels in a row of a picture whose pixels are compared; larger ones are averaged down to it."""
BATCH = 256


class Features(ABC):
    """Numbers that stand for a picture, ``features(pictures)``: uint8 (N, C, H, W) to float64 (N, D).

    Attributes:
        name: What a distance in them is called.
        size: How many there are, D.
    """

    name: str
    size: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """The features of pictures (N, C, H, W), batch by batch."""
        return torch.cat([self.of(batch) for batch in pictures.split(BATCH)]).double().cpu()

    @abstractmethod
    def of(self, pictures: Tensor) -> Tensor:
        """Those of one batch, (B, D)."""

    def labels(self, pictures: Tensor) -> Tensor | None:
        """The class of each picture, int64 (N,); None where nobody knows classes."""
        return None


class PixelFeatures(Features):
    """The pixels, 0 … 1, along the directions in which training pictures differ most: no network, no download.

    They see light, place and blur, but neither strokes nor things: for a first impression, and for comparing
    samplers of one model. Fitting costs O(D³) for D pixels, 3,072 at most.
    """

    name = "pixel Fréchet distance"

    def __init__(self, mean: Tensor, directions: Tensor) -> None:
        self.mean, self.directions, self.size = mean, directions, directions.shape[1]

    @classmethod
    def fit(cls, train: Tensor, size: int = PIXEL_FEATURES) -> Self:
        """The ``size`` first principal directions of training pictures, fewer where they have fewer."""
        from scipy.linalg import eigh

        pixels = _pixels(train)
        directions = min(size, pixels.shape[1], len(pixels) - 1)
        cov = torch.cov(pixels.T).reshape(pixels.shape[1], -1).numpy()
        last = len(cov) - 1
        _, vectors = eigh(cov, subset_by_index=(last - directions + 1, last))
        return cls(pixels.mean(0), torch.from_numpy(vectors))

    def of(self, pictures: Tensor) -> Tensor:
        """See the base class."""
        return (_pixels(pictures) - self.mean) @ self.directions


class ClassifierFeatures(Features):
    """What a classifier of noisy pictures hands to its last layer, on clean pictures at its smallest time, t = 1.

    Args:
        network: Gives logits by its last layer, ``head``, an ``nn.Linear``, as
            :class:`~d3pm.networks.ImageClassifier` does.
        codec: Of the pictures it was trained on.

    Raises:
        ConfigError: If the network has no such layer.
    """

    name = "classifier Fréchet distance"

    def __init__(self, network: nn.Module, codec: ImageCodec) -> None:
        head = getattr(network, "head", None)
        if not isinstance(head, nn.Linear):
            raise ConfigError(
                f"features: {type(network).__name__} has no last layer `head` (nn.Linear) to take features from: "
                "train an ImageClassifier"
            )
        self.network, self.head, self.codec, self.size = network.eval(), head, codec, head.in_features

    def of(self, pictures: Tensor) -> Tensor:
        """See the base class."""
        return self._look(pictures)[0]

    def labels(self, pictures: Tensor) -> Tensor:
        """See the base class."""
        return torch.cat([self._look(batch)[1].argmax(-1).cpu() for batch in pictures.split(BATCH)])

    @torch.no_grad()
    def _look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into the last layer, and what comes out."""
        levels = requantize(pictures.cpu().numpy(), 256, self.codec.levels)
        x = self.codec.rows(torch.from_numpy(levels)).to(self.head.weight.device)
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(x, torch.ones(len(x), dtype=torch.int64, device=x.device))
        finally:
            handle.remove()
        return seen[-1], logits


class InceptionFeatures(Features):
    """The 2,048 pooled activations of InceptionV3, by ``torchmetrics``: what the literature calls FID.

    Raises:
        ConfigError: If ``torch-fidelity`` is missing, or the weights can neither be found nor downloaded.

    References:
        Heusel et al., *GANs trained by a two time-scale update rule*, 2017.
    """

    name = "Fréchet inception distance"
    size = 2048

    def __init__(self) -> None:
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance

            self.network: Any = FrechetInceptionDistance(feature=self.size).inception.eval()
        except Exception as error:  # of many kinds: missing packages, an unreachable host, a broken file
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(
                f"features inception cannot be had ({type(error).__name__}: {reason}): install torchmetrics[image] and "
                "go online once for the weights, or take pixels or the run of a classifier"
            ) from error
        if torch.cuda.is_available():
            self.network = self.network.cuda()

    @torch.no_grad()
    def of(self, pictures: Tensor) -> Tensor:
        """See the base class; grey pictures are shown in three equal channels."""
        device = next(self.network.parameters()).device
        return self.network(pictures.expand(-1, 3, -1, -1).contiguous().to(device))


def _pixels(pictures: Tensor) -> Tensor:
    """Pixels in 0 … 1 as rows, float64 (N, D)."""
    x = pictures.double().cpu() / 255
    if max(x.shape[-2:]) > FINEST:
        x = adaptive_avg_pool2d(x, (min(x.shape[-2], FINEST), min(x.shape[-1], FINEST)))
    return x.flatten(1)
