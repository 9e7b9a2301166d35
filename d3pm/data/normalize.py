"""Text in small pieces, and text8's alphabet.

A corpus may be larger than memory, so everything downstream takes an iterator of pieces. The one
law to keep is that pieces do not show: cutting a text anywhere this module cuts it changes neither
its normal form nor (up to one word a piece where a text has no spaces) its byte pairs.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

TEXT8_ALPHABET = " abcdefghijklmnopqrstuvwxyz"
CHUNK = 1 << 16
"""Characters in a piece: large enough for numpy to be fast, small enough for tokenizers not to be slow."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NEARBY = 4096


def text8_normalize(text: str) -> str:
    """Any text in text8's 27 symbols: a-z and single spaces.

    Lower-case, accents stripped, every digit spelled out, and each run of anything else one space.

    References:
        Mahoney, *About the test data*, 2011 (text8); accents, which text8 turns into spaces, are stripped.

    Examples:
        >>> text8_normalize("Café No. 42!")
        'cafe no four two '
    """
    text = unicodedata.normalize("NFKD", text).lower()
    text = re.sub("[\u0300-\u036f]+", "", text)
    for digit, word in enumerate(_DIGITS):
        text = text.replace(str(digit), f" {word} ")
    return re.sub("[^a-z]+", " ", text)


def text8_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """:func:`text8_normalize` of a text that comes in pieces; no two spaces meet where pieces do."""
    after_space = False
    for piece in pieces:
        text = text8_normalize(piece)
        if after_space:
            text = text.removeprefix(" ")
        if text:
            after_space = text.endswith(" ")
            yield text


def rechunk(pieces: Iterable[str], size: int = CHUNK) -> Iterator[str]:
    """The same text in pieces of at most ``size`` characters, cut where no tokenizer minds.

    Examples:
        >>> list(rechunk(["to be", " or not", " to be"], size=10))
        ['to be or', ' not to be']
    """
    parts: list[str] = []
    length = 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length <= size:
            continue
        text, start = "".join(parts), 0
        while len(text) - start > size:
            cut = _cut(text, start + 1, start + size)
            yield text[start:cut]
            start = cut
        parts, length = [text[start:]], len(text) - start
    if length:
        yield "".join(parts)


def _cut(text: str, low: int, high: int) -> int:
    """The last place up to ``high`` before a lone space; failing that, not before an accent."""
    place = high + 1
    while (place := text.rfind(" ", max(low, high - _NEARBY), place)) > 0:
        if not text[place - 1].isspace() and not text[place + 1 : place + 2].isspace():
            return place
    place = high
    while place > low and unicodedata.combining(text[place]):
        place -= 1
    return place
