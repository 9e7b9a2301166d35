"""Text larger than the disk: read, tokenized and laid into rows while a model trains on it."""

from collections.abc import Sequence
from functools import cached_property
from math import gcd
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from d3pm.data.base import SPLITS, DataSource
from d3pm.data.blocks import Item
from d3pm.data.codec import TextCodec
from d3pm.data.corpora import Corpus, find
from d3pm.data.feed import StreamedRows
from d3pm.data.lanes import Cursor, LaneText, Place, Row
from d3pm.data.normalize import TEXT8_ALPHABET
from d3pm.data.row_form import DOCUMENTS, RowForm
from d3pm.data.shards import Shard, shards_of
from d3pm.data.splits import known
from d3pm.data.tokenizers import load_tokenizer
from d3pm.errors import ConfigError, DataError


class HeldRows(Dataset[Item]):
    """Rows in memory."""

    def __init__(self, rows: Sequence[Row], form: RowForm) -> None:
        self._rows, self._form = rows, form

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        return self._form.item(self._rows[index])


class StreamedText(DataSource):
    """Text that is never stored: shards are read, tokenized and laid into rows on the way to the network.

    The training split has no length and no end; epoch follows epoch. Validation and test are ``held_out`` rows each:
    the first of the split of that name where the text has one, else the first of the training text, which training
    then leaves out. They are kept in memory. Memory is that of ``2 * held_out`` rows, and ``shuffle`` rows and a
    few pieces of 65,536 characters for each lane that a process reads; nothing is written to the disk.

    The rows are dealt to ``lanes``, which are read side by side, and batches are made of equal runs of them. So the
    batches are the same for any number of processes, a run may be resumed with another number, and each process
    reads its own lanes only. What a lane's state is, and what going on costs, stands in :mod:`d3pm.data.lanes`.

    Args:
        source: What :class:`~d3pm.data.TextData` takes, or a pattern such as ``shards/*.jsonl.gz``. Best are many
            shards of similar size; a dataset on the hub is streamed from there.
        block_size: Tokens in a row.
        tokenizer: ``"characters"``, a ``tokenizer.json`` or its folder, or a hub name.
        alphabet: The characters of ``"characters"``, numbered in this order.
        normalize: ``"text8"`` turns any text into a-z and single spaces; None leaves it as it is.
        documents: As for :class:`~d3pm.data.TextData`: ``"packed"``, ``"padded"`` or ``"whole"``.
        separator: What is put after each packed document of a table; text files are taken as they are.
        column: The column of a table that holds the text.
        subset: The configuration of a hub dataset.
        lanes: In how many parts the text is read: a divisor of the batch size, a multiple of the number of processes so
            that none tokenizes what another does, and best a divisor of the number of shards.
        shuffle: Rows of a lane that are shuffled among each other, the shards of an epoch as well; 0 keeps the order of
            the text.
        held_out: Rows in validation and in test.
        seed: Of the shuffling.

    Raises:
        ConfigError: If the options contradict each other.
        DataError: (At first use) if the text is missing, empty, unreadable or has unknown symbols.
    """

    def __init__(
        self,
        source: str,
        block_size: int = 256,
        tokenizer: str = "characters",
        alphabet: str = TEXT8_ALPHABET,
        normalize: Literal["text8"] | None = None,
        documents: Literal["packed", "padded", "whole"] = "packed",
        separator: str = "\n",
        column: str = "text",
        subset: str | None = None,
        lanes: int = 1,
        shuffle: int = 1024,
        held_out: int = 512,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.block_size = block_size
        self.tokenizer = tokenizer
        self.alphabet = alphabet
        self.normalize = normalize
        self.documents = documents
        self.separator = separator
        self.column = column
        self.subset = subset
        self.lanes = lanes
        self.shuffle = shuffle
        self.held_out = held_out
        self.seed = seed
        self._check()
        self.shape = (block_size,)
        self._form = RowForm(documents, block_size)

    @cached_property
    def codec(self) -> TextCodec:  # type: ignore[override] # an attribute, found when first asked for
        """The codec that every split is encoded with."""
        if self.tokenizer == "characters":
            return TextCodec.characters(self.alphabet)
        return TextCodec(load_tokenizer(self.tokenizer))

    def split(self, name: str) -> StreamedRows | HeldRows:  # type: ignore[override] # a stream has no length
        """``"train"``, endless, or ``"validation"`` or ``"test"``, in memory.

        Raises:
            ConfigError: If there is no split of that name.
            DataError: If the text ends before the held-out rows are full.
        """
        if known(name) != "train":
            return HeldRows(self._held[name], self._form)
        seed = self.seed if self.shuffle else None
        text = LaneText(self._shards("train"), self.codec, start=self._cut[1], seed=seed)
        return StreamedRows(self.source, text, self._form, self.lanes, self.shuffle, self.seed)

    def describe(self) -> str:
        """One line: the text, where it is, in how many shards and lanes it is read, and what is held out."""
        shards = len(self._shards("train"))
        held = ", ".join(f"{name} {len(rows):,}" for name, rows in self._held.items())
        line = f"{self.source}: a stream from {self._corpus.where}, {shards} shards in {self.lanes} lanes"
        readers = self.lanes // gcd(shards, self.lanes)
        more = [f"every shard is read by {readers} lanes"] if readers > 1 else []
        return "; ".join([line, f"held out {held} rows of {self.block_size}", *more])

    @cached_property
    def _corpus(self) -> Corpus:
        return find(self.source, self.column, self.subset, streaming=True)

    def _shards(self, name: str) -> list[Shard]:
        separator = self.separator if self.documents == "packed" else None
        return shards_of(self._corpus, name, separator, self.normalize)

    @cached_property
    def _held(self) -> dict[str, list[Row]]:
        """The rows of validation and test."""
        return self._cut[0]

    @cached_property
    def _cut(self) -> tuple[dict[str, list[Row]], Place]:
        """The rows that are held out, and where in the training text the others begin."""
        held, train = {}, Place()
        for name in SPLITS[1:]:
            own = name in self._corpus.splits
            start = Place() if own else train
            shards = self._shards(name if own else "train")
            cursor = Cursor(LaneText(shards, self.codec, endless=False), start)
            held[name] = self._hold(cursor, name, own)
            train = train if own else cursor.place
        return held, train

    def _hold(self, cursor: Cursor, name: str, own: bool) -> list[Row]:
        """The next ``held_out`` rows; a split of its own may have fewer."""
        rows: list[Row] = []
        while missing := max(self.held_out - len(rows), 0):
            if not (more := self._form.arrange(cursor, missing)):
                break
            rows += more
        if not rows or (missing and not own):
            raise DataError(
                f"held_out: the text ends after {len(rows)} of the {self.held_out} rows of the {name} split: lower "
                "held_out, make block_size smaller or give more text"
            )
        return rows[: self.held_out]

    def characters_per_token(self, name: str) -> float:
        """Characters that one token of a held-out split stands for: bits/token over this are bits/character."""
        documents = [document for row in self._held[known(name)] for document in row]
        texts = (
            self.codec.decode(torch.from_numpy(document.astype(np.int64))[None]) for document in documents
        )
        return sum(len(text) for (text,) in texts) / sum(map(len, documents))

    def _check(self) -> None:
        for name in ("block_size", "lanes", "held_out"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is no number of them: give 1 or more")
        if self.shuffle < 0:
            raise ConfigError(f"shuffle: {self.shuffle} rows cannot be shuffled: give 0 or more")
        if self.normalize not in (None, "text8"):
            raise ConfigError(f"normalize: {self.normalize!r} is unknown: give 'text8' or null")
        if self.documents not in DOCUMENTS:
            raise ConfigError(f"documents: {self.documents!r} is unknown: give one of {', '.join(DOCUMENTS)}")
        if self.tokenizer == "bpe":
            raise ConfigError(
                "tokenizer: 'bpe' would have to be learnt from the whole stream: learn it from a part of it with "
                "TextData(tokenizer='bpe', ...).codec.save_pretrained(FOLDER), and give FOLDER"
            )
