"""Finding tables by their name: inside scikit-learn, UCI's files, a path, the data folder, the hub."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3pm.data.base import SPLITS
from d3pm.data.files import inner_suffix, reading
from d3pm.data.places import data_folder, from_hub
from d3pm.data.splits import HELD_OUT_PERCENT, split_of
from d3pm.data.table_files import SUFFIXES, read_table
from d3pm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = {"wine": "cultivar", "iris": "species", "breast_cancer": "diagnosis"}
"""The tables inside scikit-learn, and what the column of their classes is called here."""

TARGETS = {**EMBEDDED, "adult": "income", "mushroom": "class"}
"""The column that is usually predicted, in tables known by their name."""

# fmt: off
ADULT = [
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country",
    "income",
]
MUSHROOM = [
    "class", "cap-shape", "cap-surface", "cap-color", "bruises", "odor", "gill-attachment",
    "gill-spacing", "gill-size", "gill-color", "stalk-shape", "stalk-root", "stalk-surface-above-ring",
    "stalk-surface-below-ring", "stalk-color-above-ring", "stalk-color-below-ring", "veil-type",
    "veil-color", "ring-number", "ring-type", "spore-print-color", "population", "habitat",
]
# fmt: on
_UCI = "https://archive.ics.uci.edu/static/public"


@dataclass(frozen=True)
class TableFinding:
    """A table that was found: where, and how each of its splits is read.

    Attributes:
        where: For people.
        readers: What reads a split, given the columns to read as text; always with ``"train"``.
        drop: Columns to leave out, and why.
        percent: How much of the training rows is kept aside for each split that is not there.
    """

    where: str
    readers: Mapping[str, Callable[[Sequence[str]], "pd.DataFrame"]]
    drop: Mapping[str, str] = field(default_factory=dict)
    percent: int = HELD_OUT_PERCENT


def find_table(
    source: str, missing: Sequence[str] = (), subset: str | None = None, cache_dir: str | None = None
) -> TableFinding:
    """The table of a name.

    Raises:
        DataError: If there is no such thing. The message says where it was looked for, or how to get it.
    """
    if source in EMBEDDED:
        return TableFinding("scikit-learn", {"train": partial(embedded, source)}, percent=20)
    if path := _as_path(source) or _in_data_folder(source):
        return _from_path(path.resolve(), missing)
    if source == "adult":
        return _adult(missing)
    if source == "mushroom":
        return _mushroom(missing)
    return _from_hub(source, subset, cache_dir)


def embedded(source: str, text: Sequence[str] = ()) -> "pd.DataFrame":
    """A table that ships with scikit-learn, the names of its classes as the last column."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{source}")(as_frame=True)
    classes = [str(found.target_names[label]) for label in found.target]
    return found.data.assign(**{EMBEDDED[source]: classes})


def _adult(missing: Sequence[str]) -> TableFinding:
    """UCI Adult: 32,561 training rows and 16,281 test rows."""
    url = f"{_UCI}/2/adult.zip"
    files = {"train": _uci_file("adult", "adult.data", url), "test": _uci_file("adult", "adult.test", url)}
    return TableFinding(
        str(files["train"].parent),
        {name: partial(_read_adult, file, missing) for name, file in files.items()},
    )


def _read_adult(file: Path, missing: Sequence[str], text: Sequence[str]) -> "pd.DataFrame":
    """The test file begins with a remark, and its labels end in a full stop."""
    frame = _headless(file, ADULT, missing, text, comment="|")
    return frame.assign(income=frame["income"].str.rstrip("."))


def _mushroom(missing: Sequence[str]) -> TableFinding:
    """UCI Mushroom: 8,124 rows, categories only."""
    file = _uci_file("mushroom", "agaricus-lepiota.data", f"{_UCI}/73/mushroom.zip")
    readers = {"train": partial(_headless, file, MUSHROOM, missing)}
    return TableFinding(str(file), readers, drop={"veil-type": "it has one value only"}, percent=10)


def _headless(
    file: Path, names: list[str], missing: Sequence[str], text: Sequence[str], **options: Any
) -> "pd.DataFrame":
    return read_table(file, missing, text, sep=",", header=None, names=names, suffix=".csv", **options)


def _uci_file(source: str, name: str, url: str) -> Path:
    root = data_folder()
    places = (
        [root / part / f"{name}{packed}" for part in ("tabular", "") for packed in (".gz", "")]
        if root
        else []
    )
    if found := next((path for path in places if path.is_file()), None):
        return found
    raise DataError(
        f"source: {source!r} needs the file {name}, which is not in $D3PM_DATA ({root or 'not set'}): "
        f"unpack {url} into $D3PM_DATA/tabular"
    )


def _as_path(source: str) -> Path | None:
    path = Path(source).expanduser()
    named_like_one = source.startswith((".", "~", "/")) or inner_suffix(path) in SUFFIXES
    if path.exists() and (named_like_one or len(path.parts) > 1):
        return path
    if named_like_one:
        raise DataError(
            f"source: {source!r} does not exist: give a {', '.join(SUFFIXES)} file or a folder of them"
        )
    return None


def _in_data_folder(name: str) -> Path | None:
    if not (root := data_folder()):
        return None
    files = [f"{name}{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz", ".xz")]
    return next(
        (path for file in (name, *files) for path in (root / file, root / "tabular" / file) if path.exists()),
        None,
    )


def _from_path(path: Path, missing: Sequence[str]) -> TableFinding:
    files = {"train": path} if path.is_file() else _files_of(path)
    readers = {name: partial(read_table, file, missing) for name, file in files.items()}
    return TableFinding(str(path), readers)


def _files_of(folder: Path) -> dict[str, Path]:
    """The table of each split in a folder, by the names of files."""
    found: dict[str, Path] = {}
    for file in sorted(file for file in folder.iterdir() if inner_suffix(file) in SUFFIXES):
        if split := split_of(file.name):
            if split in found:
                raise DataError(f"source: {found[split]} and {file.name} both are the {split} rows: keep one")
            found[split] = file
    if "train" not in found:
        raise DataError(
            f"source: no training rows in {folder}: name a file train.csv (valid.csv and test.csv, where there are any)"
        )
    return found


def _from_hub(source: str, subset: str | None, cache_dir: str | None) -> TableFinding:
    built_in = ", ".join([*EMBEDDED, "adult", "mushroom"])
    splits = from_hub(source, source, subset, built_in, cache_dir=cache_dir)
    where = " ".join(["hub dataset", source, *([subset] if subset else [])])
    rows = {split: part for key, part in splits.items() if (split := split_of(key))}
    if len(splits) == 1:
        rows = {"train": next(iter(splits.values()))}
    if "train" not in rows:
        raise DataError(f"source: {where} has {', '.join(splits)} but no train split: name another dataset")
    readers = {split: partial(_read_hub, rows[split], where) for split in SPLITS if split in rows}
    return TableFinding(where, readers)


def _read_hub(rows: Any, where: str, text: Sequence[str]) -> "pd.DataFrame":
    """The rows as a frame, classes by their names."""
    with reading(where):
        frame = rows.to_pandas()
    for name, feature in rows.features.items():
        if hasattr(feature, "int2str"):
            labels = frame[name].fillna(-1)
            frame[name] = [None if label < 0 else feature.int2str(int(label)) for label in labels]
    return frame
