"""Text as a data source: from a name to blocks of tokens."""

import logging
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from d3pm.data.base import DataSource
from d3pm.data.blocks import PaddedDocuments, TokenBlocks, WholeDocuments
from d3pm.data.cache import cache_root, cached
from d3pm.data.codec import TextCodec
from d3pm.data.corpora import Corpus, find
from d3pm.data.normalize import TEXT8_ALPHABET
from d3pm.data.prepare import Prepared, split_streams, store
from d3pm.data.row_form import DOCUMENTS
from d3pm.data.splits import known
from d3pm.data.tokenizers import BYTES, load_tokenizer
from d3pm.errors import ConfigError

TEXT8 = ("text8", "afmck/text8")
TEXT8_LENGTHS = (90_000_000, 5_000_000, 5_000_000)

log = logging.getLogger(__name__)


class TextData(DataSource):
    """Blocks of text: found by name, tokenized once, memory-mapped.

    Nothing is read before ``codec``, ``split`` or ``describe`` is first used. A text without splits of its
    own is cut, in order, 90/5/5; that is text8's canonical split on its 10⁸ characters, and
    :meth:`describe` says how much there was, so that a part is never taken for the whole.

    Args:
        source: ``"pydoc"`` (the Python manual inside every Python, no download), a path (text, parquet,
            JSON lines or CSV, plain or compressed; a folder with train/valid/test files uses these), a
            name in the folder ``$D3PM_DATA`` such as ``"text8"``, or a dataset on the hub.
        block_size: Tokens in a row.
        tokenizer: ``"characters"``; ``"bpe"`` for byte pairs learnt from the training split; a
            ``tokenizer.json`` or its folder; or a hub name.
        vocab_size: How many byte pairs to learn (``"bpe"`` only).
        alphabet: The characters of ``"characters"``, numbered in this order.
        normalize: ``"text8"`` turns any text into a-z and single spaces; None leaves it as it is.
        documents: ``"packed"`` joins documents into one stream; ``"padded"`` makes each (a row of a
            table, a line of a text file) one row with its ``attention_mask``, cut to ``block_size``;
            ``"whole"`` lays several whole documents into a row, told apart by its ``segments``.
        separator: What is put between packed documents, before normalisation.
        column: The column of a table that holds the text.
        subset: The configuration of a hub dataset, e.g. ``"wikitext-2-raw-v1"``.
        sizes: Characters (or documents, unless packed) in train, validation and test, counted from the start,
            instead of 90/5/5.
        cache_dir: Where the tokens are kept; default ``$D3PM_CACHE``, else ``~/.cache/d3pm``.

    Raises:
        ConfigError: If the options contradict each other.
        DataError: (At first use) if the text is missing, empty, unreadable or has unknown symbols.
    """

    def __init__(
        self,
        source: str = "pydoc",
        block_size: int = 256,
        tokenizer: str = "characters",
        vocab_size: int | None = None,
        alphabet: str = TEXT8_ALPHABET,
        normalize: Literal["text8"] | None = None,
        documents: Literal["packed", "padded", "whole"] = "packed",
        separator: str = "\n",
        column: str = "text",
        subset: str | None = None,
        sizes: list[int] | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.source = source
        self.block_size = block_size
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.alphabet = alphabet
        self.normalize = normalize
        self.documents = documents
        self.separator = separator
        self.column = column
        self.subset = subset
        self.sizes = sizes
        self.cache_dir = cache_dir
        self._check()
        self.shape = (block_size,)

    @cached_property
    def codec(self) -> TextCodec:  # type: ignore[override] # an attribute, found when first asked for
        """The codec that every split is encoded with."""
        return self._prepared.codec()

    def split(self, name: str) -> TokenBlocks | PaddedDocuments:
        """``"train"``, ``"validation"`` or ``"test"``.

        Raises:
            ConfigError: If there is no split of that name.
            DataError: If the split is shorter than one block.
        """
        tokens = self._prepared.tokens(known(name))
        if self.documents != "packed":
            rows = PaddedDocuments if self.documents == "padded" else WholeDocuments
            return rows(tokens, self._prepared.ends(name), self.block_size, f"{name} split")
        return TokenBlocks(tokens, self.block_size, f"{name} split")

    def describe(self) -> str:
        """One line: the text, where it was found, how long it is, and how it is split."""
        return self._describe(self._prepared)

    def characters_per_token(self, name: str) -> float:
        """Characters that one token of a split stands for: bits/token over this are bits/character."""
        amount = self._prepared.amounts[known(name)]
        return amount["characters"] / amount["tokens"]

    @cached_property
    def _corpus(self) -> Corpus:
        return find(self.source, self.column, self.subset)

    @cached_property
    def _prepared(self) -> Prepared:
        """The tokens in the cache, put there if need be; says once what they are."""
        make_codec, tokenizer = self._plan_codec()
        separator = self.separator if self.documents == "packed" else None
        recipe = {
            "text": {name: reader.identity for name, reader in self._corpus.splits.items()},
            "tokenizer": tokenizer,
            "normalize": self.normalize,
            "separator": separator,
            "sizes": self.sizes,
        }

        def build(folder: Path) -> None:
            log.info("tokenizing %s", self._corpus.where)
            store(folder, split_streams(self._corpus, self.normalize, separator, self.sizes), make_codec)

        prepared = Prepared(cached(recipe, build, cache_root(self.cache_dir)))
        log.info(self._describe(prepared))
        for caveat in self._caveats(prepared):
            log.warning("%s: %s", self.source, caveat)
        return prepared

    def _plan_codec(self) -> tuple[Callable[[Iterable[str]], TextCodec], list]:
        """How to make the codec from the training texts, and a JSON value that identifies it."""
        match self.tokenizer:
            case "characters":
                return lambda texts: TextCodec.characters(self.alphabet), ["characters", self.alphabet]
            case "bpe" if self.vocab_size is not None:
                return partial(TextCodec.byte_pairs, vocab_size=self.vocab_size), ["bpe", self.vocab_size]
            case name:
                codec = TextCodec(load_tokenizer(name))
                content = codec.tokenizer.backend_tokenizer.to_str()
                return lambda texts: codec, ["loaded", sha256(content.encode()).hexdigest()]

    def _describe(self, prepared: Prepared) -> str:
        splits = []
        for name, amount in prepared.amounts.items():
            tokens = "" if self.tokenizer == "characters" else f" ({amount['tokens']:,} tokens)"
            splits.append(f"{name} {amount['characters']:,}{tokens}")
        total = sum(amount["characters"] for amount in prepared.amounts.values())
        line = f"{self.source}: {total:,} characters from {self._corpus.where}: {', '.join(splits)}"
        return "; ".join([line, *self._caveats(prepared)])

    def _caveats(self, prepared: Prepared) -> list[str]:
        """What a reader of scores on this data has to know."""
        found = []
        lengths = tuple(amount["characters"] for amount in prepared.amounts.values())
        if self.source in TEXT8 and lengths != TEXT8_LENGTHS:
            found.append("not the whole text8 (90M/5M/5M), so no score on it compares with a published one")
        if self.documents != "packed" and (cut := self._share_cut(prepared)):
            found.append(f"{cut:.1%} of the training documents are cut to block_size={self.block_size}")
        return found

    def _share_cut(self, prepared: Prepared) -> float:
        lengths = np.diff(prepared.ends("train").array, prepend=0)
        return float((lengths > self.block_size).mean()) if len(lengths) else 0.0

    def _check(self) -> None:
        if self.block_size < 1:
            raise ConfigError(f"block_size: {self.block_size} is no length: give 1 or more, e.g. 256")
        if self.normalize not in (None, "text8"):
            raise ConfigError(f"normalize: {self.normalize!r} is unknown: give 'text8' or null")
        if self.documents not in DOCUMENTS:
            raise ConfigError(f"documents: {self.documents!r} is unknown: give one of {', '.join(DOCUMENTS)}")
        if self.tokenizer != "bpe" and self.vocab_size is not None:
            raise ConfigError(
                f"vocab_size: {self.vocab_size} has no meaning for tokenizer={self.tokenizer!r}: "
                f"leave it out, or set tokenizer='bpe'"
            )
        if self.tokenizer == "bpe" and (self.vocab_size is None or self.vocab_size < BYTES):
            raise ConfigError(
                f"vocab_size: {self.vocab_size} is too few for tokenizer='bpe': give {BYTES} or more"
            )
