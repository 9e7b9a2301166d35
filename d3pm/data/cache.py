"""Build a folder once, keep it: a cache that no kill can leave half-written, and no torn file goes unnoticed in."""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from d3pm.data.files import reading
from d3pm.errors import DataError

VERSION = 2
"""Raise it when what is stored changes its meaning: older entries are then rebuilt."""

_RECORD = "entry.json"
_CHUNK = 1 << 20

log = logging.getLogger(__name__)


def cache_root(folder: str | None = None) -> Path:
    """``folder``, else ``$D3PM_CACHE``, else ``d3pm`` in the user's cache folder (XDG)."""
    chosen = folder or os.environ.get("D3PM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "d3pm"


def cached(recipe: dict, build: Callable[[Path], None], root: Path) -> Path:
    """The folder that ``build`` fills, built only if no whole one for this ``recipe`` is there.

    ``recipe`` (JSON) is all that the content depends on. The folder is filled aside and renamed when it is
    whole, its files are recorded with their sizes and CRC-32 sums, and a lock lets one of many processes do the work.
    Both are compared whenever the folder is asked for (a gigabyte takes about a second): a file that is no
    longer what was stored is named in a warning, and the folder is built again.

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
            record = {"recipe": recipe, "files": _sums(aside)}
            (aside / _RECORD).write_text(json.dumps(record, indent=1))
            if entry.exists():
                shutil.rmtree(entry)
            aside.rename(entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_whole(entry: Path) -> bool:
    if not entry.is_dir():
        return False
    fault = _fault(entry)
    if fault:
        log.warning("cache: %s: it is made again", fault)
    return fault is None


def _fault(entry: Path) -> str | None:
    """The first file that is not what was stored, and what is wrong with it; None if all are."""
    try:
        stored: dict[str, list[int]] = json.loads((entry / _RECORD).read_text())["files"]
        wanted = {name: (size, crc) for name, (size, crc) in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{entry / _RECORD} is missing or cannot be read"
    sizes = _sizes(entry)
    for name in sorted(wanted.keys() | sizes.keys()):
        if name not in wanted or name not in sizes:
            return f"{entry / name} {'is missing' if name in wanted else 'does not belong there'}"
        size, crc = wanted[name]
        if sizes[name] != size:
            return f"{entry / name} has {sizes[name]:,} bytes, not the {size:,} that were stored"
        if _crc(entry / name) != crc:
            return f"{entry / name} does not hold the bytes that were stored (its CRC-32 differs)"
    return None


def _sums(folder: Path) -> dict[str, list[int]]:
    return {name: [size, _crc(folder / name)] for name, size in _sizes(folder).items()}


def _sizes(folder: Path) -> dict[str, int]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != _RECORD)
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


def _crc(file: Path) -> int:
    crc = 0
    with reading(file), open(file, "rb") as data:
        while chunk := data.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
