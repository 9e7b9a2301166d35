r"""Text of a-z and spaces written in pieces of words: byte pairs, found in one text and counted in any other.

A piece stays inside a word, which has the space before it. A law of pieces is a law of texts, whatever the pieces are:

.. math:: -\log p(\text{text}) \le -\log p(n) - \log p(\text{pieces} \mid n)

where n is how many pieces the text is written in; so bounds on the right are bounds on the left, bit by bit.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerFast

from d3pm.data.codec import TextCodec
from d3pm.data.normalize import TEXT8_ALPHABET

LEARNT_FROM = 10_000_000
CHUNK = 100_000


class Pieces:
    """Symbols 0 … 26 to pieces.

    Args:
        text: Where the pieces are found, uint8: in its first ten million symbols.
        size: How many pieces, the 27 letters among them.
        block: Symbols of the blocks of which :meth:`bits_of_length` knows how many pieces they have.
        counted: So many blocks of ``text``, spread evenly, tell it.

    >>> import torch
    >>> pieces = Pieces(symbols("the cat and the hat " * 20), size=32, block=40)
    >>> pieces.codec.decode(torch.from_numpy(pieces.encode(symbols("the hat"))[:, None]))
    ['the', ' ', 'h', 'at']
    """

    def __init__(self, text: np.ndarray, size: int, block: int, counted: int = 20_000) -> None:
        self.codec = TextCodec(learn(letters(text[:LEARNT_FROM]), size))
        starts = np.linspace(0, max(len(text) - block, 0), counted).astype(np.int64)
        blocks = [text[start : start + block] for start in starts]
        counts = np.bincount([len(ids) for ids in self.encode_each(blocks)], minlength=block + 1) + 0.5
        self.law = counts[1 : block + 1] / counts[1 : block + 1].sum()

    def encode(self, text: np.ndarray) -> np.ndarray:
        """A long text, int32 (n,), chunk by chunk: words stay whole, so that nothing depends on the chunks."""
        whole, ends = letters(text), [0]
        while ends[-1] < len(whole):
            space = whole.find(" ", ends[-1] + CHUNK)
            ends.append(space if space > 0 else len(whole))
        chunks = (whole[start:end] for start, end in pairwise(ends))
        return np.concatenate([ids.astype(np.int32) for ids in self.codec.encode_all(chunks)])

    def encode_each(self, texts: list[np.ndarray]) -> list[np.ndarray]:
        """Short texts, each on its own, int64 (n,)."""
        return list(self.codec.encode_all(letters(text) for text in texts))

    def bits_of_length(self, count: int) -> float:
        """What it takes to say that a block has so many pieces, by those counted and half a block of every number."""
        return float(-np.log2(self.law[count - 1]))


def learn(text: str, size: int) -> PreTrainedTokenizerFast:
    """The byte pairs of a text, as many as asked for."""
    if size < len(TEXT8_ALPHABET):
        raise SystemExit(
            f"pieces={size}: the letters alone are {len(TEXT8_ALPHABET)}: give that many or more"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(TEXT8_ALPHABET), show_progress=False)
    tokenizer.train_from_iterator((text[i : i + CHUNK] for i in range(0, len(text), CHUNK)), trainer)
    if (reached := tokenizer.get_vocab_size()) != size:
        raise SystemExit(f"pieces={size}: the text yields {reached}: give {len(TEXT8_ALPHABET)} … {reached}")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def letters(text: np.ndarray) -> str:
    """Symbols as they are read."""
    return np.frombuffer(TEXT8_ALPHABET.encode(), dtype=np.uint8)[text].tobytes().decode()


def symbols(text: str) -> np.ndarray:
    """Letters as numbers 0 … 26, uint8.

    >>> letters(symbols("a cat"))
    'a cat'
    """
    return np.array([TEXT8_ALPHABET.index(letter) for letter in text], dtype=np.uint8)
