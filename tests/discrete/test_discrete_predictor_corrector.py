"""Corrections keep the law at their time up to the second order in their size, and repair others."""

import pytest
import torch
from leaps import distance, matrix, refusal, run, slope, step, world_of
from oracle import chi_square

from d3pm import (
    AbsorbingTransition,
    DiscreteDiffusion,
    HybridTransition,
    MarginalTransition,
    UniformTransition,
)
from d3pm.discrete.predictor_corrector import PredictorCorrector
from d3pm.discrete.rates import reverse_rates
from d3pm.discrete.tau_leaping import TauLeaping
from d3pm.distributions import pick
from d3pm.errors import ConfigError
from d3pm.sampling import Ancestral, draw, sample
from d3pm.schedules import ReciprocalSchedule

T = 8


def kernels(num_steps: int = T) -> dict:
    return {
        "absorbing": AbsorbingTransition(3, num_steps),
        "uniform": UniformTransition(3, num_steps),
        "marginal": MarginalTransition([0.6, 0.3, 0.1], num_steps, ReciprocalSchedule()),
    }


@pytest.fixture(params=kernels())
def name(request) -> str:
    return request.param


def correction(world, process, logits, s: int, size: float) -> torch.Tensor:
    """One correction as a matrix over words."""
    time = torch.full((len(world.words),), s)
    return matrix(world, PredictorCorrector(size=size).law(process, logits[s - 1], world.words, time).probs)


@pytest.mark.parametrize("s", [1, 4, 7])
@pytest.mark.parametrize("length", [1, 2])
def test_the_law_of_its_time_is_kept_up_to_the_second_order(name, s, length):
    kernel = kernels()[name]
    world = world_of(kernel, length)
    logits, process = world.exact_logits(), DiscreteDiffusion(kernel, "mixture")
    now = world.law @ world.forward(0, s)
    sizes = [0.1, 0.05, 0.025, 0.0125]
    moved = [distance(now @ correction(world, process, logits, s, size), now) for size in sizes]
    if name == "absorbing" and length == 1:
        assert max(moved) < 1e-15
    else:
        assert slope(sizes, moved) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("s", [1, 4, 7])
def test_a_wrong_law_is_led_to_the_right_one(name, s):
    kernel = kernels()[name]
    world = world_of(kernel, 2)
    once = correction(world, DiscreteDiffusion(kernel, "mixture"), world.exact_logits(), s, 0.02)
    now = world.law @ world.forward(0, s)
    wrong = world.power(world.chain.between(0, s)[1])  # as if all data were the word 11
    left = [distance(wrong @ torch.linalg.matrix_power(once, n), now) for n in (0, 40, 200, 1000, 10_000)]
    assert left[:4] == sorted(left[:4], reverse=True)
    assert left[-1] < 0.02 * left[0]  # what is left is the size's own second order


@pytest.mark.parametrize("form", ["mixture", "d3pm"])
def test_small_corrections_have_the_rates_of_both_directions(name, form):
    """Away from x: size (1 - abar) (abar r p(y) + (1 + r') pi(y)) + O(size^2)."""
    kernel, s = kernels()[name], 5
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel, form)
    logits, time = world.random_logits(5), torch.full((9,), s)
    belief = process.predict(logits[s - 1], world.words, time).probs
    rates = reverse_rates(kernel, form, world.words, time, pick(belief, world.words))
    signal = float(kernel.alpha_bars.values[s])
    rate = signal * rates.to_belief.expand(9, 2).unsqueeze(-1) * belief
    rate = (1 - signal) * (rate + (1 + rates.to_noise).unsqueeze(-1) * kernel.stationary())
    away = torch.ones_like(rate).scatter(-1, world.words.unsqueeze(-1), 0.0)
    law = PredictorCorrector(size=1e-6).law(process, logits[s - 1], world.words, time).probs
    torch.testing.assert_close(law * away / 1e-6, rate * away, rtol=0, atol=1e-5)
    torch.testing.assert_close(law.sum(-1), torch.ones(9, 2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_under_the_absorbing_kernel_it_masks_and_reveals():
    process = DiscreteDiffusion(AbsorbingTransition(3, 10))
    x, s = torch.tensor([[0, 2]]), torch.tensor([4])
    logits = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64).expand(1, 2, 3)
    law = PredictorCorrector(size=0.5).law(process, logits, x, s).probs[0]
    anew = 1 - torch.tensor(-0.5, dtype=torch.float64).exp()
    torch.testing.assert_close(law[0], torch.tensor([1 - 0.4 * anew, 0.0, 0.4 * anew], dtype=torch.float64))
    belief = logits[0, 0, :2].softmax(-1)
    torch.testing.assert_close(law[1], torch.cat([0.6 * anew * belief, (1 - 0.6 * anew)[None]]))


@pytest.mark.parametrize("predictor", [Ancestral(), TauLeaping()], ids=lambda p: type(p).__name__)
def test_corrections_repair_what_few_steps_get_wrong(name, predictor):
    """At the time of the last look, before the belief is drawn, each correction more brings the law closer."""
    kernel = kernels()[name]
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel, "mixture")
    logits = world.exact_logits()
    ahead = {
        (t, s): matrix(world, process.reverse(logits[t - 1], world.words, *times(s, t)).probs)
        if predictor == Ancestral()
        else step(world, process, predictor, logits, s, t)
        for t, s in ((8, 4), (4, 2))
    }
    now, found = world.law @ world.forward(0, 2), []
    for corrections in (0, 1, 4, 16):
        law = world.law @ world.forward(0, 8)
        for (_, s), one in ahead.items():
            law = (
                law
                @ one
                @ torch.linalg.matrix_power(correction(world, process, logits, s, 0.05), corrections)
            )
        found.append(distance(law, now))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.7 * found[0]


