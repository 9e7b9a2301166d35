"""The unigram law: what the rows hold and nothing else, with an entropy that bounds what it should."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d3pm.data import PaddedDocuments, TokenBlocks, frequencies
from d3pm.errors import DataError
from d3pm.evaluation import unigram_entropy
from d3pm.schedules import MutualInformationSchedule
from d3pm.specs import build, describe
from d3pm.transitions import MarginalTransition


def rows(tokens, block_size: int = 1) -> TokenBlocks:
    return TokenBlocks(np.array(tokens, np.uint8), block_size)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_every_symbol_is_counted(tokens):
    found = frequencies(rows(tokens), num_symbols=5)
    expected = [tokens.count(symbol) / len(tokens) for symbol in range(5)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)


def test_many_batches_count_as_one():
    tokens = np.random.default_rng(0).integers(0, 7, 5000)
    expected = torch.bincount(torch.from_numpy(tokens), minlength=7) / 5000
    torch.testing.assert_close(frequencies(rows(tokens, 2), 7), expected.double(), rtol=1e-6, atol=0)


def test_what_no_row_shows_does_not_count():
    tokens, ends = np.array([0, 1, 2, 2, 1]), np.array([4, 5])
    assert frequencies(TokenBlocks(tokens, 4), 3).tolist() == [0.25, 0.25, 0.5]
    padded = PaddedDocuments(tokens, ends, block_size=3)  # 0 1 2 | 1 - -
    assert frequencies(padded, 3).tolist() == [0.25, 0.5, 0.25]


def test_the_law_goes_into_a_schedule_and_its_description():
    law = frequencies(rows([0, 1, 1, 2]), 3)
    schedule = MutualInformationSchedule(law, MarginalTransition(law, num_steps=4))
    again = build(describe(schedule))
    assert torch.equal(again.alpha_bars(4), schedule.alpha_bars(4))


def test_entropy_of_the_uniform_law():
    assert unigram_entropy(rows(range(8)), 8) == pytest.approx(3.0)


def test_entropy_of_certainty_with_symbols_that_never_occur():
    assert unigram_entropy(rows([1, 1]), 3) == 0.0


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30).filter(lambda found: len(set(found)) > 1))
def test_entropy_is_between_nothing_and_uniform(tokens):
    assert 0 < unigram_entropy(rows(tokens), 10) <= np.log2(len(set(tokens))) + 1e-12


def test_a_symbol_too_many():
    for law in (frequencies, unigram_entropy):
        with pytest.raises(DataError, match="num_symbols: 3 is too few for token 3"):
            law(rows([0, 3]), num_symbols=3)
