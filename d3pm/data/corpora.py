"""Finding a text by its name: the one that ships with Python, a path, a local data folder, the hub."""

import logging
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from d3pm.data.files import COMPRESSED, TABLES, file_kind
from d3pm.data.normalize import text8_normalize
from d3pm.data.places import data_folder, from_hub
from d3pm.data.readers import HubRows, Joined, Reader, Text, open_reader
from d3pm.data.splits import split_of
from d3pm.errors import DataError

HUB_NAMES = {"text8": "afmck/text8"}
"""Short names that the hub knows by a longer one."""

_WILD = "*?["

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """A text that was found: where, and what splits it comes in.

    ``splits`` has a ``"train"`` always; those it lacks are to be cut from the end of that.
    """

    where: str
    splits: dict[str, Reader]


def find(source: str, column: str = "text", subset: str | None = None, *, streaming: bool = False) -> Corpus:
    """The corpus of a name.

    ``"pydoc"`` is the Python reference manual inside every Python, in text8's alphabet. What looks like a
    path (``./folder``, ``data/a.txt``, ``a.parquet``) is one, and ``shards/*.parquet`` is all files of that
    pattern. Any other name is looked for in the folder
    ``$D3PM_DATA`` (a file or a folder of that name; else, with a warning, the first folder whose name goes
    on with ``_`` or ``-``, such as ``text8_prefix``), then on the hub through ``datasets``; with ``streaming``
    nothing of it is stored on this machine.

    Raises:
        DataError: If there is no such text, or it cannot be read. The message says where it was looked for.
    """
    if source == "pydoc":
        return Corpus("the Python reference manual (pydoc_data.topics)", {"train": Text(_pydoc())})
    if any(sign in source for sign in _WILD) and not Path(source).expanduser().exists():
        return _from_pattern(source, column)
    if path := _as_path(source) or _in_data_folder(source):
        return _from_path(path.resolve(), column)
    return _from_hub(source, column, subset, streaming)


def _pydoc() -> str:
    from pydoc_data.topics import topics

    return text8_normalize("\n".join(topics[name] for name in sorted(topics)))


def _as_path(source: str) -> Path | None:
    path = Path(source).expanduser()
    named_like_one = source.startswith((".", "~", "/")) or file_kind(path) is not None
    if path.exists() and (named_like_one or len(path.parts) > 1):
        return path
    if named_like_one or path.is_absolute():
        raise DataError(f"source: {source!r} does not exist: give the path of a text file or folder")
    return None


def _from_pattern(pattern: str, column: str) -> Corpus:
    found = map(Path, sorted(glob(str(Path(pattern).expanduser()), recursive=True)))
    files = [path.resolve() for path in found if path.is_file()]
    if not files:
        raise DataError(f"source: no file is called {pattern!r}: give a pattern such as shards/*.jsonl.gz")
    return Corpus(pattern, _group(files, column, Path(pattern).parent))


def _in_data_folder(name: str) -> Path | None:
    if not (folder := data_folder()):
        return None
    plain = ["", ".txt", *TABLES]
    names = [name + kind + packed for packed in ("", *COMPRESSED) for kind in plain]
    exact = next((folder / found for found in names if (folder / found).exists()), None)
    return exact or _variant(folder, name)


def _variant(folder: Path, name: str) -> Path | None:
    """A folder that by its name is some form of the text (a prefix, a sample): to be used, but said."""
    starts = (f"{name}_", f"{name}-")
    found = next((p for p in sorted(folder.iterdir()) if p.name.startswith(starts) and p.is_dir()), None)
    if found:
        log.warning("%s: there is no %s in %s, so %s stands in for it", name, name, folder, found.name)
    return found


def _from_path(path: Path, column: str) -> Corpus:
    if path.is_file():
        return Corpus(str(path), {"train": open_reader(path, column)})
    files = [file for file in sorted(path.iterdir()) if file.is_file() and file_kind(file)]
    if (path / path.name).is_file():
        files = [path / path.name]
    if not files:
        raise DataError(
            f"source: no text in {path}: put .txt (.xz, .gz, .zip), .parquet, .jsonl or .csv there"
        )
    if len(files) == 1:
        return Corpus(str(files[0]), {"train": open_reader(files[0], column)})
    return Corpus(str(path), _group(files, column, path))


def _group(files: list[Path], column: str, folder: Path) -> dict[str, Reader]:
    """Files named train…, valid… and test… are those splits; without such names all are one text."""
    groups: dict[str, list[Reader]] = {}
    for file in files:
        if name := split_of(file.name):
            groups.setdefault(name, []).append(open_reader(file, column))
    if not groups:
        return {"train": Joined([open_reader(file, column) for file in files])}
    if "train" not in groups:
        raise DataError(f"source: {folder} has {', '.join(groups)} but no train file: add one named train…")
    return {name: Joined(readers) for name, readers in groups.items()}


def _from_hub(name: str, column: str, subset: str | None, streaming: bool) -> Corpus:
    hub_name = HUB_NAMES.get(name, name)
    where = " ".join(["hub dataset", hub_name, *([subset] if subset else [])])
    options = {"streaming": True} if streaming else {}
    dataset = from_hub(name, hub_name, subset, built_in="pydoc", **options)
    found = {split_of(key): HubRows(rows, column, f"{where} ({key})") for key, rows in dataset.items()}
    splits: dict[str, Reader] = {key: rows for key, rows in found.items() if key}
    if not splits and len(dataset) == 1:
        splits = {"train": HubRows(next(iter(dataset.values())), column, where)}
    if "train" not in splits:
        raise DataError(f"source: {where} has {', '.join(dataset)} but no train split: name another dataset")
    return Corpus(where, splits)
