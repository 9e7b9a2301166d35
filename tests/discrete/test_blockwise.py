"""Rows drawn block by block follow the exact law where a block needs to see no more than its context."""

from dataclasses import dataclass

import pytest
import torch
from oracle import Chain, World, all_words, chi_square

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.discrete.blocks import extend
from d3pm.errors import ConfigError
from d3pm.sampling import Sampler, draw

K, MASK, BLOCK, CONTEXT, LENGTH, NUM = 3, 2, 2, 1, 6, 20_000
PROCESS = DiscreteDiffusion(AbsorbingTransition(K, 3))
START = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)
MOVES = torch.tensor(
    [[0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
)  # START is its law


def markov(length: int) -> torch.Tensor:
    """The law of words (K ** length,) of a stationary chain of order 1."""
    words = all_words(K, length)
    law = START[words[:, 0]]
    for before, after in zip(words.T, words.T[1:], strict=False):
        law = law * MOVES[before, after]
    return law


class Oracle:
    """The exact belief about a window of a stationary chain; it counts the rows it is asked about."""

    time_conditioned = False

    def __init__(self) -> None:
        self.world = World(Chain.of(PROCESS.transition), BLOCK + CONTEXT, markov(BLOCK + CONTEXT))
        self.table, self.rows = self.world.exact_logits()[0], 0  # of every time but T
        self.widths: set[int] = set()

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.rows += len(x_t)
        self.widths.add(x_t.shape[1])
        return self.table[self.world.index(x_t)]


@dataclass(frozen=True)
class OneByOne(Sampler):
    """Reveals one entry a step, the left-most first: exact in as many steps as there are entries."""

    def step(self, process, network, x_t, s, t, generator):
        found = process.predict(network(x_t, t), x_t, t).sample(generator)
        masked = x_t == MASK
        first = masked & (masked.cumsum(1) == 1)
        return torch.where(first, found, x_t)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(x: torch.Tensor) -> torch.Tensor:
    places = (x * K ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
    return torch.bincount(places, minlength=K ** x.shape[1])[None]


def samplers() -> list[Sampler]:
    found: list[Sampler] = [OneByOne()]
    try:
        from d3pm.discrete.first_hitting import FirstHitting
    except ImportError:
        return found
    return [*found, FirstHitting()]


def test_the_stationary_law_is_stationary():
    assert torch.allclose(START @ MOVES, START)


@pytest.mark.parametrize("sampler", samplers(), ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("length", [LENGTH, 5])  # a whole number of blocks or not
def test_many_blocks_of_a_markov_chain_have_its_exact_law(sampler, length):
    oracle = Oracle()
    found = extend(
        PROCESS,
        oracle,
        (NUM, length),
        block=BLOCK,
        context=CONTEXT,
        sampler=sampler,
        generator=seeded(length),
    )
    assert chi_square(counts(found.x0), markov(length)[None]) > 1e-3
    assert oracle.widths == {BLOCK + CONTEXT}
    assert int(found.calls.sum()) == oracle.rows
    assert (found.calls == length).all()  # one at a time


def test_a_prompt_longer_than_a_block_stays_and_the_rest_is_what_follows_it():
    prompt = torch.tensor([0, 1, 1, 0]).expand(NUM, 4)
    x0 = torch.cat([prompt, torch.zeros(NUM, 2, dtype=torch.int64)], 1)
    known = torch.tensor([True] * 4 + [False] * 2).expand(NUM, 6)
    found = extend(
        PROCESS,
        Oracle(),
        (NUM, 6),
        block=BLOCK,
        context=CONTEXT,
        known=known,
        x0=x0,
        sampler=OneByOne(),
        generator=seeded(1),
    )
    assert torch.equal(found.x0[:, :4], prompt)
    law = (MOVES[0][:, None] * MOVES).flatten()
    assert chi_square(counts(found.x0[:, 4:]), law[None]) > 1e-3
    assert (found.calls == 2).all()  # what the prompt covers is not drawn


def test_blanks_in_a_prompt_are_filled_and_what_is_given_in_a_block_is_seen():
    x0 = torch.tensor([0, 0, 1, 0, 0]).expand(NUM, 5)
    known = torch.tensor([True, False, True, False, False]).expand(NUM, 5)
    found = extend(
        PROCESS,
        Oracle(),
        (NUM, 5),
        block=BLOCK,
        context=CONTEXT,
        known=known,
        x0=x0,
        sampler=OneByOne(),
        generator=seeded(2),
    )
    assert torch.equal(found.x0[known], x0[known])
    bridge = MOVES[0] * MOVES[:, 1]
    assert chi_square(counts(found.x0[:, 1:2]), (bridge / bridge.sum())[None]) > 1e-3


def test_a_row_that_fits_is_drawn_at_once():
    options = {"steps": 2, "generator": seeded(3)}
    ours = extend(PROCESS, Oracle(), (50, 3), block=2, context=1, **options)
    theirs = draw(PROCESS, Oracle(), (50, 3), steps=2, generator=seeded(3))
    assert torch.equal(ours.x0, theirs.x0)
    assert torch.equal(ours.calls, theirs.calls)


def test_nothing_is_drawn_where_all_is_given():
    x0 = torch.ones(2, 7, dtype=torch.int64)
    found = extend(
        PROCESS, Oracle(), (2, 7), block=2, context=1, known=torch.ones(2, 7, dtype=torch.bool), x0=x0
    )
    assert torch.equal(found.x0, x0)
    assert found.calls.tolist() == [0, 0]
    assert found.forwards == 0


def test_any_kernel_and_what_is_watched_grows():
    process, widths = DiscreteDiffusion(UniformTransition(K, 4)), []
    network = lambda x_t, t: torch.zeros(*x_t.shape, K, dtype=torch.float64)  # noqa: E731
    found = extend(
        process, network, (3, 9), block=3, context=2, steps=2, watch=lambda s, x: widths.append(x.shape[1])
    )
    assert widths == [5, 5, 8, 8, 9, 9]
    assert found.x0.shape == (3, 9)
    assert found.forwards == 6


def test_what_cannot_be_is_refused():
    for shape, block, context, reason in (
        ((2, 3, 4), 2, 1, "shape"),
        ((2, 3), 0, 1, "block"),
        ((2, 3), 1, -1, "context"),
    ):
        with pytest.raises(ConfigError, match=reason):
            extend(PROCESS, Oracle(), shape, block=block, context=context)
