"""Readers of text: a string, a file, a column of a table, several of them in a row."""
# ruff: noqa: D102 (what the methods mean is said once, in Reader)

import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from d3pm.data.files import TABLES, file_identity, file_kind, inner_suffix, open_text, reading
from d3pm.data.normalize import CHUNK
from d3pm.errors import DataError

_ROWS = 1000


class Reader(ABC):
    """A text that can be read again and again, and of which nothing is held in memory."""

    @property
    @abstractmethod
    def identity(self) -> Any:
        """A JSON value that changes when the text does."""

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """Each document: a row of a table, a line of a text file."""

    def pieces(self, separator: str) -> Iterator[str]:
        """The whole text in pieces, ``separator`` between the documents of a table and between files."""
        return _between(separator, ([document] for document in self.documents()))


@dataclass(frozen=True)
class Text(Reader):
    """A string."""

    text: str

    @property
    def identity(self) -> Any:
        return [zlib.crc32(self.text.encode()), len(self.text)]

    def documents(self) -> Iterator[str]:
        yield from self.text.splitlines()

    def pieces(self, separator: str) -> Iterator[str]:
        yield self.text


@dataclass(frozen=True)
class TextFile(Reader):
    """A UTF-8 text file, plain or compressed; its characters are taken as they are."""

    path: Path

    @property
    def identity(self) -> Any:
        return file_identity(self.path)

    def documents(self) -> Iterator[str]:
        with reading(self.path), open_text(self.path) as file:
            for line in file:
                yield line.rstrip("\r\n")

    def pieces(self, separator: str) -> Iterator[str]:
        with reading(self.path), open_text(self.path) as file:
            while piece := file.read(CHUNK):
                yield piece


@dataclass(frozen=True)
class Table(Reader):
    """One column of a parquet, JSON (lines) or CSV file, a document a row."""

    path: Path
    column: str

    @property
    def identity(self) -> Any:
        return [*file_identity(self.path), self.column]

    def documents(self) -> Iterator[str]:
        from datasets import load_dataset

        with reading(self.path), quiet():
            if self.path.stat().st_size == 0:
                raise DataError(f"source: {self.path} is empty: give a file with text in it")
            loader, files = TABLES[inner_suffix(self.path)], [escape(str(self.path))]
            # Streamed, so that no second copy of the table is left in anyone's cache.
            rows = load_dataset(loader, data_files=files, split="train", streaming=True)
            yield from _texts(rows.iter(batch_size=_ROWS), self.column, str(self.path))


@dataclass(frozen=True)
class HubRows(Reader):
    """One column of a dataset that ``datasets`` has loaded, a document a row."""

    rows: Any
    column: str
    where: str

    @property
    def identity(self) -> Any:
        return [self.where, self.rows._fingerprint, self.column]

    def documents(self) -> Iterator[str]:
        with reading(self.where):
            yield from _texts(self.rows.iter(batch_size=_ROWS), self.column, self.where)


@dataclass(frozen=True)
class Joined(Reader):
    """Several readers, one after the other."""

    readers: Sequence[Reader]

    @property
    def identity(self) -> Any:
        return [reader.identity for reader in self.readers]

    def documents(self) -> Iterator[str]:
        for reader in self.readers:
            yield from reader.documents()

    def pieces(self, separator: str) -> Iterator[str]:
        return _between(separator, (reader.pieces(separator) for reader in self.readers))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep `datasets` from saying in lines of its own what its exceptions say."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def open_reader(path: Path, column: str) -> Reader:
    """The reader of one file; what is not a table by its name is read as text."""
    return Table(path, column) if file_kind(path) == "table" else TextFile(path)


def _texts(batches: Iterable[dict[str, list]], column: str, where: str) -> Iterator[str]:
    """The texts of ``column``, with an error for a table or a row that has none."""
    row = 0
    for batch in batches:
        if column not in batch:
            raise DataError(f"column: no {column!r} in {where}: set column to one of {', '.join(batch)}")
        for text in batch[column]:
            if not isinstance(text, str):
                raise DataError(
                    f"column: {column!r} in row {row} of {where} is {text!r}: give each row a text"
                )
            yield text
            row += 1


def _between(separator: str, groups: Iterable[Iterable[str]]) -> Iterator[str]:
    for place, group in enumerate(groups):
        if place:
            yield separator
        yield from group
