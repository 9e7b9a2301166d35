"""Samples that are looked at: a sheet of them, single files, strips of their making, walks between them."""

import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d3pm.cli.drawn import cost, drawn, tell
from d3pm.cli.forms import Draw, Form
from d3pm.cli.inpaint import check_inpaint, holes
from d3pm.cli.model import codec_of
from d3pm.cli.pictures import grid, save_animation, strip
from d3pm.cli.targets import check_empty, check_new, fresh
from d3pm.cli.walk import walk
from d3pm.parallel import Team
from d3pm.sampling import Samples

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 10
"""Moments in a strip."""


class Pictures(Form):
    """Pictures in files; a sheet in the run's folder if no file is named."""

    few = 16
    name = "pictures"
    more = "--strip strip.png"
    options = ("each", "strip", "walk", "inpaint", "mask", "overwrite")

    def check(self, config: Any) -> None:
        """See the base class."""
        for option, suffix in (("output", ".png"), ("strip", ".png"), ("walk", ".gif")):
            check_new(config[option], f"--{option}", suffix, config.overwrite)
        if config.each:
            check_empty(Path(config.each), "--each", config.overwrite)
        check_inpaint(config)

    def present(self, draw: Draw, config: Any, home: Path) -> None:
        """Write what was asked for, and say where."""
        if config.walk:
            self._walk(draw, config.num, Path(config.walk))
        if config.output or config.each or config.strip or not config.walk:
            self._samples(draw, config, home)

    def keep(self, items: list[Any], folder: Path) -> str:
        """One sheet of all of them."""
        return save_sheet(items, fresh(folder, "samples", ".png"))

    def _samples(self, draw: Draw, config: Any, home: Path) -> None:
        decode, moments = codec_of(draw.model).decode, Moments(draw.steps)
        given = holes(draw.model, config.inpaint, config.mask, config.num) if config.inpaint else {}
        num = len(given["x0"]) if given else config.num
        found = drawn(draw, num, watch=moments if config.strip else None, **given)
        moments.join(draw.team)
        if not draw.team.first:
            return
        pictures = decode(found.x0)
        if config.output or not (config.each or config.strip):
            columns = config.num if num > config.num else None  # the fillings of a picture side by side
            print(save_sheet(pictures, Path(config.output or fresh(home, "samples", ".png")), columns))
        if config.each:
            print(save_each(pictures, Path(config.each)))
        if config.strip:
            strip([decode(x) for _, x in moments.seen(len(pictures))]).save(config.strip)
            times = ", ".join(f"{s:g}" for s, _ in moments.seen())
            print(f"{config.strip}: a sample a row, from left to right at t = {times}")
        tell(found, draw, num)

    def _walk(self, draw: Draw, num: int, file: Path) -> None:
        decode = codec_of(draw.model).decode
        found = draw.team.joined(walk(draw, num))
        if not draw.team.first:
            return
        frames = [grid(decode(some.x0)) for some in found]
        save_animation([*frames, *frames[-2:0:-1]], file)
        print(f"{file}: {num} walks through latent space and back, {len(frames)} frames each way")
        print(cost(Samples.cat(found), draw.counted, "frames"), file=sys.stderr)


class Moments:
    """Remembers a few states on the way from noise to data, evenly spaced in steps, the last one among them.

    Args:
        steps: How many there are in all.
        columns: How many to remember.
    """

    def __init__(self, steps: int, columns: int = COLUMNS) -> None:
        columns = min(columns, steps)
        self.steps = steps
        self.wanted = {(i + 1) * steps // columns - 1 for i in range(columns)}
        self.batches: list[dict[float, Tensor]] = []
        self._calls = count()

    def __call__(self, s: float, x: Tensor) -> None:
        """Called after every step of every batch."""
        step = next(self._calls) % self.steps
        if step == 0:
            self.batches.append({})
        if step in self.wanted:
            self.batches[-1][s] = x.cpu()

    def join(self, team: Team) -> None:
        """Remember what all processes have seen, in the order of the samples."""
        self.batches = team.joined(self.batches)

    def seen(self, num: int | None = None) -> list[tuple[float, Tensor]]:
        """Times and what stood there, all batches joined; of the first ``num`` samples, if one was not finished."""
        whole = [batch for batch in self.batches if len(batch) == len(self.wanted)]
        return [(s, torch.cat([batch[s] for batch in whole])[:num]) for s in whole[0]]


def save_sheet(pictures: list["Image"], file: Path, columns: int | None = None) -> str:
    """Write all in one file; a line that says so."""
    grid(pictures, columns).save(file)
    return f"{file}: {len(pictures)} pictures"


def save_each(pictures: list["Image"], folder: Path) -> str:
    """Write each in a file of its own, in its own size, numbered from 1; a line that says so."""
    folder.mkdir(exist_ok=True)
    digits = max(len(str(len(pictures))), 4)
    for n, picture in enumerate(pictures, start=1):
        picture.save(folder / f"{n:0{digits}}.png")
    return f"{folder}: {len(pictures)} pictures"
