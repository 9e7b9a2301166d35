"""Guidance on a mixture whose classifier is known: the guided law is the exact conditional."""

import math

import pytest
import torch
from mixture import Mixture
from torch import Tensor
from torch.testing import assert_close

from d3pm import GaussianDiffusion
from d3pm.errors import ConfigError
from d3pm.gaussian.classifier_guidance import ClassifierGuidance, GuidedAncestral
from d3pm.gaussian.ddim import DDIM
from d3pm.gaussian.heun import Heun
from d3pm.gaussian.threshold import Clip
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.sampling import Ancestral, sample
from d3pm.schedules import CosineSchedule, LinearSchedule, ReciprocalSchedule

LAW = Mixture([[-0.35], [0.3]], [0.3, 0.2], [0.6, 0.4])  # the classes overlap: a classifier has work to do
WIDE = Mixture([[-0.6, 0.1, 0.3, 0.0], [0.4, 0.5, -0.3, 0.2]], [0.3, 0.25], [0.4, 0.6])
PREDICTIONS = ["eps", "x0", "v", "mean"]
NULL = LAW.num_components
CLOSE = {"rtol": 1e-7, "atol": 1e-8}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def plain(**kwargs) -> GaussianDiffusion:
    kwargs = {"schedule": LinearSchedule(), "num_steps": 1000, "threshold": None, "levels": None, **kwargs}
    return GaussianDiffusion(**kwargs)


def labels(n: int, y: int = 1) -> Tensor:
    return torch.full((n,), y, dtype=torch.int64)


TIMES = torch.tensor([1, 2, 20, 300, 700, 1000])


