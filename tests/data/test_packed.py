"""Whole documents in rows: nothing is lost, nothing is cut that fits, and little is filled up."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d3pm.data import PaddedDocuments, TextData, WholeDocuments
from d3pm.data.blocks import first_fit
from d3pm.errors import ConfigError


def corpus(lengths, seed=0):
    """Documents of these lengths, and where they end."""
    tokens = np.random.default_rng(seed).integers(1, 100, sum(lengths)).astype(np.uint8)
    return tokens, np.cumsum(lengths)


def plain_first_fit(lengths, size):
    rows = []
    for length in lengths:
        found = next((row for row, used in enumerate(rows) if used + length <= size), None)
        if found is None:
            rows.append(0)
            found = len(rows) - 1
        rows[found] += length
        yield found


lists = st.lists(st.integers(1, 12), min_size=1, max_size=80)


@given(lists)
def test_first_fit(lengths):
    assert first_fit(lengths, 12, open_rows=100).tolist() == list(plain_first_fit(lengths, 12))
    bounded = first_fit(lengths, 12, open_rows=3)
    assert np.bincount(bounded, weights=lengths).max() <= 12
    assert sorted(set(bounded.tolist())) == list(range(bounded.max() + 1))


def test_the_fullest_row_is_closed():
    assert first_fit([3, 4, 2, 2, 1], size=5, open_rows=2).tolist() == [0, 1, 0, 2, 1]
    assert first_fit([3, 4, 3, 1], size=5, open_rows=2).tolist() == [0, 1, 2, 0]  # 4 of 5 is full enough


@given(lists)
def test_every_document_is_in_one_row_and_whole(lengths):
    tokens, ends = corpus([1 + length for length in lengths])
    rows, size = WholeDocuments(tokens, ends, block_size=10), 10
    found = []
    for item in (rows[row] for row in range(len(rows))):
        assert torch.equal(item["attention_mask"], (item["segments"] > 0).long())
        real = item["segments"][item["segments"] > 0]
        assert (real.diff() >= 0).all()  # documents lie one after the other, filling at the end
        assert not item["x0"][item["segments"] == 0].any()
        found += [tuple(item["x0"][item["segments"] == n].tolist()) for n in range(1, int(real.max()) + 1)]
    documents = [tuple(part[:size].tolist()) for part in np.split(tokens, ends[:-1])]
    assert sorted(found) == sorted(documents)


def test_rows_are_found_from_the_end_too():
    rows = WholeDocuments(*corpus([3, 4, 2]), block_size=5)
    assert all(torch.equal(rows[-1][key], rows[len(rows) - 1][key]) for key in rows[0])
    for kind in (WholeDocuments, PaddedDocuments):
        assert len(list(kind(*corpus([3, 4, 2]), block_size=5))) == len(
            kind(*corpus([3, 4, 2]), block_size=5)
        )


def test_as_data(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(["ab", "cdefgh", "a", "bcd"] * 40))
    data = TextData(str(tmp_path / "a.txt"), block_size=8, documents="whole")
    assert data.split("train")[0].keys() == {"x0", "attention_mask", "segments"}
    assert data.codec.decode(data.split("train")[0]["x0"][None]) == ["abcdefgh"]
    assert data.split("train")[0]["segments"].tolist() == [1, 1, 2, 2, 2, 2, 2, 2]
    assert "are cut" not in data.describe()
    assert (
        "are cut to block_size=4"
        in TextData(str(tmp_path / "a.txt"), block_size=4, documents="whole").describe()
    )
    with pytest.raises(ConfigError, match="documents: 'x' is unknown: give one of packed, padded, whole"):
        TextData(str(tmp_path / "a.txt"), documents="x")


def test_less_is_filled_up_than_with_a_document_a_row(real_data):
    real_data("wiki_summaries")
    data = TextData("wiki_summaries", normalize="text8", documents="whole")
    tokens, ends = data._prepared.tokens("train"), data._prepared.ends("train")
    for size, padded, whole in [(512, 0.19, 0.08), (1024, 0.52, 0.05), (2048, 0.76, 0.03)]:
        assert share_filled_up(PaddedDocuments(tokens, ends, size)) == pytest.approx(padded, abs=0.01)
        assert share_filled_up(WholeDocuments(tokens, ends, size)) < whole


def share_filled_up(rows):
    real = np.minimum(np.diff(rows.ends, prepend=0), rows.block_size).sum()
    return 1 - real / (len(rows) * rows.block_size)
