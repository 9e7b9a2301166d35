"""Shards: the files of a text, or the parts of a dataset on the hub, each of which can be read on its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from d3pm.data.corpora import Corpus
from d3pm.data.normalize import rechunk, text8_normalize
from d3pm.data.readers import HubRows, Joined, Reader, Table, Text, TextFile


@dataclass(frozen=True)
class Shard:
    """One file, read from its beginning, in units: pieces of about 65,536 characters, or documents.

    Args:
        reader: What reads it.
        separator: What stands after each document of a table; None keeps documents apart. A text file is taken as
            it is.
        normalize: ``"text8"``, or None for the text as it is.
    """

    reader: Reader
    separator: str | None
    normalize: str | None

    @property
    def kind(self) -> str:
        """What a unit is."""
        return "document" if self.separator is None else "piece"

    @property
    def name(self) -> str:
        """What to call it in errors."""
        match self.reader:
            case TextFile() | Table():
                return str(self.reader.path)
            case HubRows():
                return self.reader.where
        return "the text"

    def units(self) -> Iterator[str]:
        """Every unit, as it was read."""
        if self.separator is None:
            return self.reader.documents()
        if isinstance(self.reader, Text | TextFile):
            return rechunk(self.reader.pieces(self.separator))
        return rechunk(Joined([self.reader, Text("")]).pieces(self.separator))

    def normal(self, unit: str) -> str:
        """The normal form of a unit, whatever stood before it; a piece of text8 ends in its one space."""
        if not self.normalize:
            return unit if self.separator is not None or unit.strip() else ""
        text = text8_normalize(unit)
        if not text.strip():
            return ""
        return text if self.separator is None else text.strip() + " "


def shards_of(corpus: Corpus, name: str, separator: str | None, normalize: str | None) -> list[Shard]:
    """The shards of a split: its files in the order of their names, or what the hub calls its shards."""
    readers = [part for reader in _flat(corpus.splits[name]) for part in _parts(reader)]
    return [Shard(reader, separator, normalize) for reader in readers]


def _flat(reader: Reader) -> list[Reader]:
    return list(reader.readers) if isinstance(reader, Joined) else [reader]


def _parts(reader: Reader) -> list[Reader]:
    """What a streamed dataset of the hub is made of; any other text is whole."""
    if not isinstance(reader, HubRows):
        return [reader]
    number = reader.rows.num_shards
    return [
        HubRows(reader.rows.shard(number, part), reader.column, f"{reader.where}, shard {part}")
        for part in range(number)
    ]
