"""The unigram law: counted right across slices, with an entropy that bounds what it should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3pm.data import TokenBlocks, frequencies, unigram, unigram_entropy
from d3pm.errors import DataError


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.integers(1, 20))
def test_counts_do_not_depend_on_the_slices(tokens, size):
    blocks = TokenBlocks(np.array(tokens, np.uint8), block_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unigram, "_SLICE", size)
        found = frequencies(blocks, num_symbols=5)
    expected = [tokens.count(symbol) / len(tokens) for symbol in range(5)]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_entropy_of_the_uniform_law():
    assert unigram_entropy(np.full(8, 1 / 8)) == 3.0


def test_entropy_of_certainty_with_symbols_that_never_occur():
    assert unigram_entropy(np.array([0.0, 1.0, 0.0])) == 0.0


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=30))
def test_entropy_is_between_nothing_and_uniform(weights):
    law = np.array(weights) / sum(weights)
    assert 0 < unigram_entropy(law) <= np.log2(len(law)) + 1e-12


def test_a_symbol_too_many():
    with pytest.raises(DataError, match="num_symbols: 3 is too few for token 3"):
        frequencies(TokenBlocks(np.array([0, 3]), 1), num_symbols=3)
