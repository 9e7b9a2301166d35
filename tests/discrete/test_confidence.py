"""Orders that follow the belief: which masks go, how many, and what law that gives."""

import itertools
from functools import partial

import pytest
import torch
from oracle import Chain, World, chi_square, kl
from unmasking import (
    SAMPLES,
    counts,
    exact,
    followed,
    make,
    seeded,
    time_free,
    total_variation,
)

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.discrete.confidence import Confidence, gumbel, highest
from d3pm.discrete.entropy_bounded import EntropyBounded, within
from d3pm.errors import ConfigError
from d3pm.sampling import draw

PROCESS, WORLD = make(num_states=4, length=3, num_steps=6)
RANDOM = WORLD.random_logits(seed=1)[0] * 2


def score_of(order: str, law: torch.Tensor) -> float:
    """The slow twin of a score, of one belief (K,)."""
    first, second = law.sort(descending=True).values[:2].tolist()
    entropy = -sum(p * float(torch.tensor(p).double().log()) for p in law.tolist() if p > 0)
    return {"probability": first, "margin": first - second, "entropy": -entropy}[order]


def surest(number: dict[int, int], order: str, belief, places):
    """Of n masks, ``number[n]`` go."""
    ordered = sorted(places, key=lambda place: -score_of(order, belief[place]))
    return [(1.0, tuple(ordered[: number[len(places)]]))]


def any_of(number: dict[int, int], belief, places):
    sets = list(itertools.combinations(places, number[len(places)]))
    return [(1 / len(sets), chosen) for chosen in sets]


def bounded(gamma: float, order: str, belief, places):
    """The longest beginning of the order whose entropies but the largest add up to gamma at most."""
    ordered = sorted(places, key=lambda place: -score_of(order, belief[place]))
    entropies = [-score_of("entropy", belief[place]) for place in ordered]
    fitting = [
        n for n in range(1, len(ordered) + 1) if n == 1 or sum(entropies[:n]) - max(entropies[:n]) <= gamma
    ]
    return [(1.0, tuple(ordered[: max(fitting)]))]


def drawn(sampler, table, world=WORLD, process=PROCESS, seed=0, number=SAMPLES, **options):
    network = time_free(world, table)
    return draw(process, network, (number, world.length), sampler=sampler, generator=seeded(seed), **options)


