"""Optimal grids: the shortest path against all paths, the measured terms against enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracle import Chain, World, random_law

from d3pm import AbsorbingTransition, DiscreteDiffusion, GaussianDiffusion, UniformTransition
from d3pm.errors import ConfigError
from d3pm.evaluation.grid_bounds import GridBounds, grid_bounds
from d3pm.evaluation.pair_terms import PairTerms, pair_terms
from d3pm.evaluation.step_plan import RIVALS, best_grids, best_steps, best_sums, candidate_times
from d3pm.grids import cosine_grid, uniform_grid
from d3pm.objectives import batch_time, prior_term, step_term
from d3pm.schedules import CosineSchedule
from d3pm.transitions import MatrixTransition


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grids_of(times: list[int], steps: int) -> list[list[int]]:
    """Every grid of so many steps from the last time to 0."""
    inner = itertools.combinations(times[1:-1], steps - 1)
    return [[times[-1], *sorted(some, reverse=True), 0] for some in inner]


def total(terms: torch.Tensor, times: list[int], grid: list[int]) -> float:
    place = {t: i for i, t in enumerate(times)}
    return sum(float(terms[place[s], place[t]]) for t, s in itertools.pairwise(grid))


def table(term, times: list[int]) -> torch.Tensor:
    """``term(s, t)`` at s < t, NaN elsewhere, which nobody may read."""
    terms = torch.full((len(times), len(times)), math.nan, dtype=torch.float64)
    for (i, s), (j, t) in itertools.combinations(enumerate(times), 2):
        terms[i, j] = term(s, t)
    return terms


class TestTheShortestPath:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_the_least_of_all_grids(self, seed):
        times = [0, 1, 3, 4, 8, 9, 11, 20]
        terms = torch.rand(8, 8, generator=generator(seed), dtype=torch.float64)
        found = best_grids(terms, times, range(1, 8))
        for steps, grid in found.items():
            best = min(grids_of(times, steps), key=lambda each: total(terms, times, each))
            assert grid == best == best_steps(terms, times, steps)
            assert best_sums(terms, times)[steps - 1] == pytest.approx(total(terms, times, best))

    def test_of_equally_good_grids_it_is_always_the_same(self):
        times = list(range(9))
        terms = table(lambda s, t: float(t - s), times)
        assert best_grids(terms, times, [1, 3, 8]) == {1: [8, 0], 3: [8, 2, 1, 0], 8: times[::-1]}

    def test_a_surprise_that_grows_linearly_with_noise_is_best_met_by_even_steps(self):
        """Terms (s, t) = (t - s) t: an upper Riemann sum of a line, least where the steps are even."""
        times = list(range(25))
        terms = table(lambda s, t: float((t - s) * t), times)
        for steps in (1, 2, 3, 4, 6, 8, 12, 24):
            assert best_steps(terms, times, steps) == uniform_grid(24, steps)

    def test_a_surprise_that_changes_once_needs_one_step_there(self):
        times = list(range(11))
        terms = table(lambda s, t: (t - s) * (5.0 if t > 7 else 1.0), times)
        assert best_steps(terms, times, 2) == [10, 7, 0]

    def test_ways_that_cost_infinity_are_not_taken(self):
        times = [0, 1, 2, 3]
        terms = table(lambda s, t: math.inf if s == 0 and t > 1 else 1.0, times)
        assert best_steps(terms, times, 2) == [3, 1, 0]
        with pytest.raises(ConfigError, match="every grid of so few steps has an infinite bound"):
            best_steps(terms, times, 1)

    @pytest.mark.parametrize("steps", [0, 4])
    def test_numbers_of_steps_that_do_not_fit_are_refused(self, steps):
        with pytest.raises(ConfigError, match=rf"steps is {steps}: 4 times"):
            best_steps(torch.ones(4, 4), [0, 1, 2, 3], steps)

    def test_a_term_that_is_no_number_is_refused(self):
        terms = torch.ones(3, 3)
        terms[1, 2] = math.nan
        with pytest.raises(ConfigError, match="the step 7 -> 5 costs NaN"):
            best_steps(terms, [0, 5, 7], 2)


class TestCandidates:
    @pytest.mark.parametrize("resolution", [16, 50, 128])
    def test_there_are_about_as_many_as_asked_for_and_the_rivals_are_among_them(self, resolution):
        found = candidate_times(1000, resolution, [4, 8])
        assert found == sorted(set(found))
        assert (found[0], found[-1]) == (0, 1000)
        assert all(set(grid(1000, steps)) <= set(found) for grid in RIVALS.values() for steps in (4, 8))
        needed = {t for grid in RIVALS.values() for steps in (4, 8) for t in grid(1000, steps)} | {0, 1000}
        assert len(found) <= max(resolution, len(needed))
        if resolution > 2 * len(needed):
            assert len(found) > 0.9 * resolution

    def test_small_processes_are_planned_whole(self):
        assert candidate_times(128, 128, [8]) == list(range(129))


# The terms against enumeration


def make(kind: str, num_states: int = 3, length: int = 2, num_steps: int = 4):
    transition = {
        "absorbing": lambda: AbsorbingTransition(num_states, num_steps),
        "uniform": lambda: UniformTransition(num_states, num_steps),
        "matrix": lambda: MatrixTransition.example(num_states, num_steps),
    }[kind]()
    chain = Chain.of(transition)
    return transition, World(chain, length, random_law(chain, length, seed=3))


def enumerated(process, world: World, logits: torch.Tensor, s: int, t: int) -> float:
    """The expected term in bits per entry: every (x_0, x_t) with its weight."""
    joint = world.law[:, None] * world.forward(0, t)
    i, j = joint.nonzero().unbind(-1)
    x0, x_t = world.words[i], world.words[j]
    output = world.network(logits)(x_t, batch_time(t, x0))
    nats = step_term(process, output, x0, x_t, batch_time(s, x0), batch_time(t, x0)).sum(-1)
    return float(joint[i, j] @ nats) / (world.length * math.log(2))


def strided(world: World, grid: list[int]) -> World:
    """The world as a chain sees it that visits the times of ``grid`` only."""
    steps = torch.stack([world.chain.between(s, t) for t, s in itertools.pairwise(grid)][::-1])
    return World(Chain(steps, world.chain.stationary, world.chain.absorbing), world.length, world.law)


def prior_bits(process, world: World) -> float:
    nats = prior_term(process, world.words).sum(-1)
    return float(nats[world.law > 0] @ world.law[world.law > 0]) / (world.length * math.log(2))


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "matrix"])
@pytest.mark.parametrize("form", ["d3pm", "mixture"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_planned_grid_is_the_best_enumerated_bound_of_all_strided_chains(kind, form, exact):
    transition, world = make(kind)
    process = DiscreteDiffusion(transition, form)
    logits = world.exact_logits() if exact else world.random_logits(seed=2)
    times = list(range(5))
    terms = table(lambda s, t: enumerated(process, world, logits, s, t), times)
    found = PairTerms(times, prior_bits(process, world), terms, torch.zeros_like(terms), 1)
    last = math.inf
    for steps, grid in found.best([1, 2, 3, 4]).items():
        bounds = {
            tuple(each): strided(world, each).bound(logits[[t - 1 for t in each[-2::-1]]], form)
            for each in grids_of(times, steps)
        }
        bits = min(bounds.values()) / (world.length * math.log(2))
        assert found.bound_of(grid) == pytest.approx(bits, abs=1e-10)
        assert bounds[tuple(grid)] == pytest.approx(min(bounds.values()), abs=1e-10)
        if exact and form == "mixture":  # an exact model loses nothing by looking more often
            assert bits <= last + 1e-12
            last = bits


def test_where_neighbours_tell_nothing_every_grid_of_mask_diffusion_costs_the_entropy():
    """One entry: the surprise of a masked one is H at every t, and the terms (alpha_s - alpha_t) H add up to H."""
    transition, world = make("absorbing", length=1)
    process, logits, times = DiscreteDiffusion(transition), world.exact_logits(), list(range(5))
    terms = table(lambda s, t: enumerated(process, world, logits, s, t), times)
    for steps in range(1, 5):
        for grid in grids_of(times, steps):
            assert total(terms, times, grid) == pytest.approx(world.entropy / math.log(2), abs=1e-12)


# The measurement


def batches_of(world: World, count: int, size: int, seed: int):
    """Examples drawn from the world's law."""
    place = torch.multinomial(world.law, count, replacement=True, generator=generator(seed))
    return [{"x0": part} for part in world.words[place].split(size)]


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_the_measured_terms_are_the_expected_ones_within_their_errors(kind):
    transition, world = make(kind)
    process, logits = DiscreteDiffusion(transition), world.exact_logits()
    found = pair_terms(
        process, world.network(logits), batches_of(world, 6000, 1500, 1), range(5), generator()
    )
    assert found.num_examples == 6000
    assert found.prior == pytest.approx(prior_bits(process, world), abs=0.01)
    off = [
        (float(found.terms[s, t]) - enumerated(process, world, logits, s, t)) / float(found.errors[s, t])
        for s, t in itertools.combinations(range(5), 2)
    ]
    assert max(map(abs, off)) < 4
    assert np.mean(np.square(off)) < 3
    assert torch.isinf(found.terms.tril()[torch.ones(5, 5).tril() > 0]).all()


