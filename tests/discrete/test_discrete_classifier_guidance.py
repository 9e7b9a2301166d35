"""Classifier guidance of states: exact for one entry, first order in the step for two, and its linear shortcut."""

import itertools

import pytest
import torch
from oracle import Chain, World, chi_square, random_law
from torch import Tensor

from d3pm import AbsorbingTransition, DiscreteDiffusion, TableDiffusion, UniformTransition, sample
from d3pm.discrete import classifier_guidance
from d3pm.discrete.classifier_guidance import ClassifierGuided
from d3pm.errors import ConfigError
from d3pm.networks import TextClassifier
from d3pm.sampling import Ancestral
from d3pm.transitions import BandDiagonalTransition

KINDS = [AbsorbingTransition, UniformTransition]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Labelled:
    """A world whose words have classes: p(y | x_0) at random, p(y | x_t) by enumeration."""

    def __init__(self, kernel, length: int, seed: int) -> None:
        chain = Chain.of(kernel)
        self.kernel, self.process = kernel, DiscreteDiffusion(kernel, "mixture")
        self.world = World(chain, length, random_law(chain, length, seed))
        self.logits = self.world.exact_logits()
        weights = torch.rand(len(self.world.words), 3, generator=seeded(seed), dtype=torch.float64) ** 2
        self.of_data = weights / weights.sum(-1, keepdim=True)
        self.tables = torch.stack([self._at(t) for t in range(kernel.num_steps + 1)])
        if kernel.absorbing_state is not None:  # what is still masked says nothing, whenever it is looked at
            masked = (self.world.words == kernel.absorbing_state).any(-1)
            self.tables[:-1] = torch.where(masked[:, None], self.tables[1], self.tables[0])

    def _at(self, t: int) -> Tensor:
        joint = self.world.law[:, None] * self.world.forward(0, t)
        total = joint.sum(0)[:, None]
        return torch.where(total > 0, joint.T @ self.of_data / torch.where(total > 0, total, 1.0), 1 / 3)

    def classifier(self, x: Tensor, t: Tensor) -> Tensor:
        return self.tables[t, self.world.index(x)].log()

    def law_given(self, label: int) -> Tensor:
        joint = self.world.law * self.of_data[:, label]
        return joint / joint.sum()

    def guided_law(self, sampler: ClassifierGuided, grid: list[int]) -> Tensor:
        """p(x_0) of the guided chain that visits the times of ``grid``, all entries moving independently."""
        words, law = self.world.words, self.world.prior
        for t, s in itertools.pairwise(grid):
            times = torch.full((len(words),), t), torch.full((len(words),), s)
            entries = sampler.law(self.process, self.logits[t - 1], words, times[1], times[0]).probs
            rows = torch.ones(len(words), 1, dtype=torch.float64)
            for entry in entries.unbind(1):
                rows = (rows[:, :, None] * entry[:, None]).flatten(1)
            law = law @ rows
        return law

    def guided(self, label: int, **options) -> ClassifierGuided:
        labels = torch.full((len(self.world.words),), label)
        return ClassifierGuided(self.classifier, labels, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [0, 2])
