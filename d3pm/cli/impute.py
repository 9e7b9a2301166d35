"""Filling the empty cells of a table, given the cells beside them."""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d3pm.cli.drawn import cost, until_stopped
from d3pm.cli.forms import Draw
from d3pm.cli.frames import write
from d3pm.cli.model import codec_of
from d3pm.cli.parser import did_you_mean
from d3pm.data.files import inner_suffix
from d3pm.data.table_codec import TableCodec
from d3pm.data.table_files import read_table
from d3pm.errors import ConfigError, DataError
from d3pm.guidance import Around
from d3pm.objectives import Network
from d3pm.sampling import Samples

if TYPE_CHECKING:
    import pandas as pd


def check_impute(config: Any) -> None:
    """Refuse (ConfigError) options that do not go with ``--impute``, before the table is read."""
    if config.num is not None:
        raise ConfigError(
            f"--num is {config.num}, but --impute fills each row once: leave it out, and draw again with another --seed"
        )
    if not config.output:
        raise ConfigError("--impute fills a table, but there is no --output: name the file to write")
    parquet = [inner_suffix(Path(file)) == ".parquet" for file in (config.impute, config.output)]
    if parquet[0] != parquet[1]:
        raise ConfigError(
            f"--output is {config.output}, but --impute {config.impute}: have both be .parquet, or neither, so that "
            "known cells can stay as they are"
        )


def impute(draw: Draw, config: Any) -> None:
    """Fill the table ``config.impute``, write ``config.output``, and say how much was filled.

    Whoever stops it keeps the rows that are done: the rest is written with its cells still empty, and a
    second call goes on with that file.

    Raises:
        DataError: If the table cannot be read, has other columns, or a value that training had not.
        ConfigError: If no cell of it is empty.
    """
    codec: Any = codec_of(draw.model)
    holes = Holes.read(config.impute, codec)
    todo = holes.blanks.any(1).nonzero()[:, 0]
    if not len(todo):
        raise ConfigError(
            f"--impute {config.impute}: no cell is empty among {len(holes.cells):,} rows, so there is nothing to "
            "fill in: leave the cells to be filled empty"
        )
    parts = draw.team.joined(until_stopped(holes.drawn(todo, draw)))
    if not parts:
        raise KeyboardInterrupt
    if not draw.team.first:
        return
    found = Samples.cat(parts)
    done = todo[: len(found.x0)]
    holes.x0[done] = found.x0.cpu()
    write(holes.filled(done), Path(config.output))
    cells = int(holes.blanks[done].sum())
    print(f"{config.output}: {cells:,} cells filled, in {len(done):,} of {len(holes.cells):,} rows")
    print(cost(found, draw.counted, "rows"), file=sys.stderr)
    if len(done) < len(todo):
        left = len(todo) - len(done)
        print(f"{left:,} rows are left: go on with --impute {config.output}", file=sys.stderr)
        raise KeyboardInterrupt


@dataclass
class Holes:
    """A table with empty cells.

    Attributes:
        codec: Of the model.
        cells: The table as it is in its file: of a .csv every cell is text.
        x0: Its symbols, int64 (N, C), columns in the codec's order; whatever it holds where cells are empty.
        blanks: Which cells are empty, bool (N, C).
    """

    codec: TableCodec
    cells: "pd.DataFrame"
    x0: Tensor
    blanks: Tensor

    @classmethod
    def read(cls, file: str, codec: TableCodec) -> "Holes":
        """Read a file.

        Raises:
            DataError: If it cannot be read, has other columns than the codec, or a value the codec does not know.
        """
        try:
            typed = codec.read(file)
            _check_columns(list(typed), codec.names)
            x0, blanks = codec.encode_frame(typed, blanks=True), codec.blanks(typed)
            return cls(codec, _exactly(file, codec), x0, blanks)
        except DataError as error:
            message = _from_one(str(error).removeprefix("source: ").removeprefix(f"{file} "))
            raise DataError(f"--impute {file}: {message}") from error

    def drawn(self, rows: Tensor, draw: Draw) -> Iterator[Samples]:
        """Some rows (n,) with their empty cells drawn, given the known ones: the batches that are this process's."""
        network = Complete(draw.network, self.codec)
        held = {"x0": self.x0[rows], "known": ~self.blanks[rows]}
        batches = draw.batches(len(rows), network=network, progress=False, **held)
        rounds = -(-len(rows) // (draw.options["batch_size"] * draw.team.size))
        hidden = None if draw.team.first else True
        return iter(tqdm(batches, "imputing", rounds, unit="batch", disable=hidden))

    def filled(self, rows: Tensor) -> "pd.DataFrame":
        """The table with those cells of some rows (n,) filled that were empty; all others are left alone."""
        cells = self.cells.copy()
        place = {name: i for i, name in enumerate(self.codec.names)}
        for name in cells:
            column = place[name]
            mine = rows[self.blanks[rows, column]]
            if len(mine):
                values = self.codec.columns[column].decode(self.x0[mine, column].numpy())
                cells[name] = _put(cells[name], mine.numpy(), values)
        return cells


class Complete(Around):
    """A network that believes in no missing value: what is filled in is to be a value.

    Args:
        network: What it wraps.
        codec: Knows which columns have a symbol for a missing value, their last.
    """

    def __init__(self, network: Network, codec: TableCodec) -> None:
        self.network = network
        missing = [column.num_symbols - 1 if column.missing else -1 for column in codec.columns]
        self._missing = torch.tensor(missing)[:, None]

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Logits (B, C, K), minus infinity for missing values."""
        output = self.network(x_t, t, **cond)
        symbols = torch.arange(output.shape[-1], device=output.device)
        return output.masked_fill(symbols == self._missing.to(output.device), -math.inf)


def _from_one(message: str) -> str:
    """A complaint about a row, which data count from 0, with the row as one finds it in the file.

    >>> _from_one("column 'age', row 7: 'old' is no number")
    "column 'age', row 8 (the first below the header is 1): 'old' is no number"
    """
    return re.sub(
        r"^(column .*?, row )(\d+):",
        lambda found: f"{found[1]}{int(found[2]) + 1} (the first below the header is 1):",
        message,
    )


def _check_columns(theirs: list[str], ours: list[str]) -> None:
    """Refuse (DataError) a table with other columns than the model's."""
    absent = [name for name in ours if name not in theirs]
    for name in theirs:
        if name not in ours:
            raise DataError(
                f"column {name!r} is none of the model's: leave it out{did_you_mean(name, absent)}"
            )
    if absent:
        raise DataError(
            f"column {absent[0]!r} is not there: add it, with empty cells if it is to be filled in"
        )


def _exactly(file: str, codec: TableCodec) -> "pd.DataFrame":
    """The cells as they stand in the file: text, or a .parquet file's own types."""
    import pandas as pd

    if inner_suffix(Path(file)) == ".parquet":
        return pd.read_parquet(file, dtype_backend="pyarrow")
    return read_table(Path(file), text=codec.names, keep_default_na=False)


def _put(series: "pd.Series", rows: np.ndarray, values: "pd.Series") -> "pd.Series":
    """A copy of a column with values in some of its rows, in the column's own type."""
    import pandas as pd

    text = pd.api.types.is_string_dtype(series.dtype)
    series = series.copy()
    series.iloc[rows] = (values.astype("str") if text else values).to_numpy(dtype=object)
    return series
