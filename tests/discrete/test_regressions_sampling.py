"""What was wrong once in sampling categorical data, each with its case."""

import itertools

import pytest
import torch
from oracle import Chain, World, chi_square, random_law

from d3pm import AbsorbingTransition, DiscreteDiffusion, GeneratorTransition
from d3pm.discrete.constraints import Constrained
from d3pm.discrete.entropy_bounded import EntropyBounded
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError, D3PMError
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.sampling import draw

RATES = [[-2.0, 1.0, 0.0, 1.0], [1.0, -2.0, 0.0, 1.0], [0.0, 1.0, -2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
def test_rows_without_a_mask_are_not_finished_where_masks_are_not_the_only_noise(form):
    """A state swallows all, but others turn into each other too: a row without a mask has steps to take yet."""
    kernel = GeneratorTransition(torch.tensor(RATES), num_steps=6)
    process = DiscreteDiffusion(kernel, reverse_form=form)
    chain = Chain.of(kernel)
    world = World(chain, 2, random_law(chain, 2, seed=1))
    logits = world.exact_logits()
    shape = (20_000, 2)
    found = draw(process, world.network(logits), shape, generator=seeded(1))
    counts = torch.bincount(world.index(found.x0), minlength=len(world.words))
    law = world.model_law(logits, list(range(6, -1, -1)), form)
    assert process.transition.absorbing_state == 3
    assert chi_square(counts[None], law[None]) > 1e-3


def test_a_guide_around_a_wrapper_that_rules_states_out_is_refused():
    process = DiscreteDiffusion(AbsorbingTransition(5, 10))

    def network(x_t, t, labels=None):
        return torch.zeros(*x_t.shape, 5)

    allowed = torch.ones(3, 5, dtype=torch.bool)
    for cut in (Constrained(process, network, allowed), Truncated(process, network, top_p=0.5)):
        with pytest.raises(ConfigError, match=f"{type(cut).__name__}, which rules states out"):
            ClassifierFreeGuidance(cut, 2.0, {"labels": None})


def test_a_network_that_rules_out_all_that_is_allowed_is_told():
    process = DiscreteDiffusion(AbsorbingTransition(4, 10))

    def network(x_t, t):
        return torch.tensor([-torch.inf, 0.0, 0.0, 0.0]).expand(*x_t.shape, 4)

    only_the_first = torch.tensor([True, False, False, False]).expand(2, 4)
    with pytest.raises(D3PMError, match="believes in no allowed state"):
        draw(process, Constrained(process, network, only_the_first), (3, 2), generator=seeded(2))


def test_a_temperature_near_nothing_is_greedy_and_not_a_number():
    process = DiscreteDiffusion(AbsorbingTransition(4, 10))
    network = Truncated(process, lambda x_t, t: torch.zeros(*x_t.shape, 4) - x_t.new_ones(4), 1e-40)
    logits = network(torch.full((1, 1), 3), torch.tensor([5]))
    assert not logits.isnan().any()


@pytest.mark.parametrize(("steps", "length"), itertools.product([3, 10, 100], [3, 7, 10]))
def test_an_entropy_bounded_row_is_told_the_step_its_masks_are_left_in(steps, length):
    """Of n entries on a linear schedule k masks are left at T k / n: in that step, whatever the rounding."""
    process, told = DiscreteDiffusion(AbsorbingTransition(4, steps)), {}

    def network(x_t, t):
        told[int((x_t[0] == 3).sum())] = int(t[0])
        places = torch.arange(x_t.shape[1], dtype=torch.float64)
        return (places[:, None] * torch.tensor([0.1, 0.2, 0.3, 0.0])).expand(*x_t.shape, 4)

    draw(process, network, (1, length), sampler=EntropyBounded(gamma=0.0), generator=seeded(3))
    assert told == {k: max(-(-steps * k // length), 1) for k in range(1, length + 1)}
