"""Classifier-free guidance of states, the labels of a transformer, and networks that cannot be guided."""

import pytest
import torch
import torch.nn.functional as F
from oracle import chi_square

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition, sample
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance, check_guidable
from d3pm.networks import PixelLogits, TransformerDenoiser, UNetDenoiser

K, T, CLASSES = 6, 12, 3
ABSORBING = DiscreteDiffusion(AbsorbingTransition(K, T))
UNIFORM = DiscreteDiffusion(UniformTransition(K, T))
NULL = {"labels": None}
both = pytest.mark.parametrize("process", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(**options) -> TransformerDenoiser:
    """A float64 network moved off its initial zeros."""
    torch.manual_seed(0)
    network = TransformerDenoiser(K, dim=16, depth=1, heads=2, num_classes=CLASSES, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double().eval()


class TestGuidance:
    @both
    @pytest.mark.parametrize(("scale", "told"), [(1, True), (0, False)])
    def test_its_ends_are_the_plain_samples(self, process, scale, told):
        network, labels = awake(), torch.arange(30) % CLASSES
        guided = ClassifierFreeGuidance(network, scale, NULL)
        options = {"steps": 4, "generator": seeded(1)}
        x = sample(process, guided, (30, 5), labels=labels, **options)
        plain = sample(
            process, network, (30, 5), labels=labels if told else None, **{**options, "generator": seeded(1)}
        )
        assert torch.equal(x, plain)

    @both
    @pytest.mark.parametrize("scale", [-0.5, 0.4, 1.0, 3.0])
    def test_the_belief_is_tilted_and_normalised(self, process, scale):
        network, labels = awake(), torch.tensor([0, 2])
        x_t, t = torch.tensor([[5, 1, 5], [5, 5, 5]]), torch.tensor([7, 7])
        conditional, unconditional, guided = (
            process.predict(logits, x_t, t).probs
            for logits in (
                network(x_t, t, labels=labels),
                network(x_t, t),
                ClassifierFreeGuidance(network, scale, NULL)(x_t, t, labels=labels),
            )
        )
        tilted = torch.where(conditional > 0, conditional**scale * unconditional ** (1 - scale), 0.0)
        torch.testing.assert_close(guided, tilted / tilted.sum(-1, keepdim=True), atol=1e-12, rtol=1e-9)
        assert float((conditional - unconditional).detach().abs().max()) > 0.01, "the label has a say"

    def test_samples_follow_the_tilted_law(self):
        table = torch.randn(2, K, dtype=torch.float64, generator=seeded(2))

        def network(x_t, t, labels):
            return table[0 if labels is None else 1].expand(*x_t.shape, K)

        guided = ClassifierFreeGuidance(network, 2.0, NULL)
        x = sample(
            ABSORBING, guided, (4000, 5), steps=3, labels=torch.zeros(4000).long(), generator=seeded(3)
        )
        law = (2 * table[1] - table[0])[:-1].softmax(-1)
        counts = torch.bincount(x.flatten(), minlength=K)
        assert chi_square(counts[None], torch.cat([law, torch.zeros(1)])[None]) > 1e-3


class TestLabels:
    """What a transformer over states makes of a class."""

    @pytest.mark.parametrize("time_conditioned", [True, False])
    def test_a_class_has_a_say_and_no_label_is_the_null_class(self, time_conditioned):
        network = awake(time_conditioned=time_conditioned)
        x, t = torch.randint(K, (4, 7), generator=seeded(4)), torch.tensor([1, 4, 9, 12])
        told = [network(x, t, labels=torch.full((4,), label)) for label in range(CLASSES + 1)]
        assert torch.equal(network(x, t), told[CLASSES])
        for a in range(CLASSES + 1):
            for b in range(a):
                assert float((told[a] - told[b]).detach().abs().max()) > 1e-2
        rows = network(x, t, labels=torch.tensor([0, 1, 2, 3]))
        for row in range(4):
            torch.testing.assert_close(rows[row], told[row][row], atol=1e-10, rtol=0)
        other_time = network(x, t + 50, labels=torch.zeros(4).long())
        assert torch.equal(other_time, told[0]) is not time_conditioned

    @pytest.mark.parametrize("time_conditioned", [True, False])
    def test_fresh_logits_are_zero_and_gradients_reach_every_parameter(self, time_conditioned):
        fresh = TransformerDenoiser(K, 16, 1, 2, time_conditioned=time_conditioned, num_classes=CLASSES)
        x, t, labels = torch.randint(K, (4, 7)), torch.ones(4).long(), torch.tensor([0, 1, 2, 3])
        assert (fresh(x, t, labels=labels) == 0).all()
        network = awake(time_conditioned=time_conditioned, label_drop=0.0).train()
        F.cross_entropy(network(x, t, labels=labels).flatten(0, 1), x.flatten()).backward()
        assert all(float(p.grad.abs().max()) > 1e-9 for p in network.parameters())

    def test_labels_are_hidden_in_training_at_their_rate(self):
        network = awake(label_drop=0.3).train()
        x, t = torch.zeros(4000, 1).long(), torch.ones(4000).long()
        torch.manual_seed(5)
        logits = network(x, t, labels=torch.zeros(4000).long())
        null = network(x[:1], t[:1])
        hidden = (logits - null).abs().amax((1, 2)) < 1e-9
        assert float(hidden.double().mean()) == pytest.approx(0.3, abs=4.5 * (0.21 / 4000) ** 0.5)

    def test_without_classes_labels_are_refused_and_nothing_is_new(self):
        torch.manual_seed(6)
        network = TransformerDenoiser(K, 16, 1, 2)
        assert not [name for name in network.state_dict() if "label" in name]
        with pytest.raises(ConfigError, match="labels were given to a network without classes"):
            network(torch.zeros(2, 3).long(), torch.ones(2), labels=torch.zeros(2).long())
        with pytest.raises(ConfigError, match="labels hold 4"):
            awake()(torch.zeros(1, 3).long(), torch.ones(1), labels=torch.tensor([4]))

    def test_training_steps_make_the_class_matter(self):
        torch.manual_seed(7)
        network = TransformerDenoiser(K, 16, 1, 2, time_conditioned=False, num_classes=2, label_drop=0.0)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
        x0, labels = torch.tensor([[1, 1, 1], [3, 3, 3]]), torch.tensor([0, 1])
        x_t = torch.full((2, 3), K - 1)
        for _ in range(60):
            loss = F.cross_entropy(network(x_t, torch.ones(2), labels=labels).flatten(0, 1), x0.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert torch.equal(network(x_t, torch.ones(2), labels=labels).argmax(-1), x0)


class TestCheck:
    def test_a_network_without_label_drop_is_refused_in_one_line(self):
        with pytest.raises(
            ConfigError, match=r"label_drop is 0\).*label_drop 0\.1, or leave --guidance"
        ) as error:
            check_guidable(awake(label_drop=0.0))
        assert "\n" not in str(error.value)

    def test_wrappers_are_looked_through(self):
        def within(drop: float) -> PixelLogits:
            unet = UNetDenoiser(
                8, 1, 17, channels=(16,), attention_at=(), layers=1, num_classes=3, label_drop=drop
            )
            return PixelLogits(unet, num_states=17)

        check_guidable(within(0.1))
        with pytest.raises(ConfigError, match="UNetDenoiser was trained without"):
            check_guidable(ClassifierFreeGuidance(within(0.0), 2.0, NULL))

    def test_those_with_it_and_those_that_do_not_tell_pass(self):
        check_guidable(awake())
        check_guidable(lambda x_t, t: x_t)