def times(s: int, t: int, batch: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((batch,), s), torch.full((batch,), t)


def test_samples_follow_the_enumerated_law(name):
    kernel, sampler = kernels(6)[name], PredictorCorrector(2, 0.5)
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    logits, seeded = world.random_logits(6), torch.Generator().manual_seed(10)
    found = draw(process, world.network(logits), (20_000, 2), steps=3, sampler=sampler, generator=seeded)

    def one(s: int, t: int) -> torch.Tensor:
        ahead = matrix(world, process.reverse(logits[t - 1], world.words, *times(s, t)).probs)
        return (
            ahead @ torch.linalg.matrix_power(correction(world, process, logits, s, 0.5), 2) if s else ahead
        )

    law = run(world.prior, one, [6, 4, 2, 0])
    assert chi_square(torch.bincount(world.index(found.x0), minlength=9)[None], law[None]) > 1e-3


def test_calls_are_one_and_the_corrections_but_for_the_last_step():
    process, asked = DiscreteDiffusion(UniformTransition(3, 6)), []

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(int(t[0]))
        return torch.zeros(*x_t.shape, 3)

    found = draw(process, network, (4, 5), steps=3, sampler=PredictorCorrector(2))
    assert asked == [6, 4, 4, 4, 2, 2, 2]
    assert found.calls.tolist() == [7] * 4


def test_without_corrections_it_is_the_predictor(name):
    kernel = kernels()[name]
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    network = world.network(world.random_logits(7))
    for predictor in (Ancestral(), TauLeaping()):
        drawn = [
            sample(process, network, (64, 2), sampler=sampler, generator=torch.Generator().manual_seed(11))
            for sampler in (predictor, PredictorCorrector(0, predictor=predictor))
        ]
        assert torch.equal(*drawn)


def test_rows_that_were_finished_are_taken_up_again_and_known_entries_stay():
    """A finished row may be masked again; what the network then says of it counts, with the cache and without."""
    kernel = kernels()["absorbing"]
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    network = world.network(world.random_logits(9))
    x0, known = torch.tensor([[1, 0]]).expand(500, 2), torch.tensor([[True, False]]).expand(500, 2)
    opened = []

    def watch(s: int, x: torch.Tensor) -> None:
        opened.append((x == 2).any(-1))

    drawn = [
        draw(
            process,
            network,
            (500, 2),
            sampler=PredictorCorrector(2, 0.5),
            x0=x0,
            known=known,
            cache=cache,
            watch=watch,
            generator=torch.Generator().manual_seed(12),
        )
        for cache in (True, False)
    ]
    assert torch.equal(drawn[0].x0, drawn[1].x0)
    assert (drawn[0].x0[:, 0] == 1).all()
    masked = torch.stack(opened[:T])
    assert (~masked[:-1] & masked[1:]).any()
    assert not masked[-1].any()


def test_batches_of_several_times_correct_only_those_above_zero():
    kernel = kernels()["uniform"]
    process, logits = DiscreteDiffusion(kernel), torch.tensor([40.0, 0.0, 0.0], dtype=torch.float64)
    x, s, t = torch.full((2000, 1), 0), torch.arange(2000) % 2 * 4, torch.full((2000,), 5)

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert (t > 0).all()
        return logits.expand(*x_t.shape, 3)

    found = PredictorCorrector(size=5.0).step(process, network, x, s, t, torch.Generator().manual_seed(13))
    assert (found[::2] == 0).all()
    assert (found[1::2] != 0).any()


def test_bad_values_and_other_kernels_are_refused():
    with pytest.raises(ConfigError, match="corrections is -1: choose 0 or more"):
        PredictorCorrector(-1)
    for size in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"size is .*: choose it above 0"):
            PredictorCorrector(size=size)
    hybrid = DiscreteDiffusion(HybridTransition(4, 5))
    assert "HybridTransition: use Ancestral" in refusal(PredictorCorrector(), hybrid)
    assert "TauLeaping" in refusal(PredictorCorrector(predictor=TauLeaping()), hybrid)
