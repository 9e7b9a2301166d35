"""First hitting: the continuous-time law, one call a mask, the times' law, and ancestral sampling that tends to it."""

import math
from itertools import pairwise

import pytest
import torch
from oracle import chi_square
from scipy.stats import kstest
from unmasking import (
    SAMPLES,
    counts,
    exact,
    followed,
    make,
    one_at_random,
    seeded,
    time_free,
    total_variation,
)

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.discrete.first_hitting import FirstHitting, nth
from d3pm.discrete.masks import lost_between, time_when
from d3pm.discrete.table import TableDiffusion
from d3pm.errors import ConfigError
from d3pm.sampling import draw, sample, uniform_grid
from d3pm.schedules import CosineSchedule, PolynomialSchedule

PROCESS, WORLD = make(num_states=4, length=3, num_steps=8)
RANDOM = WORLD.random_logits(seed=1)[0] * 2  # beliefs that no law of words has


def drawn(network, process=PROCESS, number=SAMPLES, length=3, **options):
    return draw(process, network, (number, length), sampler=FirstHitting(), **options)


def generator_law(world, logits) -> torch.Tensor:
    """The continuous-time chain on words, by matrix exponentials: every mask goes at rate 1 in -log(1 - alpha-bar).

    ``logits`` (T, S, L, K) are held in (t - 1, t]; the schedule is linear.
    """
    size, mask = len(world.words), world.chain.absorbing
    law = world.prior
    for t in range(world.num_steps, 0, -1):
        belief = (
            logits[t - 1].masked_fill(torch.arange(world.chain.num_states) == mask, -torch.inf).softmax(-1)
        )
        rates = torch.zeros(size, size, dtype=torch.float64)
        for w, word in enumerate(world.words):
            for place in (word == mask).nonzero().flatten().tolist():
                for state in world.chain.data_states:
                    after = word.clone()
                    after[place] = state
                    rates[w, world.index(after[None])] += belief[w, place, state]
        rates -= torch.diag(rates.sum(-1))
        law = law @ torch.matrix_exp(rates * (math.log(t / (t - 1)) if t > 1 else 60.0))
    return law


class TestLaw:
    def test_is_a_random_order_one_by_one(self):
        law, _ = followed(WORLD, RANDOM, one_at_random)
        found = drawn(time_free(WORLD, RANDOM), generator=seeded(0))
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3

    def test_the_two_slow_twins_agree(self):
        law, _ = followed(WORLD, RANDOM, one_at_random)
        assert torch.allclose(generator_law(WORLD, RANDOM.expand(8, -1, -1, -1)), law, atol=1e-12)

    @pytest.mark.parametrize("steps", [3, 8])
    def test_is_the_same_on_any_grid(self, steps):
        law, _ = followed(WORLD, RANDOM, one_at_random)
        found = drawn(time_free(WORLD, RANDOM), steps=steps, generator=seeded(steps))
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3
        assert (found.calls == 3).all()

    @pytest.mark.parametrize("steps", [1, 2])
    def test_a_network_that_looks_at_the_time_is_told_the_step_of_the_reveal(self, steps):
        process, world = make(num_states=3, length=3, num_steps=3)
        logits = world.random_logits(seed=2) * 2
        found = drawn(world.network(logits), process, steps=steps, generator=seeded(3))
        assert chi_square(counts(world, found.x0), generator_law(world, logits)[None]) > 1e-3

    def test_an_exact_belief_gives_the_data(self):
        found = drawn(time_free(WORLD, exact(WORLD)), generator=seeded(4))
        assert chi_square(counts(WORLD, found.x0), WORLD.law[None]) > 1e-3

    def test_known_entries_are_conditioned_on(self):
        known = torch.tensor([False, True, False]).expand(SAMPLES, 3)
        x0 = torch.full((SAMPLES, 3), 1)
        found = drawn(time_free(WORLD, exact(WORLD)), known=known, x0=x0, generator=seeded(5))
        law = WORLD.law * (WORLD.words[:, 1] == 1)
        assert chi_square(counts(WORLD, found.x0), law[None] / law.sum()) > 1e-3
        assert (found.calls == 2).all()

    def test_a_chain_that_does_not_end_all_masked_starts_where_its_prior_does(self):
        transition = AbsorbingTransition(4, 8, schedule=CosineSchedule())
        assert float(transition.alpha_bars.values[-1]) > 0
        found = drawn(time_free(WORLD, RANDOM), DiscreteDiffusion(transition), steps=4, generator=seeded(6))
        law, _ = followed(WORLD, RANDOM, one_at_random)
        assert chi_square(counts(WORLD, found.x0), law[None]) > 1e-3


class TestAncestralTendsToIt:
    """Total variation between the ancestral law in S steps and this one, by enumeration."""

    @pytest.mark.parametrize("table", [RANDOM, exact(WORLD)], ids=["random", "exact"])
    def test_at_first_order(self, table):
        _, world = make(num_states=4, length=3, num_steps=32)
        limit, _ = followed(world, table, one_at_random)
        logits = table.expand(32, -1, -1, -1)
        errors = [
            total_variation(world.model_law(logits, uniform_grid(32, steps), "d3pm"), limit)
            for steps in (4, 8, 16, 32)
        ]
        orders = [math.log2(a / b) for a, b in pairwise(errors)]
        assert all(0.85 < order < 1.15 for order in orders), (errors, orders)

    def test_with_an_exact_belief_the_limit_is_the_data(self):
        limit, _ = followed(WORLD, exact(WORLD), one_at_random)
        assert torch.allclose(limit, WORLD.law, atol=1e-12)


