"""Splits are disjoint, contiguous, cover the text, and are text8's where the text is as long."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3pm.data.corpora import Corpus
from d3pm.data.prepare import split_streams
from d3pm.data.readers import Text
from d3pm.data.splits import contiguous
from d3pm.errors import ConfigError, DataError


@given(st.integers(0, 10**12), st.sampled_from([("validation", "test"), ("test",), ("validation",), ()]))
def test_contiguous_and_covering(total, held_out):
    parts = list(contiguous(total, held_out).values())
    assert parts[0].start == 0
    assert parts[-1].stop == total
    assert all(first.stop == second.start for first, second in pairwise(parts))
    assert all(abs(len(part) - 0.05 * total) <= 1 for part in parts[1:])


def test_text8_is_cut_as_everyone_cuts_it():
    assert contiguous(100_000_000) == {
        "train": range(90_000_000),
        "validation": range(90_000_000, 95_000_000),
        "test": range(95_000_000, 100_000_000),
    }


def test_sizes_count_from_the_start():
    parts = contiguous(100, sizes=[70, 10, 5])
    assert parts == {"train": range(70), "validation": range(70, 80), "test": range(80, 85)}


@pytest.mark.parametrize("sizes", [[90, 10], [90, 10, 1], [90, 0, 5], [-1, 50, 50]])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(ConfigError, match=r"sizes: .* do not fit a text of 100"):
        contiguous(100, sizes=sizes)


@given(st.text(alphabet="ab c", min_size=1, max_size=300))
def test_the_parts_of_a_text_join_to_it(text):
    streams = split_streams(Corpus("here", {"train": Text(text)}), normalize=None, separator="\n")
    parts = ["".join(stream) for stream in streams.values()]
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [len(part) for part in contiguous(len(text)).values()]


def test_a_missing_split_is_cut_from_the_training_text():
    corpus = Corpus("here", {"train": Text("ab" * 50), "test": Text("c" * 7)})
    streams = {name: "".join(stream) for name, stream in split_streams(corpus, None, "\n").items()}
    assert list(streams) == ["train", "validation", "test"]
    assert {name: len(text) for name, text in streams.items()} == {"train": 95, "validation": 5, "test": 7}
    assert streams["train"] + streams["validation"] == "ab" * 50


def test_own_splits_are_left_alone():
    corpus = Corpus("here", {"train": Text("aa"), "validation": Text("b"), "test": Text("c")})
    assert ["".join(s) for s in split_streams(corpus, None, "\n").values()] == ["aa", "b", "c"]
    with pytest.raises(ConfigError, match="has its own splits"):
        split_streams(corpus, None, "\n", sizes=[1, 1, 1])


def test_an_empty_text():
    with pytest.raises(DataError, match="holds no text"):
        split_streams(Corpus("here", {"train": Text("")}), None, "\n")
