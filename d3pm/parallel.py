"""Work that several processes share: pieces dealt out in turn, noise that is each piece's own, results in order.

Results do not depend on who did what: a piece of work has its own source of noise, and what comes back is
put in order again. Who works alone is a team of one; for it everything here is a plain loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from d3pm.draws import mixed
from d3pm.errors import ConfigError, D3PMError

P = TypeVar("P")
R = TypeVar("R")

PATIENCE = timedelta(days=1)
"""How long processes wait for one that is still at work; one that has died is its launcher's affair."""


def noise_of(seed: int, piece: int) -> torch.Generator:
    """The source of noise of one piece of a seed's work, on the CPU; that of piece 0 is the seed's own."""
    return torch.Generator().manual_seed(seed if piece == 0 else mixed(seed, piece))


@dataclass(frozen=True)
class Team:
    """The processes that share a piece of work, as one of them sees it. Piece i is done by process i mod ``size``.

    Attributes:
        rank: Which of them this is, 0 … ``size`` - 1.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes files."""
        return self.rank == 0

    def joined(self, work: Iterable[R]) -> list[R]:
        """Run out ``work``, this process's hand; all that was dealt comes back in order, in every process.

        Where a hand is short (somebody was stopped) that is what comes before the first piece that is missing.
        An error in one process is raised in all.
        """
        if self.size == 1:
            return list(work)
        hand: list[R] = []
        problem: Exception | None = None
        try:
            for result in work:
                hand.append(result)
        except Exception as error:  # told to the others, who would wait for ever
            problem = error
        told = self._told((hand, None if problem is None else _plain(problem)))
        if problem is not None:
            raise problem
        for _, theirs in told:
            if theirs is not None:
                raise theirs
        return in_turn([results for results, _ in told])

    def map(self, work: Callable[[int, P], R], pieces: Iterable[P], bar: str | None = None) -> list[R]:
        """``work(number, piece)`` of every piece, in order, in every process.

        All call ``work`` equally often, as weights that are sharded over the processes need it: who has no piece in
        the last round does the last one once more, for nothing.

        Args:
            work: What is done.
            pieces: To what; a sequence is asked for this process's pieces only.
            bar: What to call it in a progress bar, on a terminal; None shows none.
        """
        if self.size == 1:
            total = len(pieces) if isinstance(pieces, Sized) else None
            return [work(number, piece) for number, piece in _bar(enumerate(pieces), total, bar)]
        pieces = pieces if isinstance(pieces, Sequence) else list(pieces)
        rounds = -(-len(pieces) // self.size)
        mine = [min(self.rank + turn * self.size, len(pieces) - 1) for turn in range(rounds)]
        shown = _bar(mine, rounds, bar if self.first else None)
        return self.joined(work(number, pieces[number]) for number in shown)[: len(pieces)]

    def once(self, work: Callable[[], R]) -> R | None:
        """What the first process makes of ``work()``, and None in the others; its error is raised in all."""
        made: list[R] = []

        def turn() -> Iterator[None]:
            made.extend([work()] if self.first else [])
            yield from ()

        self.joined(turn())
        return made[0] if made else None

    def _told(self, mine: R) -> list[R]:
        """What each process says, by rank: plain objects, with no tensor on a GPU."""
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        heard: list[Any] = [None] * self.size
        dist.all_gather_object(heard, mine)
        return heard


ALONE = Team()
"""A process that shares nothing."""


def everyone() -> Team:
    """All processes that were started together, as ``torchrun`` tells them; a team of one without it.

    Raises:
        ConfigError: If the environment tells of several and not where they meet.
    """
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    team = Team(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if team.size > 1 and "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"WORLD_SIZE is {team.size}, but MASTER_ADDR is not set: start the processes with torchrun, or unset it"
        )
    return team


def local_device() -> torch.device:
    """Where this process computes: its own GPU of this machine, by LOCAL_RANK; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def dealt(
    num: int,
    size: int,
    options: dict[str, Any],
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    team: Team = ALONE,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The batches of ``num`` samples that are this process's: how many samples, and options with a ``generator``.

    Args:
        num: Samples in all.
        size: Of a batch; the last one has what is left.
        options: Tensors (num, \\*) among them are split with the batch.
        seed: Each batch has noise of its own (:func:`noise_of`).
        generator: Instead of a seed: one source that goes on from batch to batch.
        team: Who shares the batches.

    Raises:
        ConfigError: If several processes are to draw from one generator.

    >>> [(n, mine["x"].tolist()) for n, mine in dealt(5, 2, {"x": torch.arange(5)}, seed=1, team=Team(0, 2))]
    [(2, [0, 1]), (1, [4])]
    """
    if team.size > 1 and (seed is None or generator is not None):
        raise ConfigError("several processes cannot draw from one generator: give a seed instead")
    for piece in range(team.rank, -(-num // size), team.size):
        some = slice(piece * size, min((piece + 1) * size, num))
        noise = noise_of(seed, piece) if generator is None and seed is not None else generator
        mine = {
            name: value[some] if isinstance(value, Tensor) and value.dim() and len(value) == num else value
            for name, value in options.items()
        }
        yield some.stop - some.start, mine | {"generator": noise}


def in_turn(hands: Sequence[list[R]]) -> list[R]:
    """What was dealt out in turn, in order again, up to the first piece that is missing.

    >>> in_turn([["a", "d", "g"], ["b"], ["c", "f"]])
    ['a', 'b', 'c', 'd']
    """
    missing: Any = object()
    ordered: list[R] = []
    for piece in (piece for turn in zip_longest(*hands, fillvalue=missing) for piece in turn):
        if piece is missing:
            break
        ordered.append(piece)
    return ordered


def _plain(error: Exception) -> Exception:
    """An error as other processes raise it: a user's mistake as it is, anything else by its name."""
    if isinstance(error, D3PMError):
        return type(error)(*error.args)
    return RuntimeError(f"another process failed: {type(error).__name__}: {error}")


def _bar(pieces: Iterable[P], total: int | None, name: str | None) -> Iterable[P]:
    if name is None:
        return pieces
    from tqdm import tqdm

    return tqdm(pieces, name, total, unit="batch", disable=None)
