"""Text as integers: one codec for characters and for byte pairs."""

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.data.normalize import TEXT8_ALPHABET
from d3pm.data.tokenizers import character_tokenizer, load_tokenizer, train_byte_pairs
from d3pm.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MASK_SIGNS = "_░█"
"""How the mask is shown: the first of these that is no symbol itself."""

_ALL_CHARACTERS = 0x110000
_PARTS = ("model", "normalizer", "pre_tokenizer", "decoder", "added_tokens")


class TextCodec(Codec):
    """Text to integers and back by a ``transformers`` tokenizer; saved as its ``tokenizer.json``.

    Characters take a numpy look-up table instead of the tokenizer, with the same result (10⁸ characters in
    a second or two). No special token is ever added, so ``decode`` gives back exactly what was encoded
    unless the tokenizer itself normalises text.

    Args:
        tokenizer: Any fast tokenizer. :meth:`characters` and :meth:`byte_pairs` make the usual ones.

    Examples:
        >>> codec = TextCodec.characters()
        >>> x = codec.encode("a cat")
        >>> x.tolist(), codec.num_symbols
        ([1, 0, 3, 1, 20], 27)
        >>> x[2] = codec.num_symbols  # the mask
        >>> codec.decode(x[None])
        ['a _at']
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.tokenizer = tokenizer
        self.num_symbols = max(tokenizer.get_vocab().values()) + 1

    @classmethod
    def characters(cls, alphabet: str = TEXT8_ALPHABET) -> Self:
        """One symbol a character, numbered as in ``alphabet``."""
        return cls(character_tokenizer(alphabet))

    @classmethod
    def byte_pairs(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Byte pairs learnt from ``texts``; nothing is unknown to them."""
        return cls(train_byte_pairs(texts, vocab_size))

    def __eq__(self, other: object) -> bool:
        """Whether both tokenizers have the same vocabulary and treat text alike."""
        if not isinstance(other, TextCodec):
            return NotImplemented
        return _parts(self.tokenizer) == _parts(other.tokenizer)

    def __hash__(self) -> int:
        return hash(_parts(self.tokenizer))

    def encode(self, text: str) -> Tensor:
        """``text`` to its symbols, int64 ``(n,)``.

        Raises:
            DataError: If a symbol is unknown: which, at what position, what is known.
        """
        (ids,) = self.encode_all([text])
        return torch.from_numpy(ids.astype(np.int64))

    def encode_all(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Many texts, one integer array each, lazily; positions in errors count from the first text on."""
        if self.alphabet:
            return self._encode_characters(texts)
        return self._encode_subwords(texts)

    def decode(self, x: Tensor) -> list[str]:
        """Symbols ``(B, L)`` to ``B`` texts; the mask ``num_symbols`` is one visible character, mostly ``_``.

        Raises:
            DataError: If ``x`` has another rank, or entries outside ``0 … num_symbols``.
        """
        if x.ndim != 2 or x.is_floating_point():
            raise DataError(f"x: {x.dtype} {tuple(x.shape)} is no batch of rows: give integers (B, L)")
        rows = x.cpu().numpy()
        if rows.size and (rows.min() < 0 or rows.max() > self.num_symbols):
            raise DataError(
                f"x: symbols {rows.min()} … {rows.max()} lie outside 0 … {self.num_symbols} "
                f"(the last one is the mask): decode with the codec of the model that drew them"
            )
        if self.alphabet:
            signs = np.array([*self.alphabet, self.mask_sign], dtype=object)
            return ["".join(row) for row in signs[rows]]
        return [self._decode_subwords(row) for row in rows]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The codec of a folder, a ``tokenizer.json``, or a repository on the hub.

        Raises:
            DataError: If there is none, it cannot be read, or the hub is out of reach.
        """
        return cls(load_tokenizer(str(name)))

    @cached_property
    def alphabet(self) -> str | None:
        """The characters in the order of their numbers if each symbol is one character, else None."""
        vocabulary = self.tokenizer.get_vocab()
        symbols = sorted(vocabulary, key=vocabulary.__getitem__)
        if len(symbols) < 2 or any(len(symbol) != 1 for symbol in symbols):
            return None
        # The table may stand in for the tokenizer only where it is the very one that characters() makes.
        alphabet = "".join(symbols)
        return alphabet if _parts(self.tokenizer) == _parts(character_tokenizer(alphabet)) else None

    @cached_property
    def mask_sign(self) -> str:
        """The character that shows a masked entry."""
        vocabulary = self.tokenizer.get_vocab()
        return next(sign for sign in MASK_SIGNS if sign not in vocabulary)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(_ALL_CHARACTERS, -1, dtype=np.int32)
        table[_code_points(self.alphabet or "")] = np.arange(len(self.alphabet or ""))
        return table

    def _encode_characters(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        start = 0
        for text in texts:
            ids = self._table[_code_points(text)]
            if ids.size and ids.min() < 0:
                place = int(np.argmax(ids < 0))
                self._refuse(text[place], start + place)
            yield ids
            start += len(text)

    def _encode_subwords(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        backend, unknown, start = self.tokenizer.backend_tokenizer, self._unknown, 0
        backend.no_truncation()  # many a published tokenizer is saved with these on, and would lose text
        backend.no_padding()
        # A batch of texts is one call, which the tokenizer spreads over the cores.
        for batch in _batches(texts):
            encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
            for text, encoding in zip(batch, encodings, strict=True):
                ids = np.array(encoding.ids, dtype=np.int64)
                if unknown is not None and (ids == unknown).any():
                    self._check_unknown(text, start)
                yield ids
                start += len(text)

    @cached_property
    def _unknown(self) -> int | None:
        """The number that the tokenizer's model gives to what it does not know, if it has one."""
        model = json.loads(self.tokenizer.backend_tokenizer.to_str())["model"]
        return model.get("unk_id", self.tokenizer.get_vocab().get(model.get("unk_token")))

    def _check_unknown(self, text: str, start: int) -> None:
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        for symbol, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
            if symbol == self._unknown and text[first:last] != self.tokenizer.convert_ids_to_tokens(symbol):
                self._refuse(text[first:last], start + first)

    def _refuse(self, symbol: str, position: int) -> None:
        code = f" (U+{ord(symbol):04X})" if len(symbol) == 1 else ""
        known = repr(self.alphabet) if self.alphabet else f"the {self.num_symbols} symbols of the tokenizer"
        remedy = (
            "lower-case it, spell out digits, make the rest spaces (normalize='text8'), or use byte pairs"
        )
        if self.alphabet != TEXT8_ALPHABET:
            remedy = "take it out of the text, or use a tokenizer that knows it"
        found = f"unknown symbol {symbol!r}{code} at position {position}"
        raise DataError(f"text: {found}; known are {known}: {remedy}")

    def _decode_subwords(self, row: np.ndarray) -> str:
        masked = np.flatnonzero(row == self.num_symbols)
        parts = np.split(row, np.stack([masked, masked + 1], axis=1).ravel())
        backend = self.tokenizer.backend_tokenizer
        texts = [backend.decode(part.tolist(), skip_special_tokens=False) for part in parts[::2]]
        return self.mask_sign.join(texts)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _parts(tokenizer: "PreTrainedTokenizerFast") -> str:
    """What decides how a tokenizer encodes and decodes; truncation and padding, never used, are left out."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps([state[part] for part in _PARTS], sort_keys=True)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts, about four million characters each."""
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        if length >= 1 << 22:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch
