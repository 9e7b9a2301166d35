"""Whole batches from the lanes of a stream, of which each process takes its own rows."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from d3pm.data.blocks import Item
from d3pm.data.lanes import BEGINNING, Lane, LaneState, LaneText
from d3pm.data.row_form import RowForm
from d3pm.errors import ConfigError, D3PMError, DataError

log = logging.getLogger(__name__)

Positions = dict[int, list[int]]
"""The state of each lane, by its number."""


class NoLengthError(DataError, TypeError):
    """A stream was asked for its length; torch and transformers take the TypeError for a no."""


class StreamedRows(IterableDataset[Item]):
    """Rows of an endless text, by lanes.

    Iterated over, it gives a row of each lane in turn. :class:`StepFeed` is what training reads it by.

    Args:
        name: What to call the text in errors.
        text: The text of lane 0 of 1, from which that of each lane is made.
        form: How it becomes rows.
        lanes: How many lanes there are.
        shuffle: Rows in a window of a lane that are shuffled; 0 leaves the order of the text.
        seed: Of the shuffling.
    """

    def __init__(self, name: str, text: LaneText, form: RowForm, lanes: int, shuffle: int, seed: int) -> None:
        self.name, self.text, self.form = name, text, form
        self.lanes, self.shuffle, self.seed = lanes, shuffle, seed

    def lane(self, number: int, state: LaneState = BEGINNING) -> Lane:
        """One of the lanes, from the beginning or from where it stood."""
        text = LaneText(
            self.text.shards, self.text.codec, number, self.lanes, self.text.start, self.text.seed
        )
        return Lane(text, self.form.arrange, self.shuffle, self.seed, state)

    def __iter__(self) -> Iterator[Item]:
        lanes = [self.lane(number) for number in range(self.lanes)]
        while True:
            for lane in lanes:
                yield self.form.item(*lane.take(1))

    def __len__(self) -> int:
        raise NoLengthError(
            f"source: the training split of {self.name} is a stream, whose rows cannot be counted or picked: "
            "use its test split, or read the text with d3pm.data.TextData"
        )

    def __getitem__(self, index: int) -> Item:
        return self.__len__()  # type: ignore[return-value] # raises


@dataclass(frozen=True)
class Portion:
    """Which rows of a whole batch one process carries, in micro-batches.

    Micro-batch m of process p holds the rows from ``(m * processes + p) * micro_batch_size`` on.
    """

    batch_size: int
    micro_batch_size: int
    process: int = 0
    processes: int = 1

    def rows(self) -> list[int]:
        """The rows, ascending."""
        size, round_size = self.micro_batch_size, self.micro_batch_size * self.processes
        return [
            start + self.process * size + row
            for start in range(0, self.batch_size, round_size)
            for row in range(size)
        ]

    def by_lane(self, lanes: int) -> dict[int, list[int]]:
        """Lane to the rows of its own run of ``batch_size // lanes`` that are this process's."""
        run = self.batch_size // lanes
        found: dict[int, list[int]] = {}
        for row in self.rows():
            found.setdefault(row // run, []).append(row % run)
        return found


class StepFeed:
    """Micro-batches ``{"x0", …}`` of one process, without end.

    What the whole batches hold depends on the stream alone: not on the number of processes, micro-batches or
    loading processes. A lane is tokenized by every process that carries rows of it, so lanes that divide among
    the processes cost nothing double.

    Args:
        rows: The stream.
        portion: The rows of this process.
        num_workers: Loading processes; a divisor of the lanes that this process reads.
        device: Where batches go; a GPU gets them without waiting.

    Attributes:
        wanted: Lane to the rows of its run in a batch that this process carries.
        positions: Where each of these lanes stood after the last whole step; set before the first batch, that is where
            they go on.

    Raises:
        ConfigError: If lanes do not divide the batch, or loading processes do not divide this process's lanes.
    """

    def __init__(
        self, rows: StreamedRows, portion: Portion, num_workers: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        check_batch(rows, portion.batch_size)
        self.stream, self.portion, self.device = rows, portion, torch.device(device)
        self.wanted = portion.by_lane(rows.lanes)
        self.num_workers = num_workers
        if num_workers and len(self.wanted) % num_workers:
            raise ConfigError(
                f"training.num_workers is {num_workers}, but each process reads {len(self.wanted)} of the "
                f"{rows.lanes} lanes of the data: give a divisor of {len(self.wanted)}, or change data.lanes"
            )
        self.positions: Positions = {lane: BEGINNING.as_list() for lane in self.wanted}
        self._warn_of_double_work()

    def _warn_of_double_work(self) -> None:
        run, processes = self.portion.batch_size // self.stream.lanes, self.portion.processes
        if self.portion.process == 0 and any(len(mine) < run for mine in self.wanted.values()):
            log.warning(
                "data.lanes is %s: some are tokenized by several of the %s processes; a multiple of %s (more with "
                "micro-batches) spares that",
                *(self.stream.lanes, processes, processes),
            )

    def __iter__(self) -> Iterator[Item]:
        runs = iter(self._loader())
        while True:
            parts = [_whole(next(runs)) for _ in self.wanted]
            self.positions = {lane: state for lane, state, _ in parts}
            whole = {key: torch.cat([rows[key] for *_, rows in parts]) for key in parts[0][2]}
            yield from self._micro_batches(whole)

    def _loader(self) -> DataLoader:
        return DataLoader(
            _Runs(self.stream, self.wanted, self.positions, self.portion.batch_size // self.stream.lanes),
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # a loader draws a seed: not from the global generator
        )

    def _micro_batches(self, rows: Item) -> Iterator[Item]:
        size = self.portion.micro_batch_size
        for start in range(0, len(rows["x0"]), size):
            yield {key: self._placed(values[start : start + size]) for key, values in rows.items()}

    def _placed(self, values: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return values
        return values.pin_memory().to(self.device, non_blocking=True)


def check_batch(rows: StreamedRows, batch_size: int) -> None:
    """Refuse (ConfigError) a batch that does not fall into equal runs of the lanes."""
    if batch_size % rows.lanes:
        raise ConfigError(
            f"training.batch_size is {batch_size}, which the {rows.lanes} lanes of the data do not divide: "
            "change it or data.lanes"
        )


Run = tuple[int, list[int], Item]
"""A lane, its state after a step, and what a process has of its rows."""


def _whole(run: Run | D3PMError) -> Run:
    if isinstance(run, D3PMError):
        raise run
    return run


class _Runs(IterableDataset[Any]):
    """For every step and every lane: (lane, its state after the step, this process's rows of it)."""

    def __init__(
        self, stream: StreamedRows, wanted: Mapping[int, list[int]], positions: Positions, run: int
    ) -> None:
        self.stream, self.wanted, self.positions, self.run = stream, dict(wanted), dict(positions), run

    def __iter__(self) -> Iterator[Run | D3PMError]:
        try:
            yield from self._runs()
        except D3PMError as error:  # a loader would wrap it into the traceback of its process
            yield error

    def _runs(self) -> Iterator[Run]:
        mine = list(self.wanted)
        if worker := get_worker_info():
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not outlive a fork
            mine = mine[worker.id :: worker.num_workers]
        lanes = {
            number: self.stream.lane(number, LaneState.from_list(self.positions[number])) for number in mine
        }
        while True:
            for number, lane in lanes.items():
                taken = lane.take(self.run)
                rows = [self.stream.form.item(taken[row]) for row in self.wanted[number]]
                yield number, lane.state.as_list(), default_collate(rows)
