"""Remasking: the marginals stay whatever sigma is, no sigma is ancestral sampling, and what it mends."""

import itertools

import pytest
import torch
from oracle import chi_square
from unmasking import SAMPLES, counts, exact, make, seeded, time_free, total_variation

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.discrete.masks import lost_between
from d3pm.discrete.remasking import Remasking, largest_sigma, reveal_rate
from d3pm.errors import ConfigError
from d3pm.sampling import Ancestral, draw, uniform_grid
from d3pm.schedules import CosineSchedule

EVERY = [Remasking(strategy, eta) for strategy in ("cap", "rescale", "loop") for eta in (0.0, 0.3, 1.0)]


def schedule_pairs(sampler: Remasking, kernel: AbsorbingTransition, times: list[int]):
    """Alpha-bar at s and t, and sigma, of each step, as float64 (1,)."""
    for t, s in itertools.pairwise(times):
        s, t = torch.tensor([s]), torch.tensor([t])
        before, after = (1 - lost_between(kernel, sampler.time(c, kernel.num_steps)) for c in (s, t))
        yield before, after, sampler.sigma(before, after) * sampler.remasks(s, t, kernel.num_steps)


def chain_law(sampler: Remasking, kernel, world, table, times) -> torch.Tensor:
    """The law (S,) of the chain with beliefs (S, L, K), multiplied out over all words."""
    mask, size = world.chain.absorbing, world.chain.num_states
    states, law = torch.arange(size), world.prior
    belief = table.masked_fill(states == mask, -torch.inf).softmax(-1)
    for before, after, sigma in schedule_pairs(sampler, kernel, times):
        rate, sigma = float(reveal_rate(before, after, sigma)), float(sigma)
        rows = []
        for w, word in enumerate(world.words.tolist()):
            row = torch.ones(1, dtype=torch.float64)
            for place, x in enumerate(word):
                stays, other = (1 - rate, rate * belief[w, place]) if x == mask else (1 - sigma, None)
                one = torch.zeros(size, dtype=torch.float64) if other is None else other.clone()
                one[x] += stays
                one[mask] += sigma * (x != mask)
                row = torch.kron(row, one)
            rows.append(row)
        law = law @ torch.stack(rows)
    return law


class TestRates:
    @pytest.mark.parametrize("schedule", [None, CosineSchedule()])
    @pytest.mark.parametrize("strategy", ["cap", "rescale"])
    @pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
    def test_marginals_stay(self, schedule, strategy, eta):
        """With the data for a belief, q(x_t | x_0) goes to q(x_s | x_0), at every pair of times."""
        kernel, sampler = AbsorbingTransition(4, 12, schedule=schedule), Remasking(strategy, eta)
        for s, t in itertools.combinations(range(13), 2):
            before, after = kernel.alpha_bars[torch.tensor([s])], kernel.alpha_bars[torch.tensor([t])]
            sigma = sampler.sigma(before, after)
            rate = reveal_rate(before, after, sigma)
            assert ((sigma >= 0) & (sigma <= 1) & (rate >= -1e-15) & (rate <= 1 + 1e-12)).all()
            assert torch.allclose(after * (1 - sigma) + (1 - after) * rate, before, atol=1e-12)

    def test_the_largest_sigma_leaves_every_mask_or_remasks_every_entry(self):
        before, after = torch.tensor([0.75, 0.3, 0.2]).double(), torch.tensor([0.5, 0.25, 0.0]).double()
        sigma = largest_sigma(before, after)
        assert sigma.tolist() == [0.5, 1.0, 1.0]
        assert reveal_rate(before, after, sigma)[0] == 1.0

    def test_nothing_is_remasked_at_the_end(self):
        kernel, zero = AbsorbingTransition(4, 12), torch.zeros(12, dtype=torch.int64)
        before, after = kernel.alpha_bars[zero], kernel.alpha_bars[torch.arange(1, 13)]
        assert (largest_sigma(before, after) == 0).all()
        assert (reveal_rate(before, after, torch.zeros(12)) == 1).all()


class TestLoop:
    CLOCK = Remasking("loop", 0.1, t_on=0.5, t_off=0.25, hold=0.1)

    def test_the_clock_waits(self):
        c = torch.tensor([40, 30, 20, 15, 10, 5, 0])
        assert self.CLOCK.time(c, 40).tolist() == [40, 22, 4, 4, 4, 2, 0]
        assert self.CLOCK.remasks(c[1:], c[:-1], 40).tolist() == [False, False, True, True, False, False]

    def test_marginals_stay_all_the_way(self):
        kernel = AbsorbingTransition(4, 40, schedule=CosineSchedule())
        standing = kernel.alpha_bars[torch.tensor([40])]
        for before, after, sigma in schedule_pairs(self.CLOCK, kernel, [40, 33, 20, 17, 12, 10, 6, 0]):
            standing = standing * (1 - sigma) + (1 - standing) * reveal_rate(before, after, sigma)
            assert torch.allclose(standing, before, atol=1e-12)
        assert float(standing) == pytest.approx(1, abs=1e-12)

    def test_the_share_of_masks_stays_while_entries_change(self):
        process, seen = DiscreteDiffusion(AbsorbingTransition(4, 40)), {}
        draw(
            process,
            lambda x_t, t: torch.zeros(*x_t.shape, 4),
            (500, 20),
            sampler=self.CLOCK,
            generator=seeded(0),
            watch=lambda s, x: seen.update({s: x}),
        )
        for s in range(10, 21):
            assert float((seen[s] == 3).double().mean()) == pytest.approx(0.1, abs=0.015)
        moved = float((seen[10] != seen[20]).double().mean())
        assert moved > 0.5


