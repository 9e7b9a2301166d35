"""Grey levels as states: what an image network sees of them, and what its output says about each level."""

import math

import pytest
import torch
from torch import nn

from d3pm.data import ImageCodec, ImageData
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.model import DiffusionModel
from d3pm.networks import ImageTransformer, PixelLogits, TruncatedLogistic, UNetDenoiser
from d3pm.networks.truncated_logistic import SHARPNESS, logistic_logits
from d3pm.objectives import VariationalBound
from d3pm.transitions import AbsorbingTransition, UniformTransition

SMALL = {"channels": (8,), "attention_at": (), "layers": 1}


class Echo(nn.Module):
    """An image network that remembers what it was shown, and says what it was told to."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x_t, t, **cond):
        self.seen, self.cond = x_t, cond
        return self.output


def unet(levels, head=PixelLogits, colours=1, masked=False, **options):
    each = levels if head is PixelLogits else 2
    ins = colours * (1 + masked)
    return UNetDenoiser(size=8, in_channels=ins, out_channels=colours * each, **SMALL, **options)


def dense(place, log_scale, levels):
    """Log-masses by the formula itself, softmax of them; float64, where neither sigmoid is rounded away."""
    centers = torch.linspace(-1, 1, levels, dtype=torch.float64)
    width, scale = 2 / (levels - 1), math.exp(log_scale)
    high, low = (torch.sigmoid((centers - place + edge) / scale) for edge in (width / 2, -width / 2))
    return (high - low).log().log_softmax(-1)


def exact(place, log_scale, levels):
    """The same in 60 digits and more, for any place and scale."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        steep, width = mpmath.exp(-mpmath.mpf(log_scale)), mpmath.mpf(2) / (levels - 1)

        def log_sigmoid(z):
            return -mpmath.log1p(mpmath.exp(-z)) if z > 0 else z - mpmath.log1p(mpmath.exp(z))

        logits = []
        for k in range(levels):
            high, low = ((k * width - 1 + side * width / 2 - place) * steep for side in (1, -1))
            logits.append(
                log_sigmoid(high) + log_sigmoid(-low)
            )  # sigma(h) - sigma(l) without what all k share
        top = max(logits)
        total = top + mpmath.log(sum(mpmath.exp(value - top) for value in logits))
        return torch.tensor([float(value - total) for value in logits], dtype=torch.float64)