class TestOneEntry:
    def test_enumerated_it_is_the_law_of_the_class_in_any_number_of_steps(self, kind, label):
        here = Labelled(kind(5, 8), 1, seed=1)
        for grid in ([8, 7, 6, 5, 4, 3, 2, 1, 0], [8, 5, 1, 0], [8, 0]):
            found = here.guided_law(here.guided(label), grid)
            torch.testing.assert_close(found, here.law_given(label), atol=1e-7, rtol=0)

    def test_samples_follow_it(self, kind, label):
        here = Labelled(kind(5, 8), 1, seed=1)
        sampler = ClassifierGuided(here.classifier, torch.full((20_000,), label))
        network = here.world.network(here.logits)
        x = sample(here.process, network, (20_000, 1), steps=4, sampler=sampler, generator=seeded(2))
        counts = torch.bincount(x[:, 0], minlength=5)
        assert chi_square(counts[None], here.law_given(label)[None]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_two_entries_falls_as_one_over_the_steps(kind):
    here = Labelled(kind(3, 64), 2, seed=3)
    errors = []
    for steps in (8, 16, 32, 64):
        law = here.guided_law(here.guided(0), list(range(64, -1, -64 // steps)))
        errors.append(float((law - here.law_given(0)).abs().sum()) / 2)
    assert all(a / b == pytest.approx(2, abs=0.25) for a, b in itertools.pairwise(errors))
    apart = float((here.world.law - here.law_given(0)).abs().sum()) / 2
    assert errors[-1] < 0.03 * apart


def test_under_masks_every_entry_alone_follows_its_law_given_the_row_and_the_class():
    """One step from any row: q(x_s^i | x_t, y), by Bayes over all words."""
    here = Labelled(AbsorbingTransition(3, 6), 2, seed=4)
    words, (s, t) = here.world.words, (2, 5)
    times = torch.full((len(words),), s), torch.full((len(words),), t)
    found = here.guided(1).law(here.process, here.logits[t - 1], words, *times).probs
    start = (here.world.law * here.of_data[:, 1])[:, None] * here.world.forward(0, s)  # (x_0, x_s), with y
    joint = start.sum(0)[:, None] * here.world.forward(s, t)  # (x_s, x_t)
    for entry in range(2):
        value = torch.nn.functional.one_hot(words[:, entry], 3).double()
        expected = joint.T @ value
        seen = expected.sum(-1) > 0
        expected = expected[seen] / expected[seen].sum(-1, keepdim=True)
        torch.testing.assert_close(found[seen, entry], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_other_scales_are_powers(kind):
    """One entry: the reverse law times p(y | x_s)^scale, normalised."""
    here = Labelled(kind(5, 8), 1, seed=5)
    words = here.world.words
    s, t = torch.full((5,), 3), torch.full((5,), 6)
    plain = here.process.reverse(here.logits[5], words, s, t).probs
    for scale in (-1.0, 0.5, 4.0):
        found = here.guided(1, scale=scale).law(here.process, here.logits[5], words, s, t).probs
        weights = plain * here.tables[3, :, 1] ** scale
        torch.testing.assert_close(found, (weights / weights.sum(-1, keepdim=True))[:, None][:, 0])


@pytest.mark.parametrize("kind", [*KINDS, BandDiagonalTransition])
@pytest.mark.parametrize("method", ["exact", "first_order"])
def test_scale_zero_is_ancestral_and_asks_no_classifier(kind, method):
    process = DiscreteDiffusion(kind(6, 10))
    table = torch.randn(4, 6, generator=seeded(6))

    def never(x, t):
        raise AssertionError

    sampler = ClassifierGuided(never, torch.zeros(50).long(), 0.0, method)
    found, plain = (
        sample(process, lambda x, t: table.expand(len(x), 4, 6), (50, 4), sampler=by, generator=seeded(7))
        for by in (sampler, Ancestral())
    )
    assert torch.equal(found, plain)


class Linear:
    """log p(y | x) linear in the one-hots for class 1; class 0 is nearly certain, so the norm is 1."""

    def __init__(self, length: int, num_states: int) -> None:
        self.weight = torch.randn(length, num_states, dtype=torch.float64, generator=seeded(8))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        one_hot = (
            x if x.is_floating_point() else torch.nn.functional.one_hot(x, self.weight.shape[1]).double()
        )
        score = (one_hot * self.weight).sum((1, 2)) - 60  # e^-60 is nothing beside 1
        return torch.stack([torch.zeros_like(score), score], -1)


@pytest.mark.parametrize("kind", [*KINDS, BandDiagonalTransition])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_first_order_is_exact_where_the_class_is_linear(kind, scale):
    process = DiscreteDiffusion(kind(5, 10))
    classifier, labels = Linear(3, 5), torch.ones(40).long()
    x_t = process.q_sample(torch.randint(4, (40, 3), generator=seeded(9)), torch.full((40,), 6), seeded(10))
    output = torch.randn(40, 3, 5, dtype=torch.float64, generator=seeded(11))
    s, t = torch.arange(40) % 6, torch.full((40,), 6)
    exact, linear = (
        ClassifierGuided(classifier, labels, scale, method).law(process, output, x_t, s, t).probs
        for method in ("exact", "first_order")
    )
    torch.testing.assert_close(linear, exact, atol=1e-12, rtol=1e-9)
    plain = process.reverse(output, x_t, s, t).probs
    assert float((plain - exact).abs().max()) > 0.1


def test_first_order_is_wrong_by_the_square_of_how_much_an_entry_says():
    """A class that depends on the states through eps times a score: half eps, a quarter of the error."""
    process, score = DiscreteDiffusion(UniformTransition(5, 10), "mixture"), Linear(6, 5).weight
    x_t, output = torch.randint(5, (60, 6), generator=seeded(13)), torch.zeros(60, 6, 5, dtype=torch.float64)
    s, t = torch.full((60,), 5), torch.full((60,), 9)

    def error(eps: float) -> float:
        def classifier(x: Tensor, t: Tensor) -> Tensor:
            one_hot = x if x.is_floating_point() else torch.nn.functional.one_hot(x, 5).double()
            value = torch.tanh(0.5 + eps * (one_hot * score).sum((1, 2)))
            return torch.stack([value, -value], -1)

        exact, linear = (
            ClassifierGuided(classifier, torch.zeros(60).long(), 1.0, method)
            .law(process, output, x_t, s, t)
            .probs
            for method in ("exact", "first_order")
        )
        return float((exact - linear).abs().mean())

    assert error(0.02) / error(0.01) == pytest.approx(4, abs=0.2)


def test_first_order_leaves_the_classifier_as_it_is():
    classifier = TextClassifier(5, 3, dim=16, depth=1, heads=2).eval()
    process, network = DiscreteDiffusion(UniformTransition(5, 10)), lambda x_t, t: torch.zeros(*x_t.shape, 5)
    sampler = ClassifierGuided(classifier, torch.arange(8) % 3, 2.0, "first_order")
    x = sample(process, network, (8, 6), steps=3, sampler=sampler, generator=seeded(16))
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_only_what_may_move_is_sent_and_pieces_change_nothing(monkeypatch):
    """Under masks: K rows for every masked entry and none for the others, all the same in pieces of one."""
    here = Labelled(AbsorbingTransition(4, 6), 3, seed=14)
    seen = []

    def classifier(x: Tensor, t: Tensor) -> Tensor:
        seen.append(len(x))
        return here.classifier(x, t)

    x_t = torch.tensor([[3, 1, 0], [3, 3, 3], [0, 1, 2]])
    guided = ClassifierGuided(classifier, torch.tensor([0, 1, 2]))
    s, t, output = torch.full((3,), 2), torch.full((3,), 5), torch.zeros(3, 3, 4, dtype=torch.float64)
    whole = guided.law(here.process, output, x_t, s, t).probs
    assert seen == [4 * 4]
    seen.clear()
    monkeypatch.setattr(classifier_guidance, "CHUNK", 1)
    assert torch.equal(guided.law(here.process, output, x_t, s, t).probs, whole)
    assert seen == [1] * 16
    assert torch.equal(whole[2].argmax(-1), x_t[2])


def test_a_finished_row_is_left_alone_and_a_hopeless_entry_moves_as_without():
    process = DiscreteDiffusion(UniformTransition(3, 6))

    def impossible(x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor([0.0, -torch.inf]).expand(len(x), 2)

    x_t, output = torch.tensor([[0, 2]]), torch.zeros(1, 2, 3)
    s, t = torch.tensor([1]), torch.tensor([4])
    found = ClassifierGuided(impossible, torch.tensor([1])).law(process, output, x_t, s, t)
    torch.testing.assert_close(found.probs, process.reverse(output, x_t, s, t).probs)
    done = DiscreteDiffusion(AbsorbingTransition(3, 6))
    x = ClassifierGuided(impossible, torch.tensor([1])).step(
        done, lambda x, t: output, x_t * 0, s, t, seeded(1)
    )
    assert torch.equal(x, x_t * 0)


def test_mistakes_are_refused_in_one_line():
    here, labels = Labelled(UniformTransition(3, 4), 1, seed=15), torch.zeros(4).long()
    network = here.world.network(here.logits)

    def run(sampler, process=here.process):
        sample(process, network, (4, 1), sampler=sampler)

    for message, act in (
        ("method is 'second'", lambda: ClassifierGuided(here.classifier, labels, method="second")),
        (r"labels are torch.float32 \(4,\)", lambda: ClassifierGuided(here.classifier, labels.float())),
        (r"labels are torch.int64 \(4, 1\)", lambda: ClassifierGuided(here.classifier, labels[:, None])),
        ("3 labels for 4 samples", lambda: run(ClassifierGuided(here.classifier, labels[:3]))),
        ("labels go from 0 to 3", lambda: run(ClassifierGuided(here.classifier, torch.arange(4)))),
        (
            "is a TableDiffusion",
            lambda: run(ClassifierGuided(here.classifier, labels), TableDiffusion.example()[0]),
        ),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            act()
        assert "\n" not in str(error.value)
