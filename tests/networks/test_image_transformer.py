"""Laws of the image transformer: patches, places in a plane, and what the output depends on."""

import cmath

import pytest
import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.networks import ImageTransformer
from d3pm.networks.image_transformer import from_patches, grid_table, to_patches
from d3pm.networks.rotary import rotate
from d3pm.specs import build, describe

B = 3


def small(**options) -> ImageTransformer:
    sizes = {"size": 8, "in_channels": 2, "patch": 2, "dim": 16, "depth": 2, "heads": 2}
    return ImageTransformer(**{**sizes, **options})


def awake(**options) -> ImageTransformer:
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


def test_fresh_output_is_zero():
    assert (small().double()(*images()) == 0).all()


def test_a_patch_is_a_square_of_the_image_and_nothing_is_lost():
    x = torch.arange(2 * 3 * 6 * 6).view(2, 3, 6, 6)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 9, 12)
    for row in range(3):
        for column in range(3):
            square = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 3 * row + column], square.flatten(1))
    assert torch.equal(from_patches(patches, 2, 6), x)


def test_rotary_products_depend_on_the_distance_in_rows_and_in_columns_alone():
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = grid_table(torch.arange(5.0, dtype=torch.float64), head_dim=8)
    turned_q, turned_k = (rotate(v.expand(1, 25, 8), table)[0] for v in (q, k))
    products = (turned_q @ turned_k.T).view(5, 5, 5, 5)  # row and column of q, then of k
    close(products[:-1, :-2, :-1, :-2], products[1:, 2:, 1:, 2:])
    close(products.flatten(0, 1).flatten(-2).diagonal(), (q @ k).expand(25))
    distinct = products[2, 2].flatten()
    assert (distinct[:, None] - distinct + 10 * torch.eye(25)).abs().min() > 1e-6


def test_one_pair_turns_with_the_row_and_the_next_with_the_column():
    x = torch.randn(1, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, grid_table(torch.arange(3.0, dtype=torch.float64), head_dim=4))
    for place in range(9):
        for pair, steps in enumerate(divmod(place, 3)):
            was = complex(x[0, place, pair], x[0, place, pair + 2])
            now = complex(turned[0, place, pair], turned[0, place, pair + 2])
            assert abs(now - was * cmath.exp(1j * steps)) < 1e-12


def test_places_of_patches_matter():
    network, (x, t) = awake(), images()
    with torch.no_grad():
        network.positions.zero_()  # the rotation alone tells places
        turned = network(x.transpose(2, 3), t).transpose(2, 3)
    assert (turned - network(x, t)).abs().max() > 1e-2
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = from_patches(to_patches(x, 2)[:, order], 2, 8)
    assert (to_patches(network(shuffled, t), 2) - to_patches(network(x, t), 2)[:, order]).abs().max() > 1e-2


def test_every_pixel_reaches_every_other():
    network, (x, t) = awake(), images()
    x.requires_grad_(True)
    for row, column in ((0, 0), (7, 7), (3, 4)):
        (slope,) = torch.autograd.grad(network(x, t)[:, 0, row, column].sum(), x)
        assert (slope.abs() > 0).all()


def test_rows_do_not_see_each_other():
    network, (x, t) = awake(num_classes=3), images()
    labels = torch.tensor([0, 2, 3])
    close(network(x, t, labels=labels)[1:2], network(x[1:2], t[1:2], labels=labels[1:2]))


def test_integer_and_float_times_are_one_clock_and_time_matters():
    network, (x, t) = awake(), images()
    close(network(x, t), network(x, t.double()))
    assert ((network(x, t) - network(x, t + 0.5)).abs().amax((1, 2, 3)) > 1e-5).all()


def test_gradients_reach_every_parameter():
    network, (x, t) = awake(num_classes=3), images()
    (network(x, t, labels=torch.tensor([0, 1, 2])) - x).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_learns_to_take_noise_off_a_constant_image():
    torch.manual_seed(0)
    network = small(in_channels=1, dim=32)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(100):
        x0 = torch.randn(32, 1, 1, 1).expand(-1, -1, 8, 8)
        x_t = x0 + torch.randn(32, 1, 8, 8)
        loss = (network(x_t, torch.full((32,), 7)) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.25, "the noise has variance 1; the best possible is about 1 / 65"


def test_dropout_acts_in_training_only():
    network, (x, t) = awake(dropout=0.5), images()
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


def test_learned_variance_takes_as_many_channels_as_asked():
    assert awake(out_channels=4)(*images()).shape == (B, 4, 8, 8)
    assert (small().out_channels, small(out_channels=4).out_channels) == (2, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_follow_float64(dtype):
    network, (x, t) = awake(), images()
    exact = network(x, t)
    low = network.to(dtype)(x.to(dtype), t)
    assert low.dtype == dtype
    assert (low - exact).abs().max() < (1e-4 if dtype == torch.float32 else 0.1) * exact.abs().max()


def test_compiles_to_one_graph():
    network, (x, t) = awake(num_classes=3), images()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for labels in (None, torch.tensor([0, 1, 3])):
        close(compiled(x, t, labels), network(x, t, labels))


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 3, "label_drop": 0.2, "out_channels": 4, "dropout": 0.1}]
)
def test_a_description_makes_an_equal_network(options):
    network, (x, t) = awake(**options), images()
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
        ({"patch": 3}, "patch=3"),
        ({"patch": 0}, "patch=0"),
        ({"size": 0}, "size=0"),
        ({"dim": 20}, "dim=20"),
        ({"dim": 0}, "dim=0"),
        ({"heads": 0}, "heads=0"),
        ({"depth": 0}, "depth=0"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"label_drop": 1.0}, "label_drop=1.0"),
    ],
)
def test_bad_sizes_are_refused_with_the_field_and_the_value(options, field):
    with pytest.raises(ConfigError, match=field) as caught:
        small(**options)
    assert "\n" not in str(caught.value)
    assert "take" in str(caught.value)
