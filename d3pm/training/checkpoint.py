"""What makes a folder a whole checkpoint: a list of its files with their sizes and sums, written last.

::

    {"config.json": {"bytes": 1021, "crc32": "9a01f3c8"}, "optimizer.pt": {...}, ...}

CRC-32 tells a write that was torn or a bit that flipped, all but once in four billion times, and runs about as
fast as memory is read. It is no guard against forgers: that would take a slower sum, and a place to keep it.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

MANIFEST = "manifest.json"
ESSENTIAL = ("config.json", "raw_weights.pt", "optimizer.pt", "trainer_state.json")
CHUNK = 1 << 24  # bytes read at a time


def seal(folder: Path) -> None:
    """Write the manifest of all files in ``folder``, and have everything on disk, names included.

    Cost: every file is read once.
    """
    write_manifest(folder, {name: entry(folder / name) for name in names(folder)})
    for file in [folder / name for name in names(folder)]:
        sync(file)
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)


def reseal(folder: Path, name: str) -> None:
    """Note that one file of a sealed folder was replaced on purpose; a folder without manifest stays so."""
    if (folder / MANIFEST).is_file():
        write_manifest(folder, json.loads((folder / MANIFEST).read_text()) | {name: entry(folder / name)})


def write_manifest(folder: Path, files: dict[str, dict[str, int | str]]) -> None:
    """Put the manifest there, whole or not at all."""
    aside = folder / f"{MANIFEST}.new"
    aside.write_text(json.dumps(files, indent=1, sort_keys=True) + "\n")
    sync(aside)
    os.replace(aside, folder / MANIFEST)


def damage(
    folder: Path, *, read: Callable[[str], bool] = lambda name: True, all_there: bool = True
) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None if it is whole.

    A folder without a manifest was written before there were any: nothing but its gaps can be said against it.

    Args:
        folder: The checkpoint.
        read: Of which files to compare the sums too, which reads them; sizes alone cost nothing.
        all_there: Whether a file that is missing is damage.
    """
    if not (folder / MANIFEST).is_file():
        missing = [name for name in ESSENTIAL if all_there and not (folder / name).is_file()]
        return f"{missing[0]} is missing, and so is {MANIFEST}" if missing else None
    try:
        files = json.loads((folder / MANIFEST).read_text())
        for name, expected in sorted(files.items()):
            if not (folder / name).is_file():
                if all_there:
                    return f"{name} is missing"
                continue
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
            if read(name) and crc32(folder / name) != expected["crc32"]:
                return f"{name} is not what was written (its CRC-32 differs)"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} is no list of files"
    return None


def names(folder: Path) -> list[str]:
    """The files of a checkpoint but its manifest, sub-folders included, as paths within it."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name not in (MANIFEST, f"{MANIFEST}.new"))


def entry(file: Path) -> dict[str, int | str]:
    """What the manifest says of a file."""
    return {"bytes": file.stat().st_size, "crc32": crc32(file)}


def crc32(file: Path) -> str:
    """The CRC-32 of a file's contents, eight hexadecimal digits."""
    total = 0
    with open(file, "rb") as handle:
        while chunk := handle.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return f"{total:08x}"


def size(folder: Path) -> int:
    """Bytes in the files of a folder."""
    return sum((folder / name).stat().st_size for name in names(folder))


def sync(path: Path) -> None:
    """Have a file's contents, or the names in a folder, on disk before going on: power may fail at any time."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