class TestLaw:
    def test_without_sigma_it_is_ancestral_draw_for_draw(self):
        process, world = make(num_states=4, length=3, num_steps=8)
        network = time_free(world, world.random_logits(seed=1)[0])
        for strategy in ("cap", "rescale"):
            a, b = (
                draw(process, network, (2000, 3), steps=5, sampler=sampler, generator=seeded(1)).x0
                for sampler in (Ancestral(), Remasking(strategy, 0.0))
            )
            assert torch.equal(a, b)

    @pytest.mark.parametrize("sampler", EVERY, ids=repr)
    def test_one_entry_has_the_law_of_the_data(self, sampler):
        process, world = make(num_states=5, length=1, num_steps=8)
        network = time_free(world, exact(world))
        x = draw(process, network, (SAMPLES, 1), sampler=sampler, generator=seeded(2)).x0
        assert chi_square(counts(world, x), world.law[None]) > 1e-3

    @pytest.mark.parametrize(
        "sampler",
        [Remasking("cap", 0.3), Remasking("rescale", 0.7), Remasking("loop", 0.6, 0.75, 0.3, 0.4)],
        ids=repr,
    )
    def test_is_the_chain_of_its_formulas(self, sampler):
        process, world = make(num_states=3, length=3, num_steps=8)
        table = world.random_logits(seed=3)[0] * 2
        times = [8, 6, 5, 4, 3, 1, 0]
        law = chain_law(sampler, process.transition, world, table, times)
        options = {"steps": times, "sampler": sampler, "generator": seeded(4)}
        x = draw(process, time_free(world, table), (SAMPLES, 3), **options).x0
        assert chi_square(counts(world, x), law[None]) > 1e-3

    @staticmethod
    def error(world, process, table, sampler, steps) -> float:
        law = chain_law(sampler, process.transition, world, table, uniform_grid(process.num_steps, steps))
        return total_variation(law, world.law)

    def test_it_mends_a_wrong_beginning_and_more_steps_mend_more(self):
        """Total variation to the data, by enumeration, where the belief is wrong as long as nothing stands."""
        process, world = make(num_states=3, length=3, num_steps=32)
        table = exact(world)
        table[-1] = torch.tensor([2.0, 0.0, 0.0])
        assert (world.words[-1] == world.chain.absorbing).all()
        for sampler in (Remasking("cap", 0.1), Remasking("rescale", 0.3), Remasking("loop", 0.1)):
            errors = {steps: self.error(world, process, table, sampler, steps) for steps in (8, 32)}
            plain = self.error(world, process, table, Remasking(eta=0.0), 32)
            assert errors[32] < 0.65 * plain, (errors, plain)
            assert errors[32] < 0.65 * errors[8], errors

    def test_an_exact_belief_is_followed_best_without(self):
        process, world = make(num_states=3, length=3, num_steps=32)
        for strategy in ("cap", "rescale"):
            errors = [
                self.error(world, process, exact(world), Remasking(strategy, eta), 8)
                for eta in (0.0, 0.1, 0.3)
            ]
            assert errors == sorted(errors), errors

    def test_prompts_stay(self):
        process, world = make(num_states=4, length=3, num_steps=8)
        known = torch.tensor([True, False, False]).expand(500, 3)
        x0 = torch.ones(500, 3, dtype=torch.int64)
        network = time_free(world, world.random_logits(seed=5)[0])
        options = {"sampler": Remasking("cap", 1.0), "known": known, "x0": x0, "generator": seeded(6)}
        x = draw(process, network, (500, 3), **options).x0
        assert (x[:, 0] == 1).all()
        assert (x != 3).all()
        assert all((asked[:, 0] == 1).all() for asked, _ in network.asked)


def test_rows_that_come_back_are_looked_at_again():
    process, world = make(num_states=4, length=2, num_steps=30)
    network, states = time_free(world, world.random_logits(seed=7)[0]), []
    network.time_conditioned = True
    found = draw(
        process,
        network,
        (200, 2),
        sampler=Remasking("cap", 0.5),
        generator=seeded(8),
        watch=lambda s, x: states.append((x == 3).any(-1)),
    )
    unfinished = torch.stack([torch.ones(200, dtype=torch.bool), *states[:-1]])
    assert torch.equal(found.calls, unfinished.sum(0))
    assert ((~unfinished[:-1]) & unfinished[1:]).any()
    assert (found.x0 != 3).all()


@pytest.mark.parametrize("shape", [(7,), (5, 2, 3, 2)])
def test_any_shape_and_a_mask_in_the_middle(shape):
    process = DiscreteDiffusion(AbsorbingTransition(5, 10, mask_index=2))
    x = draw(
        process,
        lambda x_t, t: torch.zeros(*x_t.shape, 5),
        shape,
        sampler=Remasking("cap", 0.5),
        generator=seeded(9),
    ).x0
    assert x.shape == shape
    assert (x != 2).all()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("strategy", {"strategy": "often"}),
        ("eta", {"eta": 1.5}),
        ("t_off", {"t_on": 0.1, "t_off": 0.2}),
        ("hold", {"hold": 0.0}),
    ],
)
def test_bad_arguments_are_refused_in_one_line(field, options):
    with pytest.raises(ConfigError, match=rf"Remasking .*{field}.* choose") as error:
        Remasking(**options)
    assert "\n" not in str(error.value)


def test_other_kernels_are_refused():
    process = DiscreteDiffusion(UniformTransition(4, 8))
    with pytest.raises(ConfigError, match=r"Remasking serves .* take Ancestral"):
        draw(process, lambda x_t, t: x_t, (2, 3), sampler=Remasking())
