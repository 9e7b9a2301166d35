"""The analytic sampler: every entry's exact marginal, by the belief and by the paper's formula of scores."""

import pytest
import torch
from leaps import errors, refusal, slope, world_of
from oracle import concrete_subclasses

from d3pm import (
    AbsorbingTransition,
    DiscreteDiffusion,
    GeneratorTransition,
    MarginalTransition,
    TableDiffusion,
    UniformTransition,
)
from d3pm.discrete.tweedie import Tweedie
from d3pm.sampling import Ancestral, sample
from d3pm.schedules import ReciprocalSchedule
from d3pm.transitions.base import Transition

STEPS = [(2, 5), (4, 5), (1, 2), (0, 3), (3, 6)]


def laws(kernel, s: int, t: int):
    """The world, its words that occur at t, q_t there, and the sampler's law of every entry."""
    world = world_of(kernel, 2)
    now = world.law @ world.forward(0, t)
    place = (now > 0).nonzero().flatten()
    low, high = torch.full((len(place),), s), torch.full((len(place),), t)
    process = DiscreteDiffusion(kernel, "d3pm")
    law = Tweedie().law(process, world.exact_logits()[t - 1, place], world.words[place], low, high)
    return world, now, place, law.probs


@pytest.mark.parametrize("kind", concrete_subclasses(Transition), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(("s", "t"), STEPS)
def test_with_the_exact_belief_it_is_the_marginal_of_the_reverse_chain(kind, s, t):
    world, now, place, found = laws(kind.example(4, 6), s, t)
    joint = (world.law @ world.forward(0, s))[:, None] * world.forward(s, t)  # (x_s, x_t)
    value = torch.nn.functional.one_hot(world.words, 4).double()
    expected = torch.einsum("st,slk->tlk", joint / torch.where(now > 0, now, 1.0), value)[place]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "kernel",
    [
        AbsorbingTransition(3, 6),
        UniformTransition(3, 6),
        MarginalTransition([0.6, 0.3, 0.1], 6),
        GeneratorTransition([[-1.5, 1.0, 0.5], [0.2, -0.7, 0.5], [0.0, 1.0, -1.0]], 6),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
@pytest.mark.parametrize(("s", "t"), [(2, 5), (4, 5), (1, 2)])
def test_it_is_the_formula_of_scores(kernel, s, t):
    """[score exp(-sigma Q)](y) exp(sigma Q)(y, x_t), with the score q_t(word with y) / q_t(word)."""
    world, now, place, found = laws(kernel, s, t)
    between = world.chain.between(s, t)
    for row, word in zip(place.tolist(), world.words[place], strict=True):
        for entry in (0, 1):
            changed = word.repeat(3, 1)
            changed[:, entry] = torch.arange(3)
            score = now[world.index(changed)] / now[row]
            expected = (score @ torch.linalg.inv(between)) * between[:, word[entry]]
            at = int((place == row).nonzero())
            torch.testing.assert_close(found[at, entry], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", concrete_subclasses(Transition), ids=lambda cls: cls.__name__)
def test_one_entry_has_the_law_of_the_data_at_any_number_of_steps(kind):
    kernel = kind.example(4, 6)
    found = errors(world_of(kernel, 1), DiscreteDiffusion(kernel), Tweedie(), [1, 2, 3, 6])
    assert max(found) < 1e-10


@pytest.mark.parametrize(
    "kernel",
    [
        AbsorbingTransition(3, 128),
        UniformTransition(3, 128, ReciprocalSchedule()),
        GeneratorTransition([[-1.5, 1.0, 0.5], [0.2, -0.7, 0.5], [0.0, 1.0, -1.0]], 128),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_what_drawing_entries_apart_costs_is_of_first_order(kernel):
    steps = [8, 16, 32, 64, 128]
    found = errors(world_of(kernel, 2), DiscreteDiffusion(kernel), Tweedie(), steps)
    assert -slope(steps, found) == pytest.approx(1, abs=0.08)


def test_it_is_ancestral_sampling_in_the_mixture_form():
    kernel = UniformTransition(5, 12)

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(x_t.double().sum(-1)[:, None, None] + torch.arange(5)).expand(-1, 7, -1)

    drawn = [
        sample(process, network, (32, 7), sampler=sampler, generator=torch.Generator().manual_seed(1))
        for process, sampler in (
            (DiscreteDiffusion(kernel, "d3pm"), Tweedie()),
            (DiscreteDiffusion(kernel, "mixture"), Ancestral()),
            (DiscreteDiffusion(kernel, "d3pm"), Ancestral()),
        )
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_tables_are_refused():
    table = TableDiffusion(5, transitions=[UniformTransition(3, 5)], columns=[0, 0])
    assert "TableDiffusion: use Ancestral" in refusal(Tweedie(), table)
