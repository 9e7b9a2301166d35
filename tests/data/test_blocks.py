"""Blocks do not overlap, cover the stream, and reach worker processes without carrying it along."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from d3pm.data.blocks import PaddedDocuments, TokenBlocks, TokenFile
from d3pm.errors import DataError


@pytest.fixture
def tokens(tmp_path) -> TokenFile:
    np.arange(1003, dtype=np.uint16).tofile(tmp_path / "tokens")
    return TokenFile(tmp_path / "tokens", "uint16")


def test_blocks_tile_the_stream(tokens):
    blocks = TokenBlocks(tokens, block_size=10)
    assert len(blocks) == 100
    assert torch.equal(torch.cat([block["x0"] for block in blocks]), torch.arange(1000))
    assert blocks[0]["x0"].dtype == torch.int64
    assert torch.equal(blocks[-1]["x0"], blocks[99]["x0"])
    with pytest.raises(IndexError):
        blocks[100]


def test_a_batch_is_its_items(tokens):
    blocks = TokenBlocks(tokens, block_size=7)
    places = [5, 0, 142, 5]
    batch = blocks.__getitems__(places)
    assert [item["x0"].tolist() for item in batch] == [blocks[i]["x0"].tolist() for i in places]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_see_the_same(tokens, method):
    blocks = TokenBlocks(tokens, block_size=100)
    blocks[0]  # mapped before the worker starts
    loader = DataLoader(blocks, batch_size=5, num_workers=1, multiprocessing_context=method)
    assert torch.equal(torch.cat([batch["x0"] for batch in loader]).flatten(), torch.arange(1000))


def test_pickling_leaves_the_stream_on_the_disk(tmp_path):
    np.zeros(10**6, np.uint8).tofile(tmp_path / "tokens")
    blocks = TokenBlocks(TokenFile(tmp_path / "tokens", "uint8"), block_size=10)
    assert len(blocks.tokens) == 10**6
    assert len(pickle.dumps(blocks)) < 1000


@pytest.mark.parametrize("length", [0, 9])
def test_shorter_than_a_block(length, tmp_path):
    np.zeros(length, np.uint8).tofile(tmp_path / "tokens")
    with pytest.raises(
        DataError, match=rf"test split has {length} tokens, less than one block of 10"
    ) as caught:
        TokenBlocks(TokenFile(tmp_path / "tokens", "uint8"), block_size=10, name="test split")
    assert "lower block_size" in str(caught.value)


def test_exactly_one_block():
    assert len(TokenBlocks(np.arange(10), block_size=10)) == 1


def test_a_document_a_row():
    rows = PaddedDocuments(np.array([5, 6, 7, 8, 9, 1], np.uint8), np.array([2, 5, 6]), block_size=2)
    assert [row["x0"].tolist() for row in rows] == [[5, 6], [7, 8], [1, 0]]
    assert [row["attention_mask"].tolist() for row in rows] == [[1, 1], [1, 1], [1, 0]]
    assert rows[-1]["x0"].tolist() == [1, 0]
    batch = next(iter(DataLoader(rows, batch_size=3)))
    assert batch["x0"].shape == batch["attention_mask"].shape == (3, 2)
    assert batch["x0"].dtype == batch["attention_mask"].dtype == torch.int64


def test_no_documents():
    with pytest.raises(DataError, match="the train split has none"):
        PaddedDocuments(np.empty(0, np.uint8), np.empty(0, np.int64), block_size=2, name="train split")
