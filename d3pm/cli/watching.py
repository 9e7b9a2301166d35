"""Texts as they come about: masks are visible, and on a terminal what has just appeared stands out."""

import math
from itertools import groupby
from typing import Any

from torch import Tensor

from d3pm.cli.screen import Screen
from d3pm.data.base import Codec
from d3pm.guidance import Around
from d3pm.objectives import Network

NEW, PLAIN = "\x1b[1;32m", "\x1b[0m"
"""Bold green, and back."""


class Watched(Around):
    """A network that counts how often it is called, in rows.

    Args:
        network: What it wraps.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.rows = network, 0

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """What the network says."""
        self.rows += self.calls * len(x_t)
        return self.network(x_t, t, **cond)


class Watch:
    """Shows each state of a batch, with the time and the network calls so far.

    Args:
        codec: Makes texts of states.
        screen: Where they are shown.
        network: What is asked about them; :attr:`network` counts, and is to be used in its place.
        start: What a text begins as: known symbols and masks, int64 (L,).
        end: Show whole texts at time 0 too where nothing is redrawn; whoever prints the samples has no need of it.
    """

    def __init__(
        self, codec: Codec, screen: Screen, network: Network, start: Tensor, end: bool = True
    ) -> None:
        self.end = end
        self.codec, self.screen, self.network, self.start = codec, screen, Watched(network), start
        self._last, self._time = start[None, :0], -math.inf
        self._seen = self._earlier = 0  # calls until now, and those for earlier batches

    def __call__(self, s: float, x: Tensor) -> None:
        """Called after every step, with texts (B, L), or as much of them as has been begun."""
        x = x.cpu()
        if s >= self._time and x.shape[1] <= self._last.shape[1]:  # back in time, and not for another block
            self._last, self._earlier = self.start[None, :0], self._seen
        before = self.start[: x.shape[1]].repeat(len(x), 1)
        before[:, : self._last.shape[1]] = self._last
        self._last, self._time, self._seen = x, s, self.network.rows
        calls = (self._seen - self._earlier) / len(x)
        live = self.screen.live
        if not (live or self.end) and s == 0 and x.shape[1] == len(self.start):
            return
        head = f"t = {s:<8g}{calls:.1f} network calls each" if live else f"t = {s}"
        texts = [marked(self.codec, *rows) for rows in zip(x, before, strict=True)]
        self.screen.show(f"{head}\n{numbered(texts if live else self.codec.decode(x))}", whole=False)


def marked(codec: Codec, row: Tensor, before: Tensor) -> str:
    """A text (L,) with what was not there before in colour; plain where a code's parts do not make the whole."""
    runs = [
        (new, [symbol for symbol, _ in pairs])
        for new, pairs in groupby(zip(row.tolist(), (row != before).tolist(), strict=True), lambda p: p[1])
    ]
    parts = [codec.decode(row.new_tensor([symbols]))[0] for _, symbols in runs]
    (text,) = codec.decode(row[None])
    if "".join(parts) != text:
        return text
    return "".join(f"{NEW}{part}{PLAIN}" if new else part for (new, _), part in zip(runs, parts, strict=True))


def numbered(texts: list[str]) -> str:
    """Texts, one a line, their own line ends as spaces."""
    return "\n".join(f"[{n}] {one_row(text)}" for n, text in enumerate(texts, start=1))


def one_row(text: str) -> str:
    """A text without line ends."""
    return " ".join(text.splitlines())
