"""Text that changes in place on a terminal, and comes line after line anywhere else."""

import shutil
import sys
from typing import TextIO


class Screen:
    """Show a block of text, each time in place of the last.

    Args:
        stream: Where to, standard output if not given; only a terminal is redrawn.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.height = 0

    def show(self, text: str) -> None:
        """Draw ``text``, wrapped at the terminal's width."""
        if not self.stream.isatty():
            print(text, file=self.stream, flush=True)
            return
        width = shutil.get_terminal_size().columns
        lines = [
            line[i : i + width] for line in text.splitlines() for i in range(0, max(len(line), 1), width)
        ]
        up = f"\x1b[{self.height}A\x1b[J" if self.height else ""
        print(up + "\n".join(lines), file=self.stream, flush=True)
        self.height = len(lines)