class TestByAClassifier:
    @pytest.mark.parametrize("prediction", PREDICTIONS)
    def test_the_exact_one_turns_the_network_into_the_conditional_one(self, prediction):
        """Score of the joint = score + gradient of the classifier, at every time, in any words."""
        process = plain(prediction=prediction)
        x_t, y = normals(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
        network = WIDE.network(process)
        guided = ClassifierGuidance(process, network, WIDE.classifier(process), scale=1.0)
        assert_close(guided(x_t, TIMES, labels=y), network(x_t, TIMES, labels=y), **CLOSE)

    @pytest.mark.parametrize("prediction", PREDICTIONS)
    @pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
    def test_it_is_then_classifier_free_guidance(self, prediction, scale):
        process, x_t, y = plain(prediction=prediction), normals(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
        network = WIDE.network(process)
        one = ClassifierGuidance(process, network, WIDE.classifier(process), scale)
        other = ClassifierFreeGuidance(network, scale, {"labels": labels(6, WIDE.num_components)})
        assert_close(one(x_t, TIMES, labels=y), other(x_t, TIMES, labels=y), **CLOSE)

    @pytest.mark.parametrize("scale", [1.0, 3.0])
    def test_it_shifts_the_noise_as_the_paper_says(self, scale):
        process, x_t, y = plain(), normals(6, 1), labels(6)
        x = x_t.clone().requires_grad_()
        level = process.alpha_bar(TIMES)
        (gradient,) = torch.autograd.grad(LAW.label_log_probs(x, level)[:, 1].sum(), x)
        network = LAW.network(process)
        expected = network(x_t, TIMES) - scale * (1 - level).sqrt()[:, None] * gradient
        found = ClassifierGuidance(process, network, LAW.classifier(process), scale)(x_t, TIMES, labels=y)
        assert_close(found, expected, **CLOSE)

    @pytest.mark.parametrize("scale", [0.0, 0.7, 2.0])
    @pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
    @pytest.mark.parametrize("threshold", [None, Clip()], ids=repr)
    def test_the_ancestral_form_adds_the_variance_times_the_gradient(self, scale, variance, threshold):
        process = plain(variance=variance, threshold=threshold)
        x_t, y, t = normals(6, 1), labels(6, 0), TIMES
        s = torch.tensor([0, 0, 10, 299, 1, 900])
        output = normals(6, 2 if variance == "learned_range" else 1, seed=1)
        x = x_t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(LAW.label_log_probs(x, process.alpha_bar(t))[:, 0].sum(), x)
        plain_step, guided_step = (
            sampler.step(process, lambda x, t: output, x_t, s, t, seeded(2))
            for sampler in (Ancestral(), GuidedAncestral(LAW.classifier(process), y, scale))
        )
        std = process.reverse(output, x_t, s, t).std
        assert_close(guided_step - plain_step, scale * std**2 * gradient, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("sampler", [DDIM(), DDIM(1.0), Heun(), Ancestral()], ids=repr)
    @pytest.mark.parametrize("y", [0, 1])
    def test_the_wrapped_network_samples_the_class(self, sampler, y):
        process = plain(schedule=CosineSchedule())
        guided = ClassifierGuidance(process, LAW.network(process), LAW.classifier(process), 1.0)
        x = sample(
            process,
            guided,
            (2000, 1),
            steps=100,
            sampler=sampler,
            x_T=normals(2000, 1),
            generator=seeded(3),
            labels=labels(2000, y),
        )
        assert LAW.component(y).ks(x) > 1e-3

    @pytest.mark.parametrize("y", [0, 1])
    def test_the_ancestral_form_tends_to_the_class_as_steps_grow(self, y):
        process = plain(schedule=CosineSchedule(), variance="fixed_large")
        sampler = GuidedAncestral(LAW.classifier(process), labels(2000, y))
        p_values = {}
        for steps in (8, 250):
            x = sample(
                process,
                LAW.network(process),
                (2000, 1),
                steps=steps,
                sampler=sampler,
                x_T=normals(2000, 1),
                generator=seeded(4),
            )
            p_values[steps] = LAW.component(y).ks(x)
        assert p_values[8] < 1e-4
        assert p_values[250] > 1e-3

    def test_larger_scales_are_surer_of_the_class(self):
        process = plain()
        shares = []
        for scale in (0.0, 1.0, 4.0):
            guided = ClassifierGuidance(process, LAW.network(process), LAW.classifier(process), scale)
            x = sample(
                process, guided, (500, 1), steps=30, sampler=DDIM(), x_T=normals(500, 1), labels=labels(500)
            )
            shares.append(float(LAW.label_prob(x, 1.0, labels(500)).mean()))
        assert shares[0] == pytest.approx(0.4, abs=0.05)  # the class's weight
        assert shares[0] + 0.2 < shares[1] < shares[2] - 0.02

    @pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
    def test_scale_zero_changes_nothing_and_asks_nobody(self, variance):
        process = plain(variance=variance)

        def network(x_t, t):
            return torch.cat([x_t.sin(), x_t.cos()], 1) if variance == "learned_range" else x_t.sin()

        def nobody(x_t, t):
            raise AssertionError("asked")

        common = {"steps": 12, "x_T": normals(5, 1)}
        for sampler in (DDIM(), Ancestral()):
            alone = sample(process, network, (5, 1), sampler=sampler, generator=seeded(5), **common)
            wrapped = ClassifierGuidance(process, network, nobody, 0.0)
            guided = sample(
                process, wrapped, (5, 1), sampler=sampler, generator=seeded(5), labels=labels(5), **common
            )
            assert torch.equal(alone, guided)
        guided = sample(
            process,
            network,
            (5, 1),
            sampler=GuidedAncestral(nobody, labels(5), 0.0),
            generator=seeded(5),
            **common,
        )
        assert torch.equal(alone, guided)

    def test_variance_channels_are_left_alone(self):
        process = plain(variance="learned_range", prediction="v")
        x_t, spread = normals(6, 1), normals(6, 1, seed=1)

        def network(x_t, t):
            return torch.cat([x_t, spread], 1)

        found = ClassifierGuidance(process, network, LAW.classifier(process), 3.0)(
            x_t, TIMES, labels=labels(6)
        )
        assert torch.equal(found[:, 1:], spread)
        assert not torch.allclose(found[:, :1], x_t)

    def test_images(self):
        process = plain(prediction="v")
        x_t, y = normals(6, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0, 1])
        network = WIDE.network(process)
        guided = ClassifierGuidance(process, network, WIDE.classifier(process), 1.0)
        assert_close(guided(x_t, TIMES, labels=y), network(x_t, TIMES, labels=y), **CLOSE)

    def test_it_works_without_gradients_around_it_and_leaves_none_behind(self):
        process, x_t = plain(), normals(6, 1)
        guided = ClassifierGuidance(process, LAW.network(process), LAW.classifier(process), 1.0)
        with torch.no_grad():
            found = guided(x_t, TIMES, labels=labels(6))
        assert found.isfinite().all()
        assert not found.requires_grad
        assert x_t.grad is None

    @pytest.mark.parametrize("prediction", ["v", "x0"])
    def test_where_no_signal_is_left_there_is_nothing_to_classify(self, prediction):
        process = plain(schedule=ReciprocalSchedule(), num_steps=50, prediction=prediction)
        guided = ClassifierGuidance(process, LAW.network(process), LAW.classifier(process), 2.0)
        t = torch.tensor([50, 25])
        assert guided(normals(2, 1), t, labels=labels(2)).isfinite().all()


class TestClassifierFree:
    def network(self, x_t: Tensor, t: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Prediction and variance channels, both moved by the condition."""
        return torch.cat([x_t.sin() + shift, x_t.cos() + shift], 1)

    @pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.0, 7.5])
    def test_it_is_affine_in_the_scale(self, scale):
        x_t = normals(6, 3, 2, 2)
        guided = ClassifierFreeGuidance(self.network, scale, {"shift": 0.0})(
            x_t, TIMES, shift=x_t.tanh().repeat(1, 1, 1, 1)
        )
        expected = torch.cat([x_t.sin(), x_t.cos()], 1) + scale * torch.cat([x_t.tanh()] * 2, 1)
        assert_close(guided, expected)

    def test_scale_one_is_the_conditional_network_to_the_bit(self):
        process, x_t = plain(), normals(6, 1)
        network = LAW.network(process)
        guided = ClassifierFreeGuidance(network, 1.0, {"labels": labels(6, NULL)})
        assert torch.equal(guided(x_t, TIMES, labels=labels(6)), network(x_t, TIMES, labels=labels(6)))

    def test_scale_zero_is_the_unconditional_one_to_the_bit(self):
        process, x_t = plain(), normals(6, 1)
        network = LAW.network(process)
        guided = ClassifierFreeGuidance(network, 0.0, {"labels": labels(6, NULL)})
        assert torch.equal(guided(x_t, TIMES, labels=labels(6)), network(x_t, TIMES))

    @pytest.mark.parametrize("y", [0, 1])
    def test_scale_one_samples_the_class(self, y):
        process = plain(schedule=CosineSchedule())
        guided = ClassifierFreeGuidance(LAW.network(process), 1.0, {"labels": labels(2000, NULL)})
        x = sample(
            process,
            guided,
            (2000, 1),
            steps=100,
            sampler=DDIM(),
            x_T=normals(2000, 1),
            labels=labels(2000, y),
        )
        assert LAW.component(y).ks(x) > 1e-3

    @pytest.mark.parametrize("rescale", [0.0, 0.7])
    def test_variance_channels_come_from_the_conditional_network(self, rescale):
        x_t = normals(6, 3, 2, 2)
        guided = ClassifierFreeGuidance(self.network, 5.0, {"shift": 0.0}, channels=3, rescale=rescale)
        found, conditional = guided(x_t, TIMES, shift=0.4), self.network(x_t, TIMES, shift=0.4)
        assert torch.equal(found[:, 3:], conditional[:, 3:])
        assert not torch.allclose(found[:, :3], conditional[:, :3])

    def test_even_at_scale_zero(self):
        x_t = normals(6, 3, 2, 2)
        guided = ClassifierFreeGuidance(self.network, 0.0, {"shift": 0.0}, channels=3)
        found = guided(x_t, TIMES, shift=0.4)
        assert_close(found[:, :3], self.network(x_t, TIMES)[:, :3])
        assert_close(found[:, 3:], self.network(x_t, TIMES, shift=0.4)[:, 3:])

    def moved(self, x_t: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        return x_t.sin() * (1 + shift)

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_rescaling_draws_each_example_back_to_the_spread_of_the_conditional_one(self, share):
        """Lin et al., eq. 14 to 16: share of the ratio of standard deviations."""
        x_t = normals(6, 3, 4, 4)
        raw, found = (
            ClassifierFreeGuidance(self.moved, 6.0, {"shift": 0.0}, rescale=r)(x_t, TIMES, shift=0.5)
            for r in (0.0, share)
        )
        conditional = self.moved(x_t, TIMES, 0.5)
        ratio = conditional.flatten(1).std(1) / raw.flatten(1).std(1)
        expected = raw * (share * ratio + 1 - share)[:, None, None, None]
        assert_close(found, expected)
        if share == 1:
            assert_close(found.flatten(1).std(1), conditional.flatten(1).std(1))
            assert float(raw.flatten(1).std(1).min()) > 1.5 * float(conditional.flatten(1).std(1).max())

    @pytest.mark.parametrize("rescale", [-0.1, 1.1, math.nan])
    def test_what_cannot_be(self, rescale):
        with pytest.raises(ConfigError) as caught:
            ClassifierFreeGuidance(self.network, 2.0, {"shift": 0.0}, rescale=rescale)
        assert "\n" not in str(caught.value)
