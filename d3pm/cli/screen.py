"""Text that changes in place on a terminal, and comes line after line anywhere else."""

import re
import shutil
import sys
from typing import TextIO

_ATOM = re.compile(r"\x1b\[[0-9;]*m|.", re.DOTALL)
"""A change of colour, which takes no room, or a character."""


class Screen:
    """Show a block of text, each time in place of the last.

    Args:
        stream: Where to, standard output if not given; only a terminal is redrawn.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.height = 0

    @property
    def live(self) -> bool:
        """Whether it is a terminal."""
        return self.stream.isatty()

    def show(self, text: str, whole: bool = True) -> None:
        """Draw ``text``, wrapped at the terminal's width; unless ``whole``, no more of it than can be redrawn."""
        if not self.live:
            print(text, file=self.stream, flush=True)
            return
        size = shutil.get_terminal_size()
        lines = [part for line in text.splitlines() for part in wrapped(line, size.columns)]
        if not whole and len(lines) >= size.lines > 2:
            lines = [*lines[: size.lines - 2], "…"]
        up = f"\x1b[{self.height}A\x1b[J" if self.height else ""
        print(up + "\n".join(lines), file=self.stream, flush=True)
        self.height = len(lines)


def wrapped(line: str, width: int) -> list[str]:
    r"""A line in pieces of so many characters, colours aside.

    >>> wrapped("ab\x1b[1mcd\x1b[0me", 2)
    ['ab\x1b[1m', 'cd\x1b[0m', 'e']
    """
    pieces, room = [""], width
    for atom in _ATOM.findall(line):
        if len(atom) == 1:
            if room == 0:
                pieces.append("")
                room = width
            room -= 1
        pieces[-1] += atom
    return pieces
