"""States as HTML: texts with their masks, what was given and what is new; pictures side by side."""

from __future__ import annotations

import base64
import html
import io
from abc import ABC, abstractmethod
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.demo.trajectory import Trajectory
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel

if TYPE_CHECKING:
    from PIL.Image import Image

MASK = "░"
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""How a decoder shows a character of which bytes are missing."""
WIDTH = 84
"""Pixels that a small picture is enlarged to, at most."""

STYLE = """
#title, #frame, #title > *, #frame > * { padding-left: 0 !important; }
.d3pm-text { white-space: pre-wrap; overflow-wrap: anywhere; font: 1.05rem/1.7 ui-monospace, monospace; }
.d3pm-text .masked { opacity: .35; }
.d3pm-text .given { font-weight: 700; text-decoration: underline; text-underline-offset: .25em; }
.d3pm-text .new { background: rgba(255, 170, 0, .35); border-radius: 3px; }
.d3pm-pictures { display: flex; flex-wrap: wrap; gap: 6px; }
.d3pm-pictures img { max-width: 100%; image-rendering: pixelated; }
"""


class Shown(ABC):
    """One kind of sample as people see it.

    Attributes:
        codec: Makes it of entries.
        legend: What the marks mean, if there are any.
    """

    legend: ClassVar[str | None] = None

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    @abstractmethod
    def frame(self, trajectory: Trajectory, index: int) -> str:
        """The state ``index`` of a trajectory as HTML."""


class Texts(Shown):
    """Texts: masked entries as ░, given ones underlined, those that are new since the last state kept marked."""

    legend = f"{MASK}: masked; underlined: given; coloured: new"

    def frame(self, trajectory: Trajectory, index: int) -> str:
        """See the base class."""
        found = marks(trajectory, index, self.codec.num_symbols)
        rows = zip(trajectory.states[index], found, strict=True)
        return "".join(f'<div class="d3pm-text">{self._line(row, mark)}</div>' for row, mark in rows)

    def _line(self, row: Tensor, mark: list[str]) -> str:
        return "".join(
            f'<span class="{kind}">{html.escape(text)}</span>' if kind else html.escape(text)
            for text, kind in spans(self.codec, row, mark)
        )


class Pictures(Shown):
    """Pictures in a row that is broken where the page ends."""

    def frame(self, trajectory: Trajectory, index: int) -> str:
        """See the base class."""
        pictures = self.codec.decode(trajectory.states[index])
        images = "".join(_image(picture, f"sample {n}") for n, picture in enumerate(pictures, start=1))
        return f'<div class="d3pm-pictures">{images}</div>'


def shown_of(model: DiffusionModel) -> Shown:
    """How the samples of a model are shown.

    Raises:
        ConfigError: If they are rows of a table, or the model has no codec.
    """
    codec: Any = model.codec
    if codec is None:
        raise ConfigError(
            "the model has no codec, so its symbols cannot be shown: give it one and save it again"
        )
    if codec.columnwise:
        raise ConfigError(
            "the demo shows text and pictures, but this model draws rows of tables: use d3pm sample RUN, "
            "with --impute to fill the gaps of a table"
        )
    return Texts(codec) if len(model.shape) == 1 else Pictures(codec)


def marks(trajectory: Trajectory, index: int, mask: int) -> list[list[str]]:
    """What is to be said of each entry of a state (B, L): ``masked``, ``given``, ``new``, or nothing."""
    x, known = trajectory.states[index], trajectory.known
    new = x != trajectory.states[max(index - 1, 0)]
    given = torch.zeros_like(new) if known is None else known
    # What stands further right goes before.
    kinds = torch.zeros_like(x)
    for number, where in enumerate((new, given, x == mask), start=1):
        kinds[where] = number
    return [[("", "new", "given", "masked")[kind] for kind in row] for row in kinds.tolist()]


def spans(codec: Codec, row: Tensor, mark: list[str]) -> list[tuple[str, str]]:
    """A row (L,) as texts, each with its mark: neighbours of one mark are one text.

    A part is what the text of all entries up to it has grown by, so that tokens which are spelt with their
    neighbours' help (spaces, most of all) come out as in the whole; a character that lies across two parts goes to
    the second.
    """
    found, end, before = [], 0, ""
    for kind, group in groupby(mark):
        size = len(list(group))
        end += size
        (text,) = codec.decode(row[None, :end])
        text = text if end == len(row) else text.rstrip(BROKEN)
        grown = text[len(before) :]
        found.append((grown[:-size] + MASK * size if kind == "masked" else grown, kind))
        before = text
    return found


def _image(picture: Image, name: str) -> str:
    """A picture in an address of its own, small ones enlarged by a whole factor."""
    file = io.BytesIO()
    picture.save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    width = picture.width * max(WIDTH // picture.width, 1)
    return f'<img alt="{name}" width="{width}" src="data:image/png;base64,{data}">'