class TestTimes:
    @pytest.mark.parametrize("schedule", [None, CosineSchedule(), PolynomialSchedule(2.0)])
    def test_reveals_are_the_order_statistics_of_uniforms(self, schedule):
        length, transition = 4, AbsorbingTransition(4, 50, schedule=schedule)
        told = []

        def network(x_t, t):
            told.append(t)
            return torch.zeros(*x_t.shape, 4)

        sampler = FirstHitting(fractional=True)
        draw(DiscreteDiffusion(transition), network, (4000, length), sampler=sampler, generator=seeded(7))
        top = 1 - float(transition.alpha_bars.values[-1])
        assert len(told) == length
        for k, t in enumerate(told):
            level = lost_between(transition, t) / top
            assert kstest(level.numpy(), "beta", args=(length - k, k + 1)).pvalue > 1e-3

    def test_the_network_is_told_whole_steps_unless_it_knows_others(self):
        told = {}
        for fractional in (False, True):
            network = time_free(WORLD, RANDOM)
            sampler = FirstHitting(fractional=fractional)
            x = sample(PROCESS, network, (500, 3), sampler=sampler, generator=seeded(8))
            told[fractional] = (torch.stack([t for _, t in network.asked]), x)
        (whole, x), (between, y) = told[False], told[True]
        assert whole.dtype == torch.int64
        assert between.dtype == torch.float64
        assert torch.equal(whole, between.ceil().long())
        assert whole.min() >= 1
        assert (between[1:] < between[:-1]).all()
        assert torch.equal(x, y)

    @pytest.mark.parametrize("schedule", [None, CosineSchedule(), PolynomialSchedule(3.0)])
    def test_the_time_of_a_level_inverts_the_level_of_a_time(self, schedule):
        transition = AbsorbingTransition(4, 20, schedule=schedule)
        t = torch.cat([torch.arange(21).double(), 20 * torch.rand(200, generator=seeded(9)).double()])
        assert torch.allclose(time_when(transition, lost_between(transition, t)), t, atol=1e-9)
        whole = torch.arange(21)
        assert torch.equal(lost_between(transition, whole.double()), 1 - transition.alpha_bars[whole])


class TestCalls:
    @pytest.mark.parametrize("looks_at_time", [True, False])
    @pytest.mark.parametrize("steps", [1, 8])
    def test_one_for_each_mask(self, looks_at_time, steps):
        known = torch.rand(64, 3, generator=seeded(10)) < 0.5
        network = time_free(WORLD, RANDOM)
        network.time_conditioned = looks_at_time
        x0 = torch.zeros(64, 3, dtype=torch.int64)
        found = drawn(network, number=64, steps=steps, known=known, x0=x0, generator=seeded(11))
        assert torch.equal(found.calls, (~known).sum(1))
        assert (found.x0[known] == 0).all()
        assert (found.x0 != 3).all()

    def test_one_pass_a_mask_on_one_step(self):
        found = drawn(time_free(WORLD, RANDOM), number=64, generator=seeded(12))
        assert found.forwards == 3

    def test_the_slow_twin_of_the_calls_gives_the_same_samples(self):
        a, b = (
            drawn(time_free(WORLD, RANDOM), number=200, steps=4, cache=cache, generator=seeded(13))
            for cache in (True, False)
        )
        assert torch.equal(a.x0, b.x0)


@pytest.mark.parametrize("shape", [(7,), (5, 2, 3, 2)])
def test_any_shape_and_a_mask_in_the_middle(shape):
    process = DiscreteDiffusion(AbsorbingTransition(5, 10, mask_index=2))
    x = sample(
        process,
        lambda x_t, t: torch.zeros(*x_t.shape, 5),
        shape,
        sampler=FirstHitting(),
        generator=seeded(14),
    )
    assert x.shape == shape
    assert (x != 2).all()


def test_every_masked_entry_is_as_likely():
    masked = torch.tensor([[True, False, True, True]]).expand(SAMPLES, 4)
    u = torch.rand(SAMPLES, generator=seeded(15), dtype=torch.float64)
    u[0] = 1 - 2.0**-53
    place = nth(masked, u) - 4 * torch.arange(SAMPLES)
    assert int(place[0]) == 3
    law = torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3]], dtype=torch.float64)
    assert chi_square(torch.bincount(place, minlength=4)[None], law) > 1e-3


@pytest.mark.parametrize(
    "process",
    [DiscreteDiffusion(UniformTransition(4, 8)), TableDiffusion.example()[0]],
    ids=["kernel", "process"],
)
def test_other_processes_are_refused_in_one_line(process):
    with pytest.raises(ConfigError, match=r"FirstHitting serves .* take Ancestral") as error:
        drawn(time_free(WORLD, RANDOM), process)
    assert "\n" not in str(error.value)