class TestWhatIsSeen:
    def test_levels_are_shown_as_the_floats_that_the_codec_gives_them(self):
        network = Echo(torch.zeros(1, 34, 3, 4))
        x = torch.randint(17, (1, 2, 3, 4), generator=torch.Generator().manual_seed(0))
        PixelLogits(network, 17)(x, torch.tensor([1]), labels=torch.tensor([5]))
        assert torch.equal(network.seen, ImageCodec((1, 3, 4), 17).values(x))
        assert network.cond["labels"].tolist() == [5]

    @pytest.mark.parametrize("head", [PixelLogits, TruncatedLogistic])
    def test_a_mask_is_no_true_grey(self, head):
        network = Echo(torch.zeros(1, 5 if head is PixelLogits else 2, 1, 3))
        logits = head(network, num_states=6, num_levels=5)(torch.tensor([[[[0, 2, 5]]]]), torch.tensor([1]))
        assert network.seen.tolist() == [[[[-1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]]]
        assert logits.shape == (1, 1, 1, 3, 6)
        assert logits[..., 5].tolist() == [[[[0.0, 0.0, 0.0]]]]

    def test_floats_are_refused(self):
        with pytest.raises(ConfigError, match=r"set data\.discrete to true"):
            PixelLogits(unet(5), 5)(torch.zeros(1, 1, 8, 8), torch.tensor([1]))


class TestLogits:
    def test_each_output_is_the_logit_of_one_level_of_one_channel(self):
        output = torch.randn(2, 3 * 5, 2, 4, generator=torch.Generator().manual_seed(0))
        x = torch.randint(5, (2, 3, 2, 4), generator=torch.Generator().manual_seed(1))
        before = output.clone()
        logits = PixelLogits(Echo(output), 5)(x, torch.tensor([1, 1]))
        residual = logits - nn.functional.one_hot(x, 5)
        for c in range(3):
            for k in range(5):
                torch.testing.assert_close(residual[:, c, :, :, k], output[:, 5 * c + k])
        assert logits.is_contiguous()
        assert torch.equal(output, before)

    def test_one_pixel_shares_no_memory_with_the_network(self):
        output = torch.zeros(1, 5, 1, 1)
        PixelLogits(Echo(output), 5)(torch.tensor([[[[2]]]]), torch.tensor([1]))
        assert not output.any()

    @pytest.mark.parametrize("head", [PixelLogits, TruncatedLogistic])
    @pytest.mark.parametrize("masked", [False, True])
    def test_a_fresh_network_believes_in_what_it_sees(self, head, masked):
        network = head(unet(9, head, masked=masked), 9 + masked, 9 if masked else None)
        x = torch.arange(64).view(1, 1, 8, 8) % 9
        logits = network(x, torch.tensor([3]))
        assert torch.equal(logits[..., :9].argmax(-1), x)

    def test_a_mask_is_believed_to_be_nothing_at_first(self):
        logits = PixelLogits(unet(9, masked=True), 10, 9)(torch.full((1, 1, 8, 8), 9), torch.tensor([3]))
        assert not logits.any()

    def test_the_two_outputs_of_a_channel_are_its_place_and_its_scale(self):
        output = torch.randn(1, 6, 1, 1, generator=torch.Generator().manual_seed(0))
        x = torch.tensor([0, 3, 6]).view(1, 3, 1, 1)
        logits = TruncatedLogistic(Echo(output), 7)(x, torch.tensor([1]))
        for c, shown in enumerate([-1.0, 0.0, 1.0]):
            place, log_scale = float(output[0, 2 * c]) + shown, float(output[0, 2 * c + 1]) - SHARPNESS
            found = logits[0, c, 0, 0].double().log_softmax(-1)
            torch.testing.assert_close(found, dense(place, log_scale, 7), rtol=1e-5, atol=1e-5)

    def test_half_precision_within_is_full_precision_without(self):
        output = torch.randn(1, 2, 2, 2).bfloat16()
        assert (
            TruncatedLogistic(Echo(output), 7)(torch.zeros(1, 1, 2, 2).long(), torch.tensor([1])).dtype
            == torch.float32
        )


class TestLogisticLaw:
    @pytest.mark.parametrize("levels", [2, 5, 17, 256])
    @pytest.mark.parametrize("place", [-1.3, -1.0, -0.2, 0.0, 0.7, 1.0, 2.0])
    @pytest.mark.parametrize("log_scale", [-3.0, -1.0, 0.0, 2.0])
    def test_it_is_the_formula(self, levels, place, log_scale):
        expected = dense(place, log_scale, levels)
        near = expected > -12  # farther out the formula itself is rounded away
        for dtype, digits in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
            logits = logistic_logits(*(torch.tensor(v, dtype=dtype) for v in (place, log_scale)), levels)
            found = logits.double().log_softmax(-1)
            torch.testing.assert_close(found[near], expected[near], rtol=digits, atol=digits)

    @pytest.mark.parametrize("place", [-1e4, -30.0, -1.02, -0.3333, 0.55, 1.5, 77.0, 1e6])
    @pytest.mark.parametrize("log_scale", [-12.0, -6.0, -1.0, 3.0, 20.0, 200.0])
    def test_it_loses_nothing_in_either_tail(self, place, log_scale):
        place, log_scale = (float(torch.tensor(v)) for v in (place, log_scale))  # what float32 holds
        expected = exact(place, log_scale, 17)
        logits = logistic_logits(torch.tensor(place), torch.tensor(log_scale), 17)
        torch.testing.assert_close(logits.double().log_softmax(-1), expected, rtol=1e-4, atol=1e-4)

    def test_it_mirrors(self):
        place, log_scale = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        here, there = (logistic_logits(sign * place, log_scale, 9) for sign in (1, -1))
        torch.testing.assert_close(here, there.flip(-1))

    @pytest.mark.parametrize("levels", [2, 17, 256])
    def test_narrow_is_the_nearest_level_and_wide_is_flat(self, levels):
        place = torch.tensor([-5.0, -0.93, -0.01, 0.3, 0.987, 1.4])
        nearest = ((place + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1).long()
        narrow, wide = (logistic_logits(place, torch.full((6,), s), levels).softmax(-1) for s in (-1e4, 1e4))
        assert torch.equal(narrow, nn.functional.one_hot(nearest, levels).float())
        torch.testing.assert_close(wide, torch.full((6, levels), 1 / levels))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_values_and_gradients_are_finite_wherever_a_network_may_stray(self, dtype):
        extremes = torch.tensor([-1e4, -100.0, -1.0, -0.3, 0.0, 0.5, 1.0, 100.0, 1e4], dtype=dtype)
        place, log_scale = (
            m.flatten().clone().requires_grad_() for m in torch.meshgrid(extremes, extremes, indexing="ij")
        )
        for x0 in (0, 3, 16):
            loss = -logistic_logits(place, log_scale, 17).log_softmax(-1)[:, x0]
            assert loss.isfinite().all()
            for gradient in torch.autograd.grad(loss.sum(), (place, log_scale)):
                assert gradient.isfinite().all()

    def test_gradients_are_those_of_the_formula(self):
        generator = torch.Generator().manual_seed(0)
        place, log_scale = (
            torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
        )
        assert torch.autograd.gradcheck(
            lambda m, s: logistic_logits(m, s - 1, 5).log_softmax(-1), (place, log_scale)
        )

    def test_a_scale_that_fell_too_low_is_pushed_up_again(self):
        log_scale = torch.tensor(-200.0, requires_grad=True)
        loss = -logistic_logits(torch.tensor(0.9), log_scale, 17).log_softmax(-1)[0]
        loss.backward()
        assert log_scale.grad < 0  # downhill is up


class TestItFits:
    def test_it_tells_what_checks_ask_for(self):
        network = PixelLogits(unet(17, colours=3, num_classes=10, label_drop=0.2), 17)
        assert (network.in_channels, network.out_channels, network.size) == (3, 51, 8)
        assert (network.num_states, network.num_classes, network.label_drop) == (17, 10, 0.2)
        assert TruncatedLogistic(unet(17, TruncatedLogistic), 17).in_channels == 1

    @pytest.mark.parametrize(
        ("head", "outs", "ins", "states", "num_levels", "says"),
        [
            (
                PixelLogits,
                16,
                1,
                17,
                None,
                "out_channels is 16, but PixelLogits of 17 levels needs 17 for each",
            ),
            (PixelLogits, 18, 1, 18, 17, "of 17 levels needs 17"),
            (
                PixelLogits,
                17,
                3,
                17,
                None,
                "network.in_channels is 3, but .* pictures of 1 channels: set it to 1",
            ),
            (PixelLogits, 17, 1, 18, 17, "one more that tells the mask: set it to 2"),
            (
                TruncatedLogistic,
                3,
                1,
                17,
                None,
                "needs 2 for each channel of a picture: set it to 2 .grey. or 6",
            ),
            (TruncatedLogistic, 2, 1, 18, 16, "num_levels=16 does not fit num_states=18"),
            (TruncatedLogistic, 2, 1, 18, 19, "num_levels=19 does not fit num_states=18"),
            (PixelLogits, 1, 1, 1, None, "leaves 1 grey levels: take 2 or more"),
        ],
    )
    def test_what_it_refuses(self, head, outs, ins, states, num_levels, says):
        within = UNetDenoiser(size=8, in_channels=ins, out_channels=outs, **SMALL)
        with pytest.raises(ConfigError, match=says):
            head(within, states, num_levels)

    def test_data_of_its_own_kind(self):
        network = PixelLogits(unet(17), 17)
        assert network.suited(ImageData(discrete=True)) is network

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({}, "set data.discrete to true"),
            ({"discrete": True, "levels": 16}, "has levels=17, but the pictures have levels=16"),
            ({"discrete": True, "size": 4}, "has size=8, but the pictures have size=4"),
        ],
    )
    def test_other_data(self, options, says):
        with pytest.raises(ConfigError, match=says):
            PixelLogits(unet(17), 17).suited(ImageData(**options))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head", [PixelLogits, TruncatedLogistic])
