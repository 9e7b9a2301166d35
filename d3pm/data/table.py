"""Tables as a data source: from a name to rows of integers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from d3pm.data.base import SPLITS, Codec, DataSource
from d3pm.data.column_fit import chosen_kinds, kind_of
from d3pm.data.columns import KINDS, listed
from d3pm.data.splits import known
from d3pm.data.table_codec import TableCodec
from d3pm.data.table_cut import cut
from d3pm.data.table_files import without_signs
from d3pm.data.table_rows import TableRows
from d3pm.data.table_sources import TARGETS, TableFinding, find_table
from d3pm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd


class TableData(DataSource):
    """A table found by name, kept in memory, shown as rows of symbols.

    What a column is, its type tells: text and bools are nominal, numbers are ordinal where there are at most
    ``bins`` different ones and else numeric, that is binned. The codec is fitted on the training rows alone.
    Splits that the source lacks are cut from its training rows, always in the same way: 5 % each, 10 % of
    Mushroom, 20 % of what ships with scikit-learn. The cut leaves in training one row of every category.

    Args:
        source: ``"wine"``, ``"iris"`` or ``"breast_cancer"`` (inside scikit-learn, no download); ``"adult"`` or
            ``"mushroom"`` (UCI's files, in the folder ``$D3PM_DATA/tabular``); a .csv, .tsv or .parquet file,
            which may be packed; a folder with a train file, and perhaps valid and test; or a dataset on the hub.
            A plain name is looked for in the folder ``$D3PM_DATA`` first.
        target: The column that a classifier is to predict where samples are judged by what one learns from
            them; None takes the usual one of a table that is known by its name.
        drop: Columns to leave out.
        ordinal: Columns to take as ordinal. A mapping gives the values of each in order (for text), null
            the natural order.
        nominal: Columns to take as nominal.
        numeric: Columns to bin, however few numbers they have: then a new number is no error.
        bins: How many bins a numeric column has at most.
        missing: What stands for a missing value, besides an empty cell; one sign or several.
        validation: Rows to keep aside from training where the source has no validation split.
        subset: The configuration of a hub dataset.
        cache_dir: Where ``datasets`` keeps what it downloads.

    Raises:
        ConfigError: If an option is out of range, or names a column that is not there (the latter at first use).
        DataError: (At first use) if the table is not to be had, has a column of one value only or of
            dates, or a split has a value that training has not: the column, the row and the value.

    Examples:
        >>> data = TableData("iris")
        >>> data.shape, data.codec.cardinalities, data.target
        ((5,), (28, 23, 32, 22, 3), 'species')
        >>> data.frame("test").columns.tolist() == data.codec.names
        True
    """

    def __init__(
        self,
        source: str = "wine",
        target: str | None = None,
        drop: Sequence[str] = (),
        ordinal: Sequence[str] | Mapping[str, Sequence[Any] | None] = (),
        nominal: Sequence[str] = (),
        numeric: Sequence[str] = (),
        bins: int = 32,
        missing: str | Sequence[str] | None = "?",
        validation: int | None = None,
        subset: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.source = source
        self.target = TARGETS.get(source) if target is None else target
        self.drop = drop
        self.ordinal = ordinal
        self.nominal = nominal
        self.numeric = numeric
        self.bins = bins
        self.missing = missing
        self.validation = validation
        self.subset = subset
        self.cache_dir = cache_dir
        self._check()
        self._fixed = False  # whether the codec was fitted to another table
        self._frames: dict[str, pd.DataFrame] = {}
        self._rows: dict[str, TableRows] = {}

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override] # an attribute, found when first asked for
        """``(C,)``: how many columns there are."""
        return (len(self.codec.columns),)

    @cached_property
    def codec(self) -> TableCodec:  # type: ignore[override]
        """The codec of every split, fitted on the training rows."""
        kinds = self._kinds
        named: dict[str, list[str]] = {
            kind: [name for name, own in kinds.items() if own == kind] for kind in KINDS
        }
        orders = self.ordinal if isinstance(self.ordinal, Mapping) else {}
        ordinal = {name: orders.get(name) for name in named["ordinal"]}
        return TableCodec.fit(
            self.frame("train"), named["nominal"], ordinal, named["numeric"], self.bins, self._signs
        )

    def read_in(self, codec: Codec) -> "TableData":
        """The table in a code that was fitted to another one, as ``d3pm evaluate`` needs it.

        Nothing is fitted and nothing is cut: each split that the source lacks is all of its rows.

        Raises:
            DataError: (At first use) if a column is missing or unknown, or a value was not in that other table.
        """
        if not isinstance(codec, TableCodec):
            return self
        other = copy(self)
        other._frames, other._rows, other._fixed = {}, {}, True
        kinds = {column.name: column.kind for column in codec.columns}
        other.__dict__ |= {"codec": codec, "_kinds": kinds}
        other.__dict__.pop("_whole", None)
        return other

    def split(self, name: str) -> TableRows:
        """``"train"``, ``"validation"`` or ``"test"``: ``{"x0": int64 (C,)}``, encoded once.

        Raises:
            ConfigError: If there is no split of that name.
            DataError: If a row has a value the codec does not know: which column, row and value.
        """
        if known(name) not in self._rows:
            frame, codec = self.frame(name), self.codec
            try:
                self._rows[name] = TableRows(codec.encode_frame(frame))
            except DataError as error:
                raise DataError(f"{self.source}, {name} rows: {error}") from error
        return self._rows[name]

    def frame(self, name: str) -> "pd.DataFrame":
        """The values of a split as the source has them, not binned: columns in the codec's order, rows from 0 on."""
        if known(name) not in self._frames:
            own = name in self._finding.readers and name != "train"
            if self._fixed and not own:
                return self._whole
            self._frames |= {name: self._tidy(name)} if own else self._cut()
        return self._frames[name]

    def describe(self) -> str:
        """One line: what was found, where, how many rows of what columns, and how they are split."""
        amounts = {name: len(self.frame(name)) for name in SPLITS}
        cardinalities = self.codec.cardinalities
        holes = sum(column.missing for column in self.codec.columns)
        facts = [
            f"{sum(amounts.values()):,} rows of {len(cardinalities)} columns ({self._kinds_in_words()})",
            f"{min(cardinalities)} … {max(cardinalities)} symbols",
            *([f"missing values in {holes} column{'s' if holes > 1 else ''}"] if holes else []),
            *(
                f"{name} left out ({why})"
                for name, why in self._finding.drop.items()
                if name not in self.drop
            ),
            self._finding.where,
        ]
        return (
            f"{self.source}: {', '.join(facts)}: "
            f"{', '.join(f'{name} {amount:,}' for name, amount in amounts.items())}"
        )

    def _kinds_in_words(self) -> str:
        counts = Counter(column.kind for column in self.codec.columns)
        words = [f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]]
        return ", ".join(words) + (f" in up to {self.bins} bins" if counts["numeric"] else "")

    @cached_property
    def _finding(self) -> TableFinding:
        return find_table(self.source, self._signs, self.subset, self.cache_dir)

    @property
    def _signs(self) -> list[str]:
        if self.missing is None:
            return []
        return [self.missing] if isinstance(self.missing, str) else list(self.missing)

    @cached_property
    def _whole(self) -> "pd.DataFrame":
        """The training rows before anything is cut from them."""
        return self._tidy("train")

    @cached_property
    def _kinds(self) -> dict[str, str]:
        """The kind of each column, found before the cut so that it does not hang on it."""
        named = chosen_kinds(self._whole, self.nominal, self.ordinal, self.numeric)
        return {name: named.get(name) or kind_of(self._whole[name], self.bins) for name in self._whole}

    def _tidy(self, name: str) -> "pd.DataFrame":
        """A split as it was found, less the columns left out and with missing values for their signs."""
        text: list[str] = []
        if name != "train" or self._fixed:
            text = [column.name for column in self.codec.columns if isinstance(column.values[0], str)]
        frame = self._finding.readers[name](text)
        frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
        if name == "train" and not self._fixed:
            self._check_columns(list(frame))
        frame = frame.drop(columns=[*self.drop, *self._finding.drop], errors="ignore")
        if name != "train" and not self._fixed and set(frame) == set(self._whole):
            frame = frame[list(self._whole)]
        return without_signs(frame, self._signs).reset_index(drop=True)

    def _cut(self) -> "dict[str, pd.DataFrame]":
        """The training rows, and apart from them the splits that the source lacks."""
        whole, counts = self._whole, self._counts(len(self._whole))
        return cut(whole, counts, [name for name, kind in self._kinds.items() if kind != "numeric"])

    def _counts(self, total: int) -> dict[str, int]:
        """How many rows of ``total`` each split is given that the source lacks."""
        missing = [name for name in SPLITS if name not in self._finding.readers]
        counts = dict.fromkeys(missing, max(1, total * self._finding.percent // 100))
        if self.validation is not None:
            if "validation" not in missing:
                raise ConfigError(
                    f"validation: {self.validation} cannot be cut, {self._finding.where} has a validation split of "
                    f"its own: leave validation out"
                )
            counts["validation"] = self.validation
        if sum(counts.values()) >= total:
            raise ConfigError(
                f"validation: {total} rows less {counts} leave none for training: lower it, or give more"
            )
        return counts

    def _check_columns(self, names: list[str]) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(
                f"source: column {twice[0]!r} is there more than once: rename or remove all but one"
            )
        if strange := [name for name in self.drop if name not in names]:
            raise ConfigError(f"drop: no column {strange[0]!r}: name some of {listed(names, most=20)}")
        left = [name for name in names if name not in {*self.drop, *self._finding.drop}]
        if not left:
            raise ConfigError(f"drop: {listed(names)} are all columns there are: leave some")
        if self.target is not None and self.target not in left:
            raise ConfigError(f"target: no column {self.target!r}: name one of {listed(left, most=20)}")

    def _check(self) -> None:
        for field in ("drop", "nominal", "numeric", "ordinal"):
            if isinstance(value := getattr(self, field), str):
                raise ConfigError(f"{field}: {value!r} is no list: write {field}: [{value}]")
        if self.bins < 2:
            raise ConfigError(f"bins: {self.bins} is too few to tell numbers apart: give 2 or more, e.g. 32")
        if self.validation is not None and self.validation < 1:
            raise ConfigError(f"validation: {self.validation} is no split: give 1 or more rows")