def test_one_output_of_mask_diffusion_gives_the_terms_of_all_steps_as_step_term_does():
    """The fast way (one surprise for all s) beside the slow one (a divergence for each s)."""
    transition, world = make("absorbing", num_steps=6)
    process, network = DiscreteDiffusion(transition), world.network(world.random_logits(4))
    (batch,) = batches_of(world, 50, 50, 2)
    found = pair_terms(process, network, [batch], range(7), generator(3))
    assert network.asked == [1, 2, 3, 4, 5, 6]
    for s, t in itertools.combinations(range(7), 2):
        x0, time = batch["x0"], batch_time(t, batch["x0"])
        x_t = process.q_sample(x0, time, generator(3))
        slow = step_term(process, network(x_t, time), x0, x_t, batch_time(s, x0), time)
        assert float(found.terms[s, t]) == pytest.approx(float(slow.mean()) / math.log(2), abs=1e-12)


@pytest.mark.parametrize("process", GaussianDiffusion.example(), ids=lambda each: f"{each.prediction}")
def test_gaussian_terms_end_in_the_decoder(process):
    x0 = torch.rand(6, 1, 4, 4, generator=generator(1)) * 2 - 1
    x0 = torch.round((x0 + 1) * 127.5) / 127.5 - 1
    channels = 2 if process.variance == "learned_range" else 1
    network = lambda x_t, t: (0.3 * x_t).repeat(1, channels, 1, 1)  # noqa: E731
    found = pair_terms(process, network, [{"x0": x0}], range(6), generator(2))
    for s, t in itertools.combinations(range(6), 2):
        zero, time = batch_time(s, x0), batch_time(t, x0)
        x_t = process.q_sample(x0, time, generator(2))
        law = process.reverse(network(x_t, time), x_t, zero, time)
        slow = -law.log_prob(x0) if s == 0 else process.posterior(x0, x_t, zero, time).kl(law)
        assert float(found.terms[s, t]) == pytest.approx(float(slow.mean()) / math.log(2), rel=1e-5)
    assert found.prior == pytest.approx(float(prior_term(process, x0).mean()) / math.log(2), rel=1e-5)
    assert found.bound_of(found.best([3])[3]) <= found.bound_of(uniform_grid(5, 3)) + 1e-9


