"""Tau-leaping: the rates are those of the enumerated reverse chain, and the error of the law is of first order."""

import pytest
import torch
from leaps import distance, errors, matrix, refusal, run, slope, step, world_of
from oracle import chi_square

from d3pm import (
    AbsorbingTransition,
    DiscreteDiffusion,
    HybridTransition,
    MarginalTransition,
    TableDiffusion,
    UniformTransition,
)
from d3pm.discrete.rates import reverse_rates
from d3pm.discrete.tau_leaping import TauLeaping
from d3pm.distributions import pick
from d3pm.sampling import draw
from d3pm.schedules import ReciprocalSchedule


def kernels(num_steps: int) -> dict:
    return {
        "absorbing": AbsorbingTransition(3, num_steps),
        "uniform": UniformTransition(3, num_steps),
        "uniform to nothing": UniformTransition(3, num_steps, ReciprocalSchedule()),
        "marginal": MarginalTransition([0.6, 0.3, 0.1], num_steps, ReciprocalSchedule()),
    }


def without_itself(world, belief: torch.Tensor, t: int) -> torch.Tensor:
    """The belief in each entry from the others alone, which the d3pm form wants: the evidence of x_t divided out."""
    likelihood = world.chain.between(0, t).T[world.words]  # (S, L, x_0)
    weights = torch.where(likelihood > 0, belief / torch.where(likelihood > 0, likelihood, 1.0), 0.0)
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", kernels(1))
@pytest.mark.parametrize("form", ["mixture", "d3pm"])
@pytest.mark.parametrize("t", [1, 3, 5])
def test_the_rates_are_those_of_the_enumerated_reverse_chain(name, form, t):
    """Forward rate from y to x, times q_t(word with y) / q_t(word with x)."""
    kernel = kernels(6)[name]
    world = world_of(kernel, 2)
    now = world.law @ world.forward(0, t)
    place = (now > 0).nonzero().flatten()
    words = world.words[place]
    time = torch.full((len(words),), t)
    belief = kernel.belief(world.exact_logits()[t - 1, place], words, time).probs
    if form == "d3pm":
        whole = torch.zeros(len(now), 2, 3, dtype=torch.float64)
        whole[place] = belief
        belief = without_itself(world, whole, t)[place]
    rates = reverse_rates(kernel, form, words, time, pick(belief, words))
    found = (
        kernel.alpha_bars[time].view(-1, 1, 1) * rates.to_belief.expand(words.shape).unsqueeze(-1) * belief
    )
    found = found + rates.to_noise.unsqueeze(-1) * kernel.stationary()
    for entry in (0, 1):
        for y in range(3):
            changed = words.clone()
            changed[:, entry] = y
            ratio = now[world.index(changed)] / now[place]
            expected = kernel.stationary()[words[:, entry]] * ratio
            moves = words[:, entry] != y
            torch.testing.assert_close(found[moves, entry, y], expected[moves], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", kernels(1))
def test_the_error_is_of_first_order(name):
    kernel = kernels(256)[name]
    steps = [16, 32, 64, 128, 256]
    found = errors(world_of(kernel, 2), DiscreteDiffusion(kernel, "mixture"), TauLeaping(), steps)
    assert -slope(steps, found) == pytest.approx(1, abs=0.12)
    assert found[-2] / found[-1] == pytest.approx(2, abs=0.12)
    assert found[-1] < 2e-3


@pytest.mark.parametrize("form", ["mixture", "d3pm"])
@pytest.mark.parametrize("name", kernels(1))
def test_rows_are_laws_and_small_steps_are_rates(name, form):
    """Sum one, nothing negative; away from x the chance is the rate times the step, up to the second order."""
    kernel = kernels(4096)[name]
    process, world = DiscreteDiffusion(kernel, form), world_of(kernels(4)[name], 2)
    logits, t = world.random_logits(5)[0], torch.full((9,), 2048)
    belief = process.predict(logits, world.words, t).probs
    rates = reverse_rates(kernel, form, world.words, t, pick(belief, world.words))
    off = []
    for width in (256, 128, 64):
        law = TauLeaping().law(process, logits, world.words, t - width, t).probs
        torch.testing.assert_close(law.sum(-1), torch.ones(9, 2, dtype=torch.float64), rtol=0, atol=1e-14)
        assert (law >= 0).all()
        gained = kernel.alpha_bars[t - width] - kernel.alpha_bars[t]
        clock = (kernel.alpha_bars[t - width] / kernel.alpha_bars[t]).log()
        linear = (gained[:, None] * rates.to_belief).unsqueeze(-1) * belief
        linear = linear + (clock[:, None] * rates.to_noise).unsqueeze(-1) * kernel.stationary()
        away = torch.ones_like(law).scatter(-1, world.words.unsqueeze(-1), 0.0)
        off.append(float(((law - linear) * away).abs().max()))
    assert slope([256, 128, 64], off) == pytest.approx(2, abs=0.2)


def test_a_mask_is_revealed_at_the_exponential_of_its_rate_and_nothing_else_moves():
    kernel = AbsorbingTransition(4, 10)
    logits = torch.randn(1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t, s, t = torch.tensor([[3, 1]]), torch.tensor([4]), torch.tensor([8])
    law = TauLeaping().law(DiscreteDiffusion(kernel), logits, x_t, s, t).probs[0]
    revealed = 1 - torch.tensor(-(0.6 - 0.2) / (1 - 0.2), dtype=torch.float64).exp()
    torch.testing.assert_close(law[0, :3], revealed * logits[0, 0, :3].softmax(-1))
    assert law[1].tolist() == [0, 1, 0, 0]


def test_from_nothing_what_is_not_believed_is_drawn_from_the_limit_law():
    kernel = kernels(10)["marginal"]
    logits = torch.randn(3, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_t, s, t = torch.arange(3)[:, None], torch.full((3,), 7), torch.full((3,), 10)
    belief = logits.softmax(-1)
    away = 1 - pick(belief, x_t)
    share = ((1 - torch.exp(-0.3 * away)) / away).unsqueeze(-1)
    law = TauLeaping().law(DiscreteDiffusion(kernel, "mixture"), logits, x_t, s, t).probs
    torch.testing.assert_close(law, share * belief + (1 - share) * kernel.stationary())


@pytest.mark.parametrize("name", kernels(1))
def test_samples_follow_the_enumerated_law(name):
    """Chi-square of 20,000 samples in three steps; at s = 0 the belief, even where it is certain."""
    kernel = kernels(6)[name]
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    logits, seeded = world.random_logits(6), torch.Generator().manual_seed(7)
    found = draw(process, world.network(logits), (20_000, 2), steps=3, sampler=TauLeaping(), generator=seeded)
    law = run(world.prior, lambda s, t: step(world, process, TauLeaping(), logits, s, t), [6, 4, 2, 0])
    assert chi_square(torch.bincount(world.index(found.x0), minlength=9)[None], law[None]) > 1e-3
    if name != "absorbing":
        assert (found.calls == 3).all()
    words, time = world.words, torch.full((9,), 2)
    last = matrix(world, process.predict(logits[1], words, time).probs)
    assert distance(step(world, process, TauLeaping(), logits, 0, 2), last) < 1e-12


def test_a_large_vocabulary_in_float32():
    process = DiscreteDiffusion(AbsorbingTransition(50_258, 8))
    seeded = torch.Generator().manual_seed(8)
    table = torch.randn(1, 6, 50_258, generator=seeded)
    x = draw(
        process, lambda x_t, t: table.expand(len(x_t), -1, -1), (2, 6), sampler=TauLeaping(), generator=seeded
    )
    assert (x.x0 < 50_257).all()


def test_other_processes_are_refused():
    assert "HybridTransition: use Ancestral or Tweedie" in refusal(
        TauLeaping(), DiscreteDiffusion(HybridTransition(4, 5))
    )
    table = TableDiffusion(5, transitions=[UniformTransition(3, 5)], columns=[0, 0])
    assert "TauLeaping" in refusal(TauLeaping(), table)
