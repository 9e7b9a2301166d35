"""Build a folder once, keep it: a cache that no kill can leave half-written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from d3pm.errors import DataError

VERSION = 1
"""Raise it when what is stored changes its meaning: older entries are then rebuilt."""

_RECORD = "entry.json"


def cache_root(folder: str | None = None) -> Path:
    """``folder``, else ``$D3PM_CACHE``, else ``d3pm`` in the user's cache folder (XDG)."""
    chosen = folder or os.environ.get("D3PM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "d3pm"


def cached(recipe: dict, build: Callable[[Path], None], root: Path) -> Path:
    """The folder that ``build`` fills, built only if no whole one for this ``recipe`` is there.

    ``recipe`` (JSON) is all that the content depends on. The folder is filled aside and renamed when it is
    whole, its files are recorded with their sizes, and a lock lets one of many processes do the work.

    Raises:
        DataError: If the cache cannot be written. What ``build`` raises is passed on as it is.
    """
    from filelock import FileLock

    key = sha256(json.dumps([VERSION, recipe], sort_keys=True).encode()).hexdigest()[:20]
    entry = root / key
    if _is_whole(entry):
        return entry
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{entry}.lock").acquire()
    with lock:
        if not _is_whole(entry):
            _build_aside(entry, recipe, build)
    return entry


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while a folder of the cache is written into one line."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cache_dir: {folder} cannot be written ({error}): set cache_dir or D3PM_CACHE"
        ) from error


def _build_aside(entry: Path, recipe: dict, build: Callable[[Path], None]) -> None:
    aside = entry.with_name(f"{entry.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # a killed process left it; under the lock it is nobody's
    with writing(entry.parent):
        aside.mkdir()
    try:
        build(aside)
        with writing(entry.parent):
            record = {"recipe": recipe, "files": _sizes(aside)}
            (aside / _RECORD).write_text(json.dumps(record, indent=1))
            if entry.exists():
                shutil.rmtree(entry)
            aside.rename(entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_whole(entry: Path) -> bool:
    try:
        record = json.loads((entry / _RECORD).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("files") == _sizes(entry)


def _sizes(folder: Path) -> dict[str, Any]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != _RECORD)
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}
