r"""A small language for constraints on texts: which symbols each place may hold.

=============  ======================================================
``a``          that character
``_``          any symbol (or what is chosen for ``blank``)
``[abc]``      one of these
``[a-z]``      one of the characters from a to z
``[^ ]``       anything but these
``{n}``        the item before it n times in all
``\``          takes the next character as it is
=============  ======================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from d3pm.errors import ConfigError, D3PMError

ITEM = re.compile(
    r"\\(?P<escaped>.)"
    r"|\[(?P<negated>\^(?=[^\]]))?(?P<members>(?:\\.|[^\]\\])+)\]"
    r"|\{0*(?P<times>\d+)\}"
    r"|(?P<character>[^\\\[{])",
    re.DOTALL,
)
MEMBER = re.compile(
    r"(?P<first>\\.|[^\\])-(?P<last>\\.|[^\\])|(?P<one>\\.|[^\\])",
    re.DOTALL,
)
UNREADABLE = {
    "\\": "a backslash with nothing after it: write \\\\ for a backslash",
    "[": "a set that holds nothing or is not closed: write [abc], or \\[ for a bracket",
    "{": "a repeat that is no number in braces: write {3}, or \\{ for a brace",
}

DIGITS = 6
"""Of a repeat, at most."""


def pattern(text: str, codec_encode: Callable[[str], int], num_symbols: int, blank: str = "_") -> Tensor:
    r"""Which symbols each place may hold, bool (L, num_symbols), as the module's table reads ``text``.

    Args:
        text: The pattern.
        codec_encode: The number of a character; any error of the package's, KeyError or ValueError if it has none.
        num_symbols: How many symbols there are, a mask aside.
        blank: The character that stands for any symbol; inside a set it stands for itself.

    Raises:
        ConfigError: If the text cannot be read; the position is that of the item, from 0.

    >>> allowed = pattern("a_[^a]{2}", "abc".index, num_symbols=3)
    >>> allowed.int().tolist()
    [[1, 0, 0], [1, 1, 1], [0, 1, 1], [0, 1, 1]]
    """
    rows: list[Tensor] = []
    at = 0
    while at < len(text):
        item = ITEM.match(text, at)
        if item is None:
            raise _wrong(text, at, UNREADABLE[text[at]])
        if item["times"] is not None:
            rows += _repeated(text, at, rows, item["times"])
        else:
            rows.append(_symbols(text, item, codec_encode, num_symbols, blank))
        at = item.end()
    if not rows:
        raise ConfigError("pattern is empty: give one item for every place")
    return torch.stack(rows)


def _symbols(
    text: str, item: re.Match[str], encode: Callable[[str], int], num_symbols: int, blank: str
) -> Tensor:
    """One place: bool (num_symbols,)."""
    row = torch.zeros(num_symbols, dtype=torch.bool)
    if item["character"] == blank:
        return ~row
    if item["members"] is None:
        row[_number(text, item.start(), item["character"] or item["escaped"], encode)] = True
        return row
    for member in MEMBER.finditer(item["members"]):
        at = item.start("members") + member.start()
        row[_members(text, at, member, encode)] = True
    row = ~row if item["negated"] else row
    if not row.any():
        raise _wrong(text, item.start(), "a set that leaves no symbol: exclude fewer")
    return row


def _members(text: str, at: int, member: re.Match[str], encode: Callable[[str], int]) -> list[int]:
    """The numbers of a character, or of a range between two known ones; unknown characters within are left out."""
    if member["one"] is not None:
        return [_number(text, at, member["one"][-1], encode)]
    first, last = member["first"][-1], member["last"][-1]
    if first > last:
        raise _wrong(text, at, f"a range from '{first}' back to '{last}': turn it round")
    numbers = [_number(text, at, end, encode) for end in (first, last)]
    for code in range(ord(first) + 1, ord(last)):
        number = _known(chr(code), encode)
        if number is not None:
            numbers.append(number)
    return numbers


def _number(text: str, at: int, character: str, encode: Callable[[str], int]) -> int:
    number = _known(character, encode)
    if number is None:
        raise _wrong(text, at, f"'{character}', which the data does not know: use its symbols")
    return number


def _known(character: str, encode: Callable[[str], int]) -> int | None:
    try:
        return int(encode(character))
    except (D3PMError, KeyError, ValueError):
        return None


def _repeated(text: str, at: int, rows: list[Tensor], digits: str) -> list[Tensor]:
    """What is to be added for the last item to stand so many times."""
    if not rows:
        raise _wrong(text, at, "a repeat of nothing: put an item before it")
    if digits == "0":
        raise _wrong(text, at, "a repeat of 0: leave the item out")
    if len(digits) > DIGITS:
        raise _wrong(text, at, f"a repeat that is too large: write a number of at most {DIGITS} digits")
    return rows[-1:] * (int(digits) - 1)


def _wrong(text: str, at: int, what: str) -> ConfigError:
    message = f"pattern '{text}': at position {at} stands {what}"
    return ConfigError(" ".join(message.splitlines()))
