"""How close drawn rows of a table come to real ones, beside what costs nothing and what cannot be beaten."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.errors import ConfigError, DataError
from d3pm.evaluation.association import cramers_v, mean_gap
from d3pm.evaluation.train_on_synthetic import Score, tstr
from d3pm.evaluation.variation import total_variation


@dataclass(frozen=True)
class Closeness:
    """How far one table is from the rows of a test split.

    Attributes:
        variation: Total variation of each column, (C,).
        association_error: Mean absolute difference of Cramér's V (bias-corrected) over all pairs of columns.
        score: Of a classifier trained on this table and tested on the test rows; None without a target.
    """

    variation: tuple[float, ...]
    association_error: float
    score: Score | None

    def as_dict(self) -> dict[str, float]:
        """Name to number."""
        numbers = {
            "total_variation": sum(self.variation) / len(self.variation),
            "largest_total_variation": max(self.variation),
            "association_error": self.association_error,
        }
        return numbers if self.score is None else numbers | vars(self.score)


@dataclass(frozen=True)
class TableQuality:
    """Drawn rows, independent columns and real rows, equally many of each, against the same test rows.

    Attributes:
        columns: Their names.
        num_rows: Rows of each of the three.
        num_test: Rows they are compared with.
        target: What the classifier predicts, in words; None if there is no target.
        commonest: Share of the commonest class of the target among the test rows; NaN if there is none.
        samples: What is judged.
        independent: Real training rows with every column shuffled by itself: single columns are as they
            should be and nothing hangs together. To be beaten.
        real: Training rows as they are: what a perfect sampler would get, with so many rows.
    """

    columns: tuple[str, ...]
    num_rows: int
    num_test: int
    target: str | None
    commonest: float
    samples: Closeness
    independent: Closeness
    real: Closeness

    @property
    def tables(self) -> dict[str, Closeness]:
        """The three by name."""
        return {"samples": self.samples, "independent": self.independent, "real": self.real}

    def worst(self, count: int) -> list[int]:
        """The columns whose total variation is largest in the samples, the worst first."""
        order = sorted(range(len(self.columns)), key=lambda c: -self.samples.variation[c])
        return order[:count]

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it: three tables of numbers, and the total variation of every column."""
        columns = {
            name: {which: table.variation[c] for which, table in self.tables.items()}
            for c, name in enumerate(self.columns)
        }
        return {
            "num_rows": self.num_rows,
            "num_test": self.num_test,
            "target": self.target,
            "commonest_class": self.commonest,
            **{which: table.as_dict() for which, table in self.tables.items()},
            "columns": columns,
        }


def table_quality(
    samples: Tensor, train: Tensor, test: Tensor, codec: Codec, target: str | None = None, seed: int = 0
) -> TableQuality:
    """Compare drawn rows with real ones; all of them are symbols of a ``codec`` with named columns.

    Of ``samples`` and ``train`` equally many rows are used, as many as the shorter one has, for each
    figure depends on how many there are.

    Args:
        samples: Drawn rows, int64 (N, C).
        train: Rows the model was trained on, int64 (M, C).
        test: Rows it has not seen, int64 (L, C).
        codec: Knows the columns, as a :class:`~d3pm.data.table_codec.TableCodec` does.
        target: The column to predict. One of binned numbers is predicted to lie below its median or not.
        seed: Of which training rows are used, of the shuffles, and of the classifier.

    Raises:
        ConfigError: If there is no such column.
        DataError: If there are no rows.
    """
    if not min(len(samples), len(train), len(test)):
        raise DataError("table_quality: samples, train and test need a row each at least: give more")
    generator = torch.Generator().manual_seed(seed)
    num = min(len(samples), len(train))
    real = train[torch.randperm(len(train), generator=generator)[:num]]
    judge = _Judge(codec, train, test, target, seed)
    return TableQuality(
        columns=tuple(column.name for column in judge.columns),
        num_rows=num,
        num_test=len(test),
        target=judge.says,
        commonest=judge.commonest,
        samples=judge(samples[:num].cpu()),
        independent=judge(shuffled(real, generator)),
        real=judge(real),
    )


def shuffled(rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Every column in an order of its own: the same single columns, independent of each other."""
    order = torch.rand(rows.shape, generator=generator).argsort(0)
    return rows.gather(0, order)


class _Judge:
    """Holds what all three tables are compared with."""

    def __init__(self, codec: Any, train: Tensor, test: Tensor, target: str | None, seed: int) -> None:
        self.columns, self.cardinalities = codec.columns, list(codec.cardinalities)
        self.test, self.seed = test, seed
        self.associations = cramers_v(test, self.cardinalities)
        self.target = None if target is None else _find(target, [column.name for column in self.columns])
        self.says, self.commonest = target, math.nan
        if self.target is None:
            return
        column = self.columns[self.target]
        self.classes = torch.arange(column.num_symbols)
        if column.kind == "numeric":
            self.classes = _halves(train[:, self.target], column)
            self.says = f"{target} below its median or not"
        self.commonest = int(torch.bincount(self.classes[test[:, self.target]]).max()) / len(test)

    def __call__(self, x: Tensor) -> Closeness:
        """One table against the test rows."""
        return Closeness(
            tuple(total_variation(x, self.test, self.cardinalities).tolist()),
            mean_gap(cramers_v(x, self.cardinalities), self.associations),
            None if self.target is None else self._score(x, self.target),
        )

    def _score(self, x: Tensor, target: int) -> Score:
        ordered = [column.kind != "nominal" for column in self.columns]
        tables = (self._classified(x, target), self._classified(self.test, target))
        return tstr(*tables, target, self.cardinalities, ordered, self.seed)

    def _classified(self, x: Tensor, target: int) -> Tensor:
        x = x.clone()
        x[:, target] = self.classes[x[:, target]]
        return x


def _find(target: str, names: Sequence[str]) -> int:
    if target not in names:
        raise ConfigError(f"target is {target!r}, which is no column: choose one of {', '.join(names)}")
    return names.index(target)


def _halves(seen: Tensor, column: Any) -> Tensor:
    """The class of each symbol of a column of binned numbers: 0 below the median bin, 1 from it on, 2 missing."""
    last = column.num_symbols - 1
    gaps = bool(column.decode(torch.tensor([last]).numpy()).isna().any())
    numbers = seen[seen < last] if gaps else seen
    above = torch.arange(column.num_symbols) >= max(int(numbers.median()), 1)
    return torch.where(torch.arange(column.num_symbols) == last, 2 if gaps else 1, above.long())