def test_padding_counts_for_nothing():
    transition, world = make("absorbing")
    process, network = DiscreteDiffusion(transition), world.network(world.random_logits(4))
    (batch,) = batches_of(world, 40, 40, 2)
    mask = torch.tensor([[1, 0]]).expand(40, 2)
    called = lambda x_t, t, attention_mask: network(x_t, t)  # noqa: E731
    found = pair_terms(process, called, [batch | {"attention_mask": mask}], range(5), generator(3))
    x0, time = batch["x0"], batch_time(3, batch["x0"])
    x_t = process.q_sample(x0, time, generator(3))
    slow = step_term(process, network(x_t, time), x0, x_t, batch_time(1, x0), time)[:, 0]
    assert float(found.terms[1, 3]) == pytest.approx(float(slow.mean()) / math.log(2), abs=1e-12)
    error = float(slow.std()) / math.sqrt(40) / math.log(2)
    assert float(found.errors[1, 3]) == pytest.approx(error, rel=1e-9)


class TestJudging:
    def test_on_the_examples_planned_on_it_is_the_sum_of_the_measured_terms(self):
        transition, world = make("uniform", num_steps=6)
        process, network = DiscreteDiffusion(transition), world.network(world.random_logits(4))
        batches = batches_of(world, 60, 25, 2)
        found = pair_terms(process, network, batches, range(7), generator(3))
        grids = [found.best([3])[3], uniform_grid(6, 3), cosine_grid(6, 3)]
        network.asked.clear()
        bounds = grid_bounds(process, network, batches, grids, generator(3))
        assert len(network.asked) == len(batches) * len({t for grid in grids for t in grid[:-1]})
        for place, grid in enumerate(grids):
            assert bounds.bits(place)[0] == pytest.approx(found.bound_of(grid), rel=1e-6)
            assert bounds.gain(0, place)[0] >= -1e-12

    def test_a_grid_that_begins_below_the_noise_pays_for_it(self):
        network = lambda x_t, t: torch.zeros_like(x_t)  # noqa: E731
        process = GaussianDiffusion(CosineSchedule(), 10, "eps", "fixed_small")
        x0 = torch.zeros(3, 1, 2, 2)
        bounds = grid_bounds(process, network, [{"x0": x0}], [[5, 0]], generator())
        terms = pair_terms(process, network, [{"x0": x0}], [0, 5], generator()).terms
        end = process.marginal(x0, batch_time(5, x0)).kl(process.prior(x0.shape))
        bits = float(terms[0, 1]) + float(end.mean()) / math.log(2)
        assert bounds.bits(0)[0] == pytest.approx(bits, rel=1e-6)

    def test_under_an_absorbing_kernel_that_is_infinite(self):
        transition, world = make("absorbing")
        process, network = DiscreteDiffusion(transition), world.network(world.exact_logits())
        bounds = grid_bounds(process, network, batches_of(world, 9, 9, 1), [[3, 0]], generator())
        assert bounds.bits(0)[0] == math.inf

    def test_the_error_of_a_gain_is_that_of_paired_examples(self):
        nats = torch.tensor([[3.0, 8.0, 1.0, 6.0], [4.0, 9.5, 2.0, 7.5]], dtype=torch.float64)
        bounds = GridBounds(nats, torch.full((4,), 2.0, dtype=torch.float64))
        saved, error = bounds.gain(0, 1)
        assert saved == pytest.approx(1.25 / 2 / math.log(2))
        assert error == pytest.approx(float((nats[1] - nats[0]).std()) / 2 / 2 / math.log(2))
        assert error < bounds.bits(0)[1] / 5

    def test_a_bound_is_told_only_of_measured_grids(self):
        found = PairTerms([0, 2, 4], 0.0, torch.ones(3, 3), torch.zeros(3, 3), 1)
        assert found.bound_of([4, 2, 0]) == 2
        for grid in ([4, 1, 0], [2, 0], [4, 2]):
            with pytest.raises(ConfigError, match="take times that were measured, from 4 to 0"):
                found.bound_of(grid)
