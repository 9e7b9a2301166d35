"""Samples that are read: printed one a line, shown as they are denoised, or written to a file."""

from pathlib import Path
from typing import Any

import torch

from d3pm.cli.blockwise import lengthened
from d3pm.cli.drawn import drawn, tell
from d3pm.cli.forms import Draw, Form
from d3pm.cli.model import codec_of
from d3pm.cli.prompt import Given, given
from d3pm.cli.report import sample_lines
from d3pm.cli.screen import Screen
from d3pm.cli.targets import check_writable
from d3pm.cli.watching import Watch, numbered, one_row
from d3pm.data.table_files import SUFFIXES
from d3pm.errors import ConfigError
from d3pm.objectives import Network

FOREIGN = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg", ".pdf", *SUFFIXES)
"""Files that hold no text."""


class Texts(Form):
    """Texts on the screen, or in a file."""

    few = 4
    name = "text"
    more = "--watch"
    options = ("prompt", "infill", "pattern", "length", "block", "context", "watch", "overwrite")

    def check(self, config: Any) -> None:
        """See the base class."""
        if config.output and Path(config.output).suffix.lower() in FOREIGN:
            raise ConfigError(f"--output {config.output}: this model draws text, so end the name in .txt")
        if config.output:
            check_writable(Path(config.output))
        if config.output and Path(config.output).exists() and not config.overwrite:
            raise ConfigError(
                f"--output {config.output} exists: name another file, or replace it with --overwrite"
            )

    def present(self, draw: Draw, config: Any, home: Path) -> None:
        """Print the samples, or write them."""
        text, screen = given(draw.model, config), Screen()
        draw = lengthened(draw, text.length, config.block, config.context)
        more = {"network": constrained(draw, text), "shape": (text.length,), **text.held(config.num)}
        if config.watch and draw.team.first:
            masks = torch.full_like(text.x0, codec_of(draw.model).num_symbols)
            start = torch.where(text.known, text.x0, masks)
            watch = Watch(codec_of(draw.model), screen, more["network"], start, end=bool(config.output))
            more |= {"watch": watch, "network": watch.network}
        found = drawn(draw, config.num, **more)
        if not draw.team.first:
            return
        texts = codec_of(draw.model).decode(found.x0)
        if config.output:
            Path(config.output).write_text("".join(f"{one_row(text)}\n" for text in texts))
            print(f"{config.output}: {len(texts):,} text{'s' if len(texts) > 1 else ''}")
        else:
            head = "t = 0\n" if config.watch and not screen.live else ""
            screen.show(head + numbered(texts))
        tell(found, draw, config.num)

    def keep(self, items: list[str], folder: Path) -> str:
        """The texts themselves: they need no file."""
        return sample_lines(items)


def constrained(draw: Draw, text: Given) -> Network:
    """The network of a draw, held to the states that are allowed."""
    if text.allowed is None:
        return draw.network
    from d3pm.discrete.constraints import Constrained

    return Constrained(draw.model.process, draw.network, text.allowed)