class TestInAModel:
    @pytest.fixture
    def model(self, head, masked):
        torch.manual_seed(0)
        kernel = (AbsorbingTransition if masked else UniformTransition)(5 + masked, 6)
        network = head(unet(5, head, masked=masked, num_classes=3), 5 + masked, 5 if masked else None)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        codec = ImageCodec((1, 8, 8), 5, discrete=True)
        return DiffusionModel(
            process=DiscreteDiffusion(kernel), network=network, codec=codec, shape=(1, 8, 8)
        ).eval()

    def test_it_comes_back_the_same(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        again = DiffusionModel.from_pretrained(tmp_path).eval()
        x, t = model.process.prior((2, 1, 8, 8)).sample(), torch.tensor([2, 6])
        assert torch.equal(again.network(x, t), model.network(x, t))
        assert again.codec == model.codec

    def test_it_trains_and_draws_levels(self, model):
        x0 = torch.randint(5, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        generator, labels = torch.Generator().manual_seed(1), torch.tensor([0, 1, 2, 3])
        loss = VariationalBound()(model.process, model.network, x0, generator=generator, labels=labels)
        loss.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.parameters())
        drawn = model.sample(3, steps=3, seed=0, labels=torch.tensor([0, 1, 2]))
        assert (drawn.dtype, drawn.shape) == (torch.int64, (3, 1, 8, 8))
        assert 0 <= drawn.min() <= drawn.max() < 5

    def test_guidance_tilts_the_belief(self, model):
        x, t, labels = model.process.prior((2, 1, 8, 8)).sample(), torch.tensor([3, 5]), torch.tensor([0, 2])
        guided = ClassifierFreeGuidance(model.network, 2.5, {"labels": None}, channels=1)(x, t, labels=labels)
        with_label, without = (
            model.process.predict(model.network(x, t, labels=given), x, t).log_probs
            for given in (labels, None)
        )
        expected = (2.5 * with_label - 1.5 * without).nan_to_num(-math.inf, neginf=-math.inf).log_softmax(-1)
        found = model.process.predict(guided, x, t).log_probs
        torch.testing.assert_close(found.exp(), expected.exp(), rtol=1e-3, atol=1e-5)


def test_a_transformer_of_patches_will_do():
    within = ImageTransformer(size=8, in_channels=2, out_channels=9, patch=2, dim=16, depth=1, heads=2)
    logits = PixelLogits(within, 10, 9)(torch.full((2, 1, 8, 8), 9), torch.tensor([1, 2]))
    assert logits.shape == (2, 1, 8, 8, 10)
