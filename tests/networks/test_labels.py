"""Laws of class labels: what the null class stands for, and how often it stands in."""

import math

import pytest
import torch
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks import DiffusersUNet, ImageTransformer, UNetDenoiser
from d3pm.networks.labels import Labels

CLASSES, B = 4, 6


def unet(**options) -> UNetDenoiser:
    return UNetDenoiser(8, 1, channels=(8, 8), attention_at=(), layers=1, **options)


def transformer(**options) -> ImageTransformer:
    return ImageTransformer(8, 1, patch=4, dim=16, depth=1, heads=2, **options)


either = pytest.mark.parametrize("make", [unet, transformer])


def awake(make, **options) -> nn.Module:
    """A float64 network moved off its initial zeros."""
    torch.manual_seed(0)
    network = make(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.double().eval()


def images(n: int = B) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(1, 1000, n).long()


def test_labels_are_hidden_as_often_as_asked_each_on_its_own_and_whatever_the_class():
    torch.manual_seed(0)
    n, drop = 40_000, 0.1
    labels = torch.arange(n) % CLASSES
    hidden = Labels(CLASSES, drop)(labels, like=labels) == CLASSES
    spread = math.sqrt(drop * (1 - drop) / n)
    assert abs(hidden.double().mean() - drop) < 4 * spread
    both = (hidden[1:] & hidden[:-1]).double().mean()
    assert abs(both - drop**2) < 4 * drop / math.sqrt(n)
    expected = drop * n / CLASSES
    counts = torch.bincount(labels[hidden], minlength=CLASSES)
    chi2 = ((counts - expected) ** 2 / (expected * (1 - drop))).sum()
    assert chi2 < 23.5, "the 0.9999 quantile at 4 degrees of freedom"


@pytest.mark.parametrize(
    "labels", [Labels(CLASSES, 0.9).eval(), Labels(CLASSES, 0.0), Labels(CLASSES, 0.9, null=False)]
)
def test_labels_are_left_alone_in_evaluation_without_drop_and_without_a_null_class(labels):
    known = torch.arange(1000) % CLASSES
    for _ in range(3):
        assert torch.equal(labels(known, like=known), known)


@either
def test_the_null_class_is_no_labels_at_all(make):
    network, (x, t) = awake(make, num_classes=CLASSES), images()
    null = torch.full((B,), CLASSES)
    assert torch.equal(network(x, t), network(x, t, labels=null))
    assert torch.equal(network(x, t), network(x, t, labels=None))


@either
def test_every_class_has_its_own_output(make):
    network, (x, t) = awake(make, num_classes=CLASSES), images(1)
    outputs = [network(x, t, labels=torch.tensor([label])) for label in range(CLASSES + 1)]
    for i, output in enumerate(outputs):
        for other in outputs[:i]:
            assert (output - other).abs().max() > 1e-3


@either
def test_in_training_a_row_is_its_class_or_the_null_class(make):
    n, drop = 400, 0.3
    network, (x, t) = awake(make, num_classes=CLASSES, label_drop=drop), images(n)
    labels = torch.arange(n) % CLASSES
    with torch.no_grad():
        known, null = network(x, t, labels=labels), network(x, t)
        torch.manual_seed(0)
        trained = network.train()(x, t, labels=labels)
    is_known, is_null = ((trained - other).abs().amax((1, 2, 3)) < 1e-9 for other in (known, null))
    assert (is_known ^ is_null).all()
    assert abs(is_null.double().mean() - drop) < 4 * math.sqrt(drop * (1 - drop) / n)


@either
def test_without_classes_there_is_no_label_to_give(make):
    network, (x, t) = awake(make), images()
    with pytest.raises(ConfigError, match="num_classes"):
        network(x, t, labels=torch.zeros(B, dtype=torch.int64))


@either
@pytest.mark.parametrize(
    ("labels", "said"),
    [([0, 1, 2, 3, 4, 5], "hold 5"), ([0, 1, 2, 3, 0, -1], "hold -1"), ([0, 1], r"\(2,\) for 6 images")],
)
def test_labels_that_do_not_fit_are_refused(make, labels, said):
    network, (x, t) = awake(make, num_classes=CLASSES), images()
    with pytest.raises(ConfigError, match=said) as caught:
        network(x, t, labels=torch.tensor(labels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 3, "drop": 1.0}, "label_drop=1.0"),
        ({"num_classes": 3, "drop": -0.1}, "label_drop=-0.1"),
    ],
)
def test_bad_numbers_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Labels(**options)


PLAIN = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "num_class_embeds": CLASSES + 1,
}


def test_embeddings_of_a_foreign_network_are_classes_unless_the_last_is_said_to_be_null():
    x, t = images()
    labels = torch.full((B,), CLASSES)
    foreign = awake(lambda: DiffusersUNet(PLAIN))
    assert foreign.num_classes == CLASSES + 1
    foreign(x, t, labels=labels)
    with pytest.raises(ConfigError, match="no null class"):
        foreign(x, t)
    ours = awake(lambda: DiffusersUNet(PLAIN, num_classes=CLASSES))
    assert torch.equal(ours(x, t), foreign(x, t, labels=labels))
    for wrong in (CLASSES - 1, CLASSES + 2):
        with pytest.raises(ConfigError, match=f"num_classes={wrong}"):
            DiffusersUNet(PLAIN, num_classes=wrong)
