"""Pictures judged: the Fréchet distance in closed form, and features that are what they say."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from d3pm.data import ImageData
from d3pm.data.image_codec import ImageCodec
from d3pm.errors import ConfigError, DataError
from d3pm.evaluation import ClassifierFeatures, InceptionFeatures, PixelFeatures, frechet, picture_quality
from d3pm.evaluation.features import Features
from d3pm.evaluation.frechet import moments
from d3pm.evaluation.picture_quality import memoryless
from d3pm.networks import ImageClassifier


def covariance(size: int, seed: int, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, rank or size, dtype=torch.float64, generator=generator)
    return root @ root.T


@pytest.fixture(scope="module")
def digits() -> dict[str, torch.Tensor]:
    """All splits of the digits as bytes."""
    data = ImageData("digits")

    def split(name):
        levels = torch.stack([data.codec.symbols(item["x0"]) for item in data.split(name)])
        return torch.from_numpy((levels.numpy() * 255 // 16).astype(np.uint8))

    return {name: split(name) for name in ("train", "validation", "test")}


# The distance


def test_with_equal_covariances_it_is_the_distance_of_the_means():
    cov, one, other = covariance(5, 0), torch.arange(5.0), torch.ones(5)
    expected = float((one - other).square().sum())
    assert frechet(one, cov, other, cov) == pytest.approx(expected, rel=1e-9)
    assert frechet(one, cov, one, cov) == pytest.approx(0, abs=1e-9)


def test_of_covariances_that_commute_it_is_that_of_their_roots():
    a, b = torch.tensor([1.0, 4.0, 0.0, 9.0]), torch.tensor([4.0, 1.0, 1.0, 9.0])
    turn = torch.linalg.qr(covariance(4, 1))[0]
    covs = [turn @ torch.diag(each).double() @ turn.T for each in (a, b)]
    expected = float((a.sqrt() - b.sqrt()).square().sum())
    zero = torch.zeros(4)
    assert frechet(zero, covs[0], zero, covs[1]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [6, 3], ids=["regular", "singular"])
def test_it_is_that_of_scipys_root(rank):
    one, other = covariance(6, 2, rank), covariance(6, 3)
    root = sqrtm((one @ other).numpy())
    expected = float(one.trace() + other.trace()) - 2 * np.trace(root).real + 6
    found = frechet(torch.zeros(6), one, torch.ones(6), other)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx(frechet(torch.ones(6), other, torch.zeros(6), one), rel=1e-6)


def test_shapes_that_do_not_go_together_and_numbers_that_are_none_are_refused():
    with pytest.raises(DataError, match="shapes"):
        frechet(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3))
    with pytest.raises(DataError, match="finite"):
        frechet(torch.zeros(2), torch.eye(2), torch.tensor([0, torch.nan]), torch.eye(2))


def test_moments_are_numpys_and_need_more_pictures_than_features():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, x.double().numpy().mean(0))
    np.testing.assert_allclose(cov, np.cov(x.double().numpy().T))
    assert moments(x[:, :1])[1].shape == (1, 1)
    with pytest.raises(
        DataError, match="3 pictures are too few for a covariance of 3 features: take 4 or more"
    ):
        moments(x[:3])


# Features


def test_pixels_are_seen_along_their_principal_directions(digits):
    features = PixelFeatures.fit(digits["train"], size=10)
    eye = features.directions.T @ features.directions
    assert torch.allclose(eye, torch.eye(10, dtype=torch.float64), atol=1e-10)
    seen = torch.cov(features(digits["train"]).T)
    pixels = digits["train"].flatten(1).double() / 255
    largest = torch.linalg.eigvalsh(torch.cov(pixels.T))[-10:]
    assert torch.allclose(seen, torch.diag(largest), atol=1e-10)


def test_large_pictures_are_averaged_before():
    pictures = torch.randint(256, (40, 1, 64, 48), dtype=torch.uint8)
    features = PixelFeatures.fit(pictures)
    assert features(pictures).shape == (40, 32)
    assert features.directions.shape[0] == 32 * 32


def test_a_classifier_shows_what_its_last_layer_is_given():
    torch.manual_seed(0)
    network = ImageClassifier(size=8, in_channels=1, num_classes=4, channels=(8, 16)).eval()
    nn.init.normal_(network.head.weight)
    codec = ImageCodec((1, 8, 8), levels=17)
    pictures = torch.randint(256, (300, 1, 8, 8), dtype=torch.uint8)
    features = ClassifierFeatures(network, codec)
    x = torch.stack([codec.encode(_pillow(picture)) for picture in pictures])
    with torch.no_grad():
        logits = network(x, torch.ones(300, dtype=torch.int64))
        again = network.head(features(pictures).float())
    assert features.size == 16
    assert torch.allclose(again, logits, atol=1e-5)
    assert features.labels(pictures).equal(logits.argmax(-1))
    assert not network.head._forward_pre_hooks


def _pillow(picture: torch.Tensor):
    from PIL import Image

    return Image.fromarray(picture[0].numpy())


def test_a_network_without_a_last_layer_gives_none():
    with pytest.raises(ConfigError, match="Identity has no last layer `head`"):
        ClassifierFeatures(nn.Identity(), ImageCodec((1, 8, 8)))


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="it may be had here")
def test_inception_says_in_a_line_what_it_needs():
    with pytest.raises(ConfigError) as error:
        InceptionFeatures()
    assert "\n" not in str(error.value)
    assert "torchmetrics[image]" in str(error.value)


# The report


def test_memoryless_pictures_have_the_pixels_laws_and_nothing_else(digits):
    drawn, train = memoryless(digits["train"], 5000).double(), digits["train"].double()
    error = (train.std(0) / 5000**0.5).clamp(min=1e-9)
    assert ((drawn.mean(0) - train.mean(0)) / error).abs().max() < 4.5
    off = torch.corrcoef(drawn.flatten(1).T[(train.std(0).flatten() > 20)]).fill_diagonal_(0)
    assert off.abs().max() < 0.07
    assert memoryless(digits["train"], 9).equal(memoryless(digits["train"], 9))


def test_real_pictures_beat_memoryless_ones_and_equal_real_samples(digits):
    found = picture_quality(digits["validation"], digits["test"], digits["train"])
    assert found.name == "pixel Fréchet distance"
    assert (found.num_features, found.num_train, found.real.num_pictures) == (32, 1437, 180)
    assert found.samples.frechet < 0.25 * found.independent.frechet
    assert found.real.frechet == pytest.approx(found.samples.frechet, rel=0.5)
    assert "label_variation" not in found.as_dict()["samples"]


class Halves(Features):
    """Mean brightness of the upper half; the class is whether it is above the middle."""

    name, size = "brightness", 1

    def of(self, pictures):
        return pictures[:, :, :4].double().mean((1, 2, 3))[:, None]

    def labels(self, pictures):
        return (self(pictures)[:, 0] > 127).long()


def test_the_balance_of_classes_is_their_total_variation():
    dark, light = (torch.full((10, 1, 8, 8), value, dtype=torch.uint8) for value in (3, 250))
    mixed = torch.cat([dark[:7], light[:3]])
    found = picture_quality(mixed, dark, torch.cat([dark, light]), features=Halves())
    assert found.samples.label_variation == pytest.approx(0.2)
    assert found.real.label_variation == pytest.approx(0.5)
    shares = mixed.double().mean((1, 2, 3))
    expected = (shares.mean() - 126.5) ** 2 + (
        shares.std() - torch.cat([dark, light]).double().mean((1, 2, 3)).std()
    ) ** 2
    assert found.samples.frechet == pytest.approx(float(expected), rel=1e-9)


def test_too_few_pictures_are_refused(digits):
    with pytest.raises(DataError, match="20 pictures are too few for a covariance of 32 features"):
        picture_quality(digits["test"][:20], digits["test"], digits["train"])
