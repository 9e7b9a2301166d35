"""Greedy decoding: a function of where it starts, equal to the enumerated argmax."""

import itertools

import pytest
import torch
from oracle import Chain, World, random_law
from unmasking import beliefs, exact, make, seeded, time_free

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.discrete.greedy import Greedy
from d3pm.discrete.table import TableDiffusion
from d3pm.errors import ConfigError
from d3pm.sampling import draw, sample
from d3pm.transitions import MatrixTransition

PROCESS, WORLD = make(num_states=4, length=4, num_steps=8)
RANDOM = WORLD.random_logits(seed=1)[0] * 2


def most_likely(world: World, table: torch.Tensor, word: list[int], numbers: list[int]) -> list[int]:
    """The slow twin: of the masks, so many go at a time, those of the largest belief, to the state of that belief."""
    for number in numbers:
        belief = beliefs(world, table)[world.index(torch.tensor([word]))[0]]
        masked = [i for i, x in enumerate(word) if x == world.chain.absorbing]
        for place in sorted(masked, key=lambda i: -float(belief[i].max()))[:number]:
            word = [*word[:place], int(belief[place].argmax()), *word[place + 1 :]]
    return word


@pytest.mark.parametrize(("times", "numbers"), [(None, [1, 1, 1, 1]), ([8, 4, 0], [2, 2]), ([8, 0], [4])])
@pytest.mark.parametrize("table", [RANDOM, exact(WORLD)], ids=["random", "exact"])
def test_under_masks_it_is_the_enumerated_argmax(times, numbers, table):
    expected = most_likely(WORLD, table, [3] * 4, numbers)
    network = time_free(WORLD, table)
    found = draw(PROCESS, network, (3, 4), steps=times, sampler=Greedy(), generator=seeded(0))
    assert found.x0.tolist() == [expected] * 3
    assert (found.calls == len(numbers)).all()


def test_every_prompt_has_its_one_completion():
    known = torch.tensor([True, False, False, True]).expand(9, 4)
    x0 = torch.tensor([[a, 0, 0, b] for a, b in itertools.product(range(3), repeat=2)])
    draws = [
        sample(
            PROCESS,
            time_free(WORLD, RANDOM),
            (9, 4),
            sampler=Greedy(),
            known=known,
            x0=x0,
            generator=seeded(seed),
        )
        for seed in (1, 2)
    ]
    assert torch.equal(*draws)
    for row, (a, _, _, b) in zip(draws[0].tolist(), x0.tolist(), strict=True):
        assert row == most_likely(WORLD, RANDOM, [a, 3, 3, b], [1, 1])


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
@pytest.mark.parametrize("kernel", [UniformTransition, MatrixTransition])
@pytest.mark.parametrize("times", [[5, 0], [5, 3, 1, 0]])
def test_under_other_kernels_it_is_the_mode_of_every_step(form, kernel, times):
    transition = kernel.example(4, 5)
    world = World(Chain.of(transition), 2, random_law(Chain.of(transition), 2, seed=3))
    process, logits = DiscreteDiffusion(transition, form), world.random_logits(seed=4) * 2
    start = world.words.clone()
    place = torch.arange(len(start))
    for t, s in itertools.pairwise(times):
        place = world.reverse(logits, s, t, form)[place].argmax(-1)
    draws = [
        sample(
            process,
            world.network(logits),
            start.shape,
            x_T=start,
            steps=times,
            sampler=Greedy(),
            generator=seeded(seed),
        )
        for seed in (5, 6)
    ]
    assert torch.equal(*draws)
    assert torch.equal(draws[0], world.words[place])


@pytest.mark.parametrize("shape", [(7,), (5, 2, 3, 2)])
def test_any_shape_and_a_mask_in_the_middle(shape):
    process = DiscreteDiffusion(AbsorbingTransition(5, 10, mask_index=2))
    logits = torch.tensor([0.0, 0.5, 9.0, 1.0, 0.5])
    x = sample(process, lambda x_t, t: logits.expand(*x_t.shape, 5), shape, sampler=Greedy())
    assert torch.equal(x, torch.full(shape, 3))


def test_other_processes_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"Greedy serves .* take Ancestral") as error:
        sample(TableDiffusion.example()[0], time_free(WORLD, RANDOM), (2, 4), sampler=Greedy())
    assert "\n" not in str(error.value)