class TestConfidence:
    @pytest.mark.parametrize("order", ["probability", "margin", "entropy", "random"])
    def test_one_by_one_under_an_exact_belief_it_gives_the_data(self, order):
        found = drawn(Confidence(order), exact(WORLD))
        assert chi_square(counts(WORLD, found.x0), WORLD.law[None]) > 1e-3
        assert (found.calls == 3).all()

    def test_the_order_of_what_was_drawn_prefers_the_likely_even_so(self):
        """Two independent entries: the first that goes is chosen for its state, so states are not those of the data."""
        process = DiscreteDiffusion(AbsorbingTransition(3, 6))
        one = torch.tensor([0.8, 0.2, 0.0], dtype=torch.float64)
        world = World(Chain.of(process.transition), 2, torch.kron(one, one))
        for order, misses in (("probability", False), ("drawn", True)):
            found = drawn(Confidence(order), exact(world), world, process, seed=1)
            assert (chi_square(counts(world, found.x0), world.law[None]) < 1e-6) == misses
        share = float((found.x0 == 0).double().mean())
        # First 0 with 1 - 0.2², as one of the two draws suffices; then the other is drawn anew.
        assert share == pytest.approx((0.96 + 0.8) / 2, abs=0.01)

    @pytest.mark.parametrize("order", ["probability", "margin", "entropy"])
    def test_is_its_slow_twin_when_several_go_at_once(self, order):
        law, _ = followed(WORLD, RANDOM, partial(surest, {3: 2, 1: 1}, order))
        found = drawn(Confidence(order), RANDOM, steps=[6, 2, 0], seed=2)
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3
        assert (found.calls == 2).all()

    @pytest.mark.parametrize("sampler", [Confidence("random"), Confidence("margin", noise=1e6)], ids=repr)
    def test_much_noise_is_a_random_order(self, sampler):
        law, _ = followed(WORLD, RANDOM, partial(any_of, {3: 2, 1: 1}))
        found = drawn(sampler, RANDOM, steps=[6, 2, 0], seed=3)
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3

    @pytest.mark.parametrize("steps", [1, 3, 7, 40])
    def test_as_many_masks_are_left_as_the_schedule_says(self, steps):
        process, states = DiscreteDiffusion(AbsorbingTransition(4, 40)), {}
        known = torch.arange(20) < torch.tensor([[0], [3], [19], [20]])
        found = draw(
            process,
            lambda x_t, t: torch.zeros(*x_t.shape, 4),
            (4, 20),
            steps=steps,
            sampler=Confidence(),
            known=known,
            x0=torch.zeros(4, 20, dtype=torch.int64),
            generator=seeded(4),
            watch=lambda s, x: states.update({s: (x == 3).sum(1).tolist()}),
        )
        for s, left in states.items():
            assert left == [n * s // 40 for n in (20, 17, 1, 0)]
        assert (found.x0 != 3).all()
        path = torch.tensor([[20, 17, 1, 0], *states.values()])
        assert torch.equal(found.calls, (path[1:] < path[:-1]).sum(0))

    def test_runs_do_not_know_of_each_other(self):
        sampler = Confidence()
        first = drawn(sampler, RANDOM, seed=5, number=100, steps=2)
        drawn(sampler, RANDOM, seed=6, number=7)
        again = drawn(sampler, RANDOM, seed=5, number=100, steps=2)
        assert torch.equal(first.x0, again.x0)

    def test_noise_is_gumbel(self):
        noise = gumbel(torch.empty(200, 500), seeded(7))
        assert noise.isfinite().all()
        assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
        assert float(noise.var()) == pytest.approx(torch.pi**2 / 6, abs=0.05)

    def test_the_highest_are_chosen_among_the_masked_even_at_minus_infinity(self):
        score = torch.tensor([[-torch.inf, 3.0, -torch.inf, 1.0], [2.0, 2.0, 2.0, 2.0]]).double()
        where = torch.tensor([[True, False, True, False], [False, True, True, True]])
        chosen = highest(score, where, torch.tensor([2, 2]))
        assert chosen.tolist() == [[True, False, True, False], [False, True, True, False]]


class TestEntropyBounded:
    @pytest.mark.parametrize("order", ["entropy", "probability", "margin"])
    def test_without_allowance_an_exact_belief_gives_the_data(self, order):
        found = drawn(EntropyBounded(0.0, order), exact(WORLD), seed=10)
        assert chi_square(counts(WORLD, found.x0), WORLD.law[None]) > 1e-3

    @pytest.mark.parametrize("order", ["entropy", "probability", "margin"])
    @pytest.mark.parametrize("steps", [1, 6])
    def test_is_its_slow_twin_on_any_grid(self, order, steps):
        law, calls = followed(WORLD, RANDOM, partial(bounded, 0.4, order))
        found = drawn(EntropyBounded(0.4, order), RANDOM, seed=11, steps=steps)
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3
        mean = float(law @ calls)
        assert 1.05 < mean < 2.95  # neither all at once nor one by one
        assert float(found.calls.double().mean()) == pytest.approx(mean, abs=0.02)

    def test_without_a_bound_all_go_in_one_call(self):
        law, _ = followed(WORLD, RANDOM, lambda belief, places: [(1.0, tuple(places))])
        found = drawn(EntropyBounded(1e9), RANDOM, seed=12)
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3
        assert (found.calls == 1).all()

    @pytest.mark.parametrize("order", ["entropy", "probability", "margin"])
    def test_the_divergence_is_within_the_bound(self, order):
        """KL(data || samples) <= gamma times the mean number of calls, by enumeration; and fewer calls err more."""
        _, world = make(num_states=3, length=4, num_steps=2)
        errors, costs = [], []
        for gamma in (0.0, 0.3, 0.6, 0.9, 1.5, 3.0):
            law, calls = followed(world, exact(world), partial(bounded, gamma, order))
            errors.append(float(kl(world.law, law)))
            costs.append(float(world.law @ calls))
            assert errors[-1] <= gamma * costs[-1] + 1e-12
        assert errors[0] == pytest.approx(0, abs=1e-12)
        assert errors[-1] > 0.01
        assert all(more >= fewer - 1e-12 for more, fewer in itertools.pairwise(costs))
        assert (costs[0], costs[-1]) == pytest.approx((4, 1), abs=1e-12)

    def test_the_certain_come_along(self):
        logits = torch.zeros(1, 5, 4)
        logits[:, 1:4, 2] = 1e4
        network = lambda x_t, t: logits.expand(len(x_t), 5, 4)  # noqa: E731
        found = draw(PROCESS, network, (3, 5), sampler=EntropyBounded(0.0), generator=seeded(13))
        assert (found.calls == 2).all()
        assert (found.x0[:, 1:4] == 2).all()

    def test_the_network_is_told_the_time_of_so_many_masks(self):
        told = []

        def network(x_t, t):
            told.append((t, (x_t == 3).sum(1)))
            return torch.zeros(*x_t.shape, 4)

        process = DiscreteDiffusion(AbsorbingTransition(4, 40))
        for steps in (1, 40):
            draw(process, network, (3, 8), sampler=EntropyBounded(0.0), steps=steps, generator=seeded(14))
        assert len(told) == 16
        assert all(torch.equal(t, 5 * masks) for t, masks in told)

    def test_prompts_stay_and_cost_nothing(self):
        known = torch.rand(64, 3, generator=seeded(15)) < 0.5
        x0 = torch.ones(64, 3, dtype=torch.int64)
        found = drawn(EntropyBounded(0.0), RANDOM, number=64, known=known, x0=x0, seed=16)
        assert torch.equal(found.calls, (~known).sum(1))
        assert (found.x0[known] == 1).all()

    def test_the_largest_entropy_is_free_wherever_it_stands(self):
        entropy, rank = torch.tensor([[0.1, 5.0, 0.1, 0.1]]), torch.tensor([[0, 1, 2, 3]])
        assert within(entropy, rank, rank >= 0, 0.25).tolist() == [[True, True, True, False]]


SAMPLERS = [Confidence(order) for order in ("probability", "drawn", "random")] + [EntropyBounded(0.5)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
class TestBoth:
    @pytest.mark.parametrize("shape", [(7,), (5, 2, 3, 2)])
    def test_any_shape_and_a_mask_in_the_middle(self, sampler, shape):
        process = DiscreteDiffusion(AbsorbingTransition(5, 10, mask_index=2))
        found = draw(
            process,
            lambda x_t, t: torch.zeros(*x_t.shape, 5).index_fill(-1, torch.tensor(2), 9.0),
            shape,
            sampler=sampler,
            generator=seeded(20),
        )
        assert found.x0.shape == shape
        assert (found.x0 != 2).all()

    def test_what_is_kept_from_the_network_changes_no_sample(self, sampler):
        a, b = (drawn(sampler, RANDOM, seed=21, number=300, cache=cache) for cache in (True, False))
        assert torch.equal(a.x0, b.x0)

    def test_few_beliefs_at_a_time_are_as_good(self, sampler, monkeypatch):
        a = drawn(sampler, RANDOM, seed=22, number=100)
        monkeypatch.setattr("d3pm.discrete.masks.AT_ONCE", 12)
        assert torch.equal(a.x0, drawn(sampler, RANDOM, seed=22, number=100).x0)

    def test_other_kernels_are_refused_in_one_line(self, sampler):
        process = DiscreteDiffusion(UniformTransition(4, 8))
        with pytest.raises(ConfigError, match=r"serves .* take Ancestral") as error:
            drawn(sampler, RANDOM, process=process)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make_one", "field"),
    [
        (lambda: Confidence("left"), "order"),
        (lambda: Confidence(noise=-1.0), "noise"),
        (lambda: EntropyBounded(-0.1), "gamma"),
        (lambda: EntropyBounded(order="random"), "order"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make_one, field):
    with pytest.raises(ConfigError, match=rf"{field} is .*: choose") as error:
        make_one()
    assert "\n" not in str(error.value)


def test_a_wider_step_misses_more():
    """Total variation to the data under an exact belief falls with the number of steps, by enumeration."""
    numbers = ({4: 4}, {4: 2, 2: 2}, {4: 1, 3: 1, 2: 1, 1: 1})
    _, world = make(num_states=3, length=4, num_steps=2)
    errors = [
        total_variation(followed(world, exact(world), partial(surest, number, "margin"))[0], world.law)
        for number in numbers
    ]
    assert errors[0] > 1.5 * errors[1] > 0.01
    assert errors[2] < 1e-12
