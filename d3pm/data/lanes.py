"""Lanes: an endless text cut into parts that are read side by side, each of which knows where it stands.

Row ``j`` of a whole batch of B rows belongs to lane ``j * lanes // B``, whichever process trains on it, so the batches
do not depend on how many processes there are. A lane's state is six numbers: where its window of rows begins, which
window it is, and how many of its rows were given out. Going on from there reads the one shard up to that place again
and tokenizes one window, nothing more.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import count, islice
from math import gcd
from typing import Self

import numpy as np

from d3pm.data.codec import TextCodec
from d3pm.data.shards import Shard
from d3pm.errors import DataError

Row = list[np.ndarray]
"""The documents of a row; a row of joined text is one."""

_AT_ONCE = 16


@dataclass(frozen=True)
class Place:
    """A place in a text: before a token of a unit of a shard, which is counted in the order of its epoch."""

    epoch: int = 0
    shard: int = 0
    unit: int = 0
    token: int = 0


@dataclass(frozen=True)
class LaneText:
    """The text of one lane, encoded unit by unit from any place on. Places count the tokens that are not held out.

    Of S shards and N lanes, a lane gets every ``gcd(S, N)``-th shard, and shares it with the ``N / gcd(S, N)`` lanes
    that get the same, unit by unit: an epoch shows all of the text once, to one lane. Where N divides S every shard is
    read by one lane only; else it is read (though not tokenized) by several.

    Args:
        shards: All of them.
        codec: Encodes a unit.
        lane: Which lane this is, from 0.
        lanes: N.
        start: Where the text begins: before it lies what is held out.
        seed: Shuffles the shards of each epoch; None leaves their order.
        endless: Whether the text is read again and again, or once.
    """

    shards: Sequence[Shard]
    codec: TextCodec
    lane: int = 0
    lanes: int = 1
    start: Place = Place()
    seed: int | None = None
    endless: bool = True

    def units(self, place: Place) -> Iterator[tuple[Place, np.ndarray]]:
        """The units from that of ``place`` on, each with its own place; those without tokens are left out.

        Raises:
            DataError: If an epoch has nothing for this lane, or the text cannot be read or encoded.
        """
        for epoch in count(place.epoch) if self.endless else [0]:
            found = place != Place(epoch)
            for number, shard in list(enumerate(self._order(epoch)))[place.shard :]:
                first = place.unit if number == place.shard else 0
                for unit, tokens in self._encoded(shard, first):
                    found = True
                    yield Place(epoch, number, unit), tokens
            if self.endless and not found:
                raise DataError(
                    f"lanes: nothing of the text is left for lane {self.lane} of {self.lanes} beside what is held "
                    "out: give fewer lanes, a smaller held_out or more text"
                )
            place = Place(epoch + 1)

    def _order(self, epoch: int) -> list[int]:
        """The numbers of this lane's shards, in the order of an epoch."""
        groups = gcd(len(self.shards), self.lanes)
        mine = np.arange(self.lane % groups, len(self.shards), groups)
        if self.seed is not None:
            mine = np.random.default_rng([self.seed, self.lane % groups, epoch]).permutation(mine)
        return mine.tolist()

    def _encoded(self, shard: int, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """The lane's units of a shard from number ``first`` on, with their numbers."""
        units = self._chosen(shard, first)
        while batch := list(islice(units, _AT_ONCE)):
            numbers, texts = zip(*batch, strict=True)
            try:
                encoded = list(self.codec.encode_all(texts))
            except DataError:
                self._name_the_unit(shard, batch)
                raise
            for unit, tokens in zip(numbers, encoded, strict=True):
                kept = tokens[self._held_out_of(shard, unit) :]
                if len(kept):
                    yield unit, kept.astype(np.min_scalar_type(self.codec.num_symbols - 1))

    def _chosen(self, shard: int, first: int) -> Iterator[tuple[int, str]]:
        begin = self._begin(shard)
        if begin is None:
            return
        groups = gcd(len(self.shards), self.lanes)
        sharers, turn = self.lanes // groups, self.lane // groups
        for unit, read in enumerate(self.shards[shard].units()):
            if unit >= max(first, begin) and (unit - begin) % sharers == turn:
                yield unit, self.shards[shard].normal(read)

    def _begin(self, shard: int) -> int | None:
        """The first unit of a shard that is not held out; None where all of it is."""
        if shard != self.start.shard:
            return 0 if shard > self.start.shard else None
        return self.start.unit

    def _held_out_of(self, shard: int, unit: int) -> int:
        """How many tokens of a unit are held out; of the others all or none are."""
        return self.start.token if (shard, unit) == (self.start.shard, self.start.unit) else 0

    def _name_the_unit(self, shard: int, batch: Sequence[tuple[int, str]]) -> None:
        for unit, text in batch:
            try:
                self.codec.encode(text)
            except DataError as error:
                where = f"{self.shards[shard].name}, {self.shards[shard].kind} {unit}"
                raise DataError(f"source: {where}: {error}") from error


class Cursor:
    """Reads a text on from a place, by tokens or by units, and knows where it stands."""

    def __init__(self, text: LaneText, place: Place) -> None:
        self._units = text.units(place)
        self._at, self._size, self._rest = place, place.token, np.empty(0, np.int64)
        self._skip = place.token

    @property
    def place(self) -> Place:
        """Before the next token."""
        return replace(self._at, token=self._size - len(self._rest))

    def tokens(self, number: int) -> np.ndarray:
        """So many tokens, whatever units they are of; fewer at the end of a text that has one."""
        parts: list[np.ndarray] = []
        while number and (len(self._rest) or self._next()):
            part, self._rest = self._rest[:number], self._rest[number:]
            parts.append(part)
            number -= len(part)
        return np.concatenate(parts) if parts else self._rest

    def documents(self, number: int) -> list[np.ndarray]:
        """So many whole units; fewer at the end of a text that has one."""
        found: list[np.ndarray] = []
        while len(found) < number and (len(self._rest) or self._next()):
            found.append(self._rest)
            self._rest = self._rest[:0]
        return found

    def _next(self) -> bool:
        """Go to the next unit that has tokens left; False at the end."""
        for place, tokens in self._units:
            self._at = place
            self._size, self._rest, self._skip = len(tokens), tokens[self._skip :], 0
            if len(self._rest):
                return True
        return False


Arrange = Callable[[Cursor, int], list[Row]]
"""What makes a window of about so many rows out of the text that follows."""


@dataclass(frozen=True)
class LaneState:
    """Where a lane stands: the place at which its window begins, the window's number, and the rows used of it."""

    place: Place = Place()
    window: int = 0
    used: int = 0

    def as_list(self) -> list[int]:
        """Six integers."""
        return [*astuple(self.place), self.window, self.used]

    @classmethod
    def from_list(cls, numbers: Sequence[int]) -> Self:
        """What :meth:`as_list` gave."""
        *place, window, used = numbers
        return cls(Place(*place), window, used)


BEGINNING = LaneState()


class Lane:
    """Rows of one lane without end, shuffled within windows of ``shuffle`` rows.

    Args:
        text: What it reads.
        arrange: Makes rows of it.
        shuffle: Rows in a window; 0 leaves the order of the text.
        seed: Of the shuffling.
        state: Where to go on.
    """

    WINDOW = 64

    def __init__(
        self, text: LaneText, arrange: Arrange, shuffle: int, seed: int, state: LaneState = BEGINNING
    ) -> None:
        self._cursor = Cursor(text, state.place)
        self._arrange, self._shuffle, self._key = arrange, shuffle, [seed, text.lane]
        self._state = state
        self._rows: deque[Row] | None = None

    @property
    def state(self) -> LaneState:
        """Where it stands."""
        return self._state

    def take(self, number: int) -> list[Row]:
        """The next rows."""
        taken: list[Row] = []
        while len(taken) < number:
            if self._rows is None:
                self._rows = self._window()
            if not self._rows:
                self._state = LaneState(self._cursor.place, self._state.window + 1)
                self._rows = self._window()
            taken.append(self._rows.popleft())
            self._state = replace(self._state, used=self._state.used + 1)
        return taken

    def _window(self) -> deque[Row]:
        rows = self._arrange(self._cursor, self._shuffle or self.WINDOW)
        if self._shuffle:
            order = np.random.default_rng([*self._key, self._state.window]).permutation(len(rows))
            rows = [rows[place] for place in order]
        return deque(rows[self._state.used :])
