"""A text on its way to the tokenizer: read, normalised, cut into splits; never in memory as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from d3pm.data.normalize import rechunk, text8_normalize, text8_pieces
from d3pm.data.readers import Reader


@dataclass(frozen=True)
class TextStream:
    """An iterable of texts, each time from the start.

    Args:
        reader: Where the text comes from.
        normalize: ``"text8"``, or None for the text as it is.
        separator: What stands between documents; None keeps them apart and leaves the empty ones out.
        part: Which stretch of it this is, in characters, or in documents if they are kept apart.
    """

    reader: Reader
    normalize: str | None = None
    separator: str | None = None
    part: range | None = None

    def __iter__(self) -> Iterator[str]:
        texts = self._documents() if self.separator is None else self._pieces(self.separator)
        if self.part is None:
            return texts
        if self.separator is None:
            return islice(texts, self.part.start, self.part.stop)
        return _characters(texts, self.part)

    def size(self) -> int:
        """The length in characters, or in documents if they are kept apart; reads everything once."""
        return sum(1 if self.separator is None else len(text) for text in self)

    def cut(self, part: range) -> "TextStream":
        """The stretch ``part`` of this stream."""
        return replace(self, part=part)

    def _documents(self) -> Iterator[str]:
        for text in self.reader.documents():
            document = text8_normalize(text) if self.normalize else text
            if document.strip():
                yield document

    def _pieces(self, separator: str) -> Iterator[str]:
        pieces = rechunk(self.reader.pieces(separator))
        return text8_pieces(pieces) if self.normalize else pieces


def _characters(pieces: Iterator[str], part: range) -> Iterator[str]:
    """The characters ``part`` of a text that comes in pieces."""
    start = 0
    for piece in pieces:
        if start >= part.stop:
            return
        inside = piece[max(part.start - start, 0) : part.stop - start]
        if inside and start + len(piece) > part.start:
            yield inside
        start += len(piece)
