"""Laws of the U-Net: the published layout, where attention acts, and what the output depends on."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.networks import DiffusersUNet, UNetDenoiser
from d3pm.networks.images import norm_groups
from d3pm.specs import build, describe

B = 3
CIFAR10 = {  # the configuration published with the CIFAR-10 weights of DDPM
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 0,
    "act_fn": "silu",
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
}


def small(**options) -> UNetDenoiser:
    return UNetDenoiser(
        **{"size": 8, "in_channels": 2, "channels": (8, 16), "attention_at": (8,), "layers": 1, **options}
    )


def awake(**options) -> UNetDenoiser:
    """A float64 network moved off its initial zeros."""
    torch.manual_seed(0)
    network = small(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.double().eval()


def images(size: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(B, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([1, 40, 999])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def shapes(network) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.unet.state_dict().items()}


def test_the_layout_is_that_of_the_published_weights():
    with torch.device("meta"):
        ours = UNetDenoiser(
            size=32, in_channels=3, channels=(128, 256, 256, 256), attention_at=(16,), layers=2, dropout=0.1
        )
        published = DiffusersUNet(CIFAR10)
    assert shapes(ours) == shapes(published)
    assert len(shapes(ours)) == 328
    assert sum(p.numel() for p in ours.parameters()) == 35_746_307
    assert {name: ours.unet.config[name] for name in CIFAR10} == {
        name: published.unet.config[name] for name in CIFAR10
    }


def test_the_defaults_are_that_layout():
    with torch.device("meta"):
        assert sum(p.numel() for p in UNetDenoiser().parameters()) == 35_746_307


@pytest.mark.parametrize("attention_at", [(), (28,), (7,), (14, 7), (28, 14, 7)])
def test_attention_acts_where_it_is_asked_to_and_in_the_middle(attention_at):
    from diffusers.models.attention_processor import Attention

    network = UNetDenoiser(28, 1, channels=(4, 8, 8), attention_at=attention_at, layers=1)
    seen = []
    for module in network.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[-1]))
    network(torch.zeros(1, 1, 28, 28), torch.tensor([1]))
    # At its level attention follows every residual block: one on the way down, two on the way up.
    assert sorted(seen) == sorted([7] + 3 * list(attention_at))


def test_time_counts_from_one_here_and_from_zero_inside():
    network, (x, t) = awake(), images()
    close(network(x, t), network.unet(x, t - 1).sample)
    assert (network(x, t) - network.unet(x, t).sample).abs().max() > 1e-4


def test_integer_and_float_times_are_one_clock_and_time_matters():
    network, (x, t) = awake(), images()
    close(network(x, t), network(x, t.double()))
    assert ((network(x, t) - network(x, t + 0.5)).abs().amax((1, 2, 3)) > 1e-5).all()


def test_fresh_output_is_zero_and_gradients_leave_it():
    network, (x, t) = small().double(), images()
    assert (network(x, t) == 0).all()
    (network(x, t) - x).square().mean().backward()
    assert network.unet.conv_out.weight.grad.abs().max() > 0


def test_gradients_reach_every_parameter():
    network, (x, t) = awake(num_classes=3), images()
    (network(x, t, labels=torch.tensor([0, 1, 2])) - x).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A key's bias shifts all scores of a query alike, which softmax does not see.
        assert parameter.grad.abs().max() > 0 or name.endswith("to_k.bias"), name


def test_rows_do_not_see_each_other():
    network, (x, t) = awake(), images()
    close(network(x, t)[1:2], network(x[1:2], t[1:2]))


def test_learned_variance_takes_as_many_channels_as_asked():
    assert awake(out_channels=4)(*images()).shape == (B, 4, 8, 8)
    assert (small().in_channels, small().out_channels, small(out_channels=4).out_channels) == (2, 2, 4)


@pytest.mark.parametrize("channels", [(4, 4), (6, 12), (16, 24), (3, 3), (20, 30)])
def test_any_widths_can_be_normalised(channels):
    network = small(channels=channels)
    assert network(*(a.float() for a in images())).shape == (B, 2, 8, 8)


@pytest.mark.parametrize(
    ("widths", "groups"),
    [
        ((128, 256), 32),
        ((32, 64), 8),
        ((16, 24, 32), 2),
        ((24, 48), 6),
        ((3,), 1),
        ((512,), 32),
        ((20, 30), 2),
    ],
)
def test_groups_divide_and_hold_four_channels(widths, groups):
    assert norm_groups(*widths) == groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_follow_float64(dtype):
    network, (x, t) = awake(), images()
    exact = network(x, t)
    low = network.to(dtype)(x.to(dtype), t)
    assert low.dtype == dtype
    assert (low - exact).abs().max() < (1e-4 if dtype == torch.float32 else 0.1) * exact.abs().max()


def test_the_order_of_channels_in_memory_does_not_matter():
    network, (x, t) = awake(), images()
    expected = network(x, t)
    last = network.to(memory_format=torch.channels_last)
    close(last(x.to(memory_format=torch.channels_last), t), expected)


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 3, "label_drop": 0.2, "out_channels": 4, "dropout": 0.1}]
)
def test_a_description_makes_an_equal_network(options):
    network, (x, t) = awake(**options), images()
    again = build(describe(network)).double().eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x, t), network(x, t))
    assert describe(again) == describe(network)


def test_a_foreign_configuration_is_kept_as_it_is():
    config = {
        **describe(small().config),
        "norm_eps": 1e-5,
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.1",
    }
    network = DiffusersUNet(config)
    assert network.config == config
    assert describe(network)["init_args"]["config"] == config
    assert (network.in_channels, network.out_channels, network.size) == (2, 2, 8)
    assert shapes(build(describe(network))) == shapes(network)


def test_a_size_left_open_takes_any_and_two_equal_sides_are_one():
    x, t = images(16)
    assert DiffusersUNet({**small().config, "sample_size": None}).double()(x, t).shape == x.shape
    assert DiffusersUNet({**small().config, "sample_size": [8, 8]}).size == 8
    oblong = DiffusersUNet({**small().config, "sample_size": [16, 8]}).double()
    assert oblong(x[..., :8], t).shape == (B, 2, 16, 8)
    with pytest.raises(ConfigError, match=r"\(B, 2, 16, 8\)"):
        oblong(x, t)


@pytest.mark.parametrize("shape", [(B, 1, 8, 8), (B, 2, 16, 16), (B, 2, 8, 6), (B, 8, 8)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(ConfigError, match=r"images of shape .* \(B, 2, 8, 8\)") as caught:
        small()(torch.zeros(shape), torch.ones(shape[0]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"size": 7}, "size=7"),
        ({"size": 0}, "size=0"),
        ({"channels": ()}, "channels="),
        ({"channels": (0, 4)}, "channels="),
        ({"attention_at": (3,)}, "attention_at=3"),
        ({"layers": 0}, "layers=0"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"label_drop": 1.5}, "label_drop=1.5"),
    ],
)
def test_bad_sizes_are_refused_with_the_field_and_the_value(options, field):
    with pytest.raises(ConfigError, match=field) as caught:
        small(**options)
    assert "\n" not in str(caught.value)
    assert "take" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"block_out_channels": [8, 8, 8]}, "block_out_channels"),
        ({"norm_num_groups": 5}, "num_channels"),
        ({"down_block_types": ["NoBlock2D", "DownBlock2D"]}, "NoBlock2D"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_on_one_line(change, said):
    with pytest.raises(ConfigError, match=said) as caught:
        DiffusersUNet({**small().config, **change})
    assert "\n" not in str(caught.value)


def test_importing_the_networks_does_not_import_diffusers():
    code = "import sys, d3pm.networks; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_channels_last_is_a_layout_and_nothing_else(monkeypatch):
    """What a GPU gets, asked for on the CPU: outputs, gradients and names as before."""
    plain, x = awake(), images()
    monkeypatch.setattr("d3pm.networks.unet.CHANNELS_LAST", ("cpu",))
    network = awake()  # converted as it was cast
    kernels = [weight for weight in network.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    assert any(not weight.is_contiguous() for weight in kernels)
    assert all(weight.is_contiguous() for weight in plain.parameters())
    for each in (plain, network):
        each(*x).square().sum().backward()
    close(network(*x), plain(*x))
    for (name, ours), (other, theirs) in zip(
        network.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == other
        close(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    plain.load_state_dict(network.state_dict())
    assert all(weight.is_contiguous() for weight in plain.parameters())
