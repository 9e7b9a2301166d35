"""Samples that are rows of a table: the first are printed, all are written, or a table's empty cells are filled."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3pm.cli.drawn import drawn, tell
from d3pm.cli.forms import Draw, Form
from d3pm.cli.model import codec_of
from d3pm.cli.targets import check_new
from d3pm.data.table_files import SUFFIXES
from d3pm.model import DiffusionModel

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Rows that are printed."""
CELLS = 1 << 15
"""Cells that a network looks at in one call."""


class Tables(Form):
    """Rows on the screen, or in a file."""

    few = 8
    name = "rows of tables"
    more = "--output samples.csv"
    options = ("impute", "overwrite")

    def check(self, config: Any) -> None:
        """See the base class."""
        check_new(config.output, "--output", SUFFIXES, config.overwrite)
        if config.impute:
            from d3pm.cli.impute import check_impute

            check_impute(config)

    def present(self, draw: Draw, config: Any, home: Path) -> None:
        """Print or write the rows, or write a table with its empty cells filled."""
        if config.impute:
            from d3pm.cli.impute import impute

            impute(draw, config)
            return
        codec: Any = codec_of(draw.model)
        found = drawn(draw, config.num)
        if not draw.team.first:
            return
        frame = codec.frame(found.x0)
        if config.output:
            write(frame, Path(config.output))
            print(f"{config.output}: {len(frame):,} rows of {frame.shape[1]:,} columns")
        else:
            print(shown(frame))
        tell(found, draw, config.num)

    def keep(self, items: list[Any], folder: Path) -> str:
        """The first rows themselves: they need no file."""
        import pandas as pd

        return shown(pd.DataFrame(items, dtype=object))  # integers beside gaps stay integers

    def batch_size(self, model: DiffusionModel) -> int:
        """As many rows as have :data:`CELLS` cells."""
        return rows_at_a_time(model)


def rows_at_a_time(model: DiffusionModel) -> int:
    """How many rows a network looks at in one call, so that wide tables fit the memory and narrow ones are quick."""
    return max(1, CELLS // model.shape[-1])


def shown(frame: "pd.DataFrame") -> str:
    """The first rows, aligned and no wider than the screen: columns in the middle make way.

    >>> import pandas as pd
    >>> print(shown(pd.DataFrame({"town": ["Ulm", None], "age": [30, 5]})))
    town age
     Ulm  30
           5
    """
    top = frame.head(SHOWN)
    top = top.astype(object).where(top.notna(), "")  # each value as it is, and nothing for a missing one
    width = shutil.get_terminal_size((120, 0)).columns
    for columns in range(min(top.shape[1], width // 2), 0, -1):
        lines = top.to_string(index=False, max_cols=columns).splitlines()
        if max(map(len, lines)) <= width:
            break
    if len(top) < len(frame) or columns < frame.shape[1]:
        lines.append(f"… {len(frame):,} rows of {frame.shape[1]:,} columns: --output FILE.csv keeps all")
    return "\n".join(line.rstrip() for line in lines)


def write(frame: "pd.DataFrame", file: Path) -> None:
    """Write a table as its name says; a missing value is an empty cell.

    Raises:
        OSError: If the file cannot be written.
    """
    if file.suffix.lower() == ".parquet":
        frame.to_parquet(file, index=False)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix.lower() == ".tsv" else ",")
