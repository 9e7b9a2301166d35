"""Laws of the classifier of noisy images: it can steer, it knows the time, and it learns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.networks import ImageClassifier
from d3pm.specs import build, describe

B, CLASSES = 3, 4


def small(**options) -> ImageClassifier:
    return ImageClassifier(
        **{"size": 8, "in_channels": 2, "num_classes": CLASSES, "channels": (8, 12), **options}
    )


def awake(**options) -> ImageClassifier:
    """A float64 network moved off its initial zeros."""
    torch.manual_seed(0)
    network = small(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.double().eval()


def images() -> tuple[Tensor, Tensor]:
    x = torch.randn(B, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([1, 40, 999])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_fresh_logits_are_the_uniform_belief():
    assert (small().double()(*images()) == 0).all()


def test_the_gradient_of_the_belief_is_its_slope():
    network, (x, t) = awake(), images()

    def belief(x: Tensor) -> Tensor:
        return network(x, t).log_softmax(-1)[torch.arange(B), torch.tensor([0, 2, 3])].sum()

    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(belief(x), x)
    assert slope.isfinite().all()
    assert (slope.abs().amax((1, 2, 3)) > 1e-3).all()
    directions = torch.randn(8, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for way in directions:
            measured = (belief(x + 1e-5 * way) - belief(x - 1e-5 * way)) / 2e-5
            torch.testing.assert_close(measured, (slope * way).sum(), rtol=1e-6, atol=1e-8)


def test_integer_and_float_times_are_one_clock_and_time_matters():
    network, (x, t) = awake(), images()
    close(network(x, t), network(x, t.double()))
    assert ((network(x, t) - network(x, t + 0.5)).abs().amax(-1) > 1e-5).all()


def test_rows_do_not_see_each_other():
    network, (x, t) = awake(), images()
    close(network(x, t)[1:2], network(x[1:2], t[1:2]))


def test_every_place_is_looked_at():
    network, (x, t) = awake(), images()
    x.requires_grad_(True)
    network(x, t).square().sum().backward()
    assert (x.grad.abs() > 0).all()


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"channels": (6,)}, {"channels": (4, 4, 8, 8)}])
def test_gradients_reach_every_parameter(options):
    network, (x, t) = awake(**options), images()
    F.cross_entropy(network(x, t), torch.tensor([0, 1, 2])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_learns_to_tell_where_the_bright_spot_is():
    torch.manual_seed(0)
    network = small(in_channels=1, channels=(8, 16))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLASSES, (n,))
        x = 0.5 * torch.randn(n, 1, 8, 8)
        for row, label in zip(x, labels, strict=True):  # a vertical, horizontal or diagonal line, or none
            row[0].add_(
                [torch.zeros(8, 8), torch.eye(8), torch.eye(8)[3].repeat(8, 1), torch.eye(8)[:, 3:4]][label]
            )
        return x, labels

    for _ in range(120):
        x, labels = draw(32)
        loss = F.cross_entropy(network(x, torch.full((32,), 5)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, labels = draw(200)
    right = network.eval()(x, torch.full((200,), 5)).argmax(-1) == labels
    assert right.double().mean() > 0.8, "chance is 0.25"


def test_dropout_acts_in_training_only():
    network, (x, t) = awake(dropout=0.5), images()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_follow_float64(dtype):
    network, (x, t) = awake(), images()
    exact = network(x, t)
    low = network.to(dtype)(x.to(dtype), t)
    assert low.dtype == dtype
    assert (low - exact).abs().max() < (1e-4 if dtype == torch.float32 else 0.1) * exact.abs().max()


def test_a_description_makes_an_equal_network():
    network, (x, t) = awake(layers=2, dropout=0.1), images()
    again = build(describe(network)).double().eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x, t), network(x, t))
    assert not list(network.buffers()), "a lazy load would leave a buffer unfilled"


@pytest.mark.parametrize("shape", [(B, 1, 8, 8), (B, 2, 16, 16), (B, 8, 8)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(ConfigError, match=r"images of shape .* \(B, 2, 8, 8\)"):
        small()(torch.zeros(shape), torch.ones(shape[0]))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"size": 7}, "size=7"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"channels": ()}, "channels="),
        ({"layers": 0}, "layers=0"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_bad_sizes_are_refused_with_the_field_and_the_value(options, field):
    with pytest.raises(ConfigError, match=field) as caught:
        small(**options)
    assert "\n" not in str(caught.value)
    assert "take" in str(caught.value)
