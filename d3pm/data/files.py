"""One file on the disk: its kind by its name, its text whatever it is packed in, its faults in one line."""

import gzip
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from d3pm.errors import D3PMError, DataError

COMPRESSED = (".xz", ".gz", ".zip")
TABLES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
"""The ``datasets`` loader of each kind of table."""

_FAULTS = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)


def inner_suffix(path: Path) -> str:
    """The suffix that tells the kind of file, below any compression: ``a.jsonl.xz`` is ``.jsonl``."""
    return (Path(path.stem) if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def file_kind(path: Path) -> str | None:
    """``"text"``, ``"table"``, or None for a name that says neither."""
    suffix = inner_suffix(path)
    if suffix in TABLES:
        return "table"
    compressed = path.suffix.lower() in COMPRESSED
    return "text" if suffix == ".txt" or (compressed and not suffix) else None


def file_identity(path: Path) -> list:
    """A JSON value that changes when the file does."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def open_text(path: Path) -> IO[str]:
    """The file as UTF-8 text, unpacked on the way; line ends stay as they are."""
    return TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="")


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn whatever a file (or a table of that name) can do wrong while it is read into one line."""
    try:
        yield
    except D3PMError:
        raise
    except UnicodeDecodeError as error:
        byte, where = error.object[error.start], _broken_line(path)
        raise DataError(
            f"source: {path} is not UTF-8{where} (byte 0x{byte:02x}): convert it to UTF-8"
        ) from error
    except _FAULTS as error:
        reason, where = " ".join(str(error).split()) or type(error).__name__, _broken_line(path)
        reason = reason.partition(" in row ")[0]  # of a part of the file that nobody knows
        raise DataError(
            f"source: {path} cannot be read{where} ({reason}): replace it with a whole file"
        ) from error


def _broken_line(path: Path | str) -> str:
    """Where lines of text stop making sense, found by reading them once more; nothing for what has no lines."""
    if not isinstance(path, Path) or inner_suffix(path) in (".parquet", ".json", ".csv"):
        return ""
    parse = json.loads if inner_suffix(path) == ".jsonl" else str
    whole = 0
    try:
        with _open_bytes(path) as lines:
            for line in lines:
                try:
                    parse(line.decode("utf-8-sig").strip() or "0")
                except ValueError:
                    return f" in line {whole + 1:,}"
                whole += 1
    except _FAULTS:
        return f" after line {whole:,}" if whole else ""
    return ""


def _open_bytes(path: Path) -> Any:
    match path.suffix.lower():
        case ".xz":
            return lzma.open(path)
        case ".gz":
            return gzip.open(path)
        case ".zip":
            return _open_zip(path)
        case _:
            return open(path, "rb")


def _open_zip(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise DataError(f"source: {path} holds {len(names)} files: give a zip with one text, or unpack it")
    return archive.open(names[0])
