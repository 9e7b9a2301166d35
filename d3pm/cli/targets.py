"""Where a command may write: asked before anything is drawn, so that no work is lost."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from d3pm.errors import ConfigError


def check_writable(file: Path, option: str = "--output") -> None:
    """Refuse a file that cannot be written before anything is drawn for it; touches nothing.

    Raises:
        ConfigError: If it is a folder, its folder does not exist, or either may not be written.
    """
    if file.is_dir():
        raise ConfigError(f"{option} {file} is a folder: name a file in it")
    folder = file.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"{option} {file}: its folder does not exist; make it first")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise ConfigError(f"{option} {file} may not be written: name another file")


def check_kind(file: str | None, option: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that cannot be written, or whose name does not end as its kind does; None is no file.

    Raises:
        ConfigError: The message names the option and the remedy.
    """
    if file is None:
        return
    if Path(file).suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {file}: end the name in {' or '.join(suffixes)}")
    check_writable(Path(file), option)


def check_new(file: str | None, option: str, suffix: str | tuple[str, ...], overwrite: bool) -> None:
    """The same, and refuse a file that is there already.

    Raises:
        ConfigError: The message names the option and the remedy.
    """
    check_kind(file, option, (suffix,) if isinstance(suffix, str) else suffix)
    if file is not None and Path(file).exists() and not overwrite:
        raise ConfigError(f"{option} {file} exists: name another file, or replace it with --overwrite")


def check_empty(folder: Path, option: str, overwrite: bool) -> None:
    """Refuse a folder that cannot be made or written, or that holds anything, unless told to overwrite.

    Raises:
        ConfigError: The message names the option and the remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} {folder} is a file: name a folder")
    parent = folder.resolve().parent
    if not parent.is_dir():
        raise ConfigError(f"{option} {folder}: there is no folder {parent}; make it first")
    if not os.access(folder if folder.exists() else parent, os.W_OK):
        raise ConfigError(f"{option} {folder} may not be written: name another folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(
            f"{option} {folder} is not empty: name another folder, or replace files of the same names with "
            "--overwrite"
        )


def fresh(folder: Path, stem: str, suffix: str) -> Path:
    """The first of STEM, STEM-2, STEM-3, … that is not in the folder yet: what needs no name overwrites nothing."""
    return next(file for file in _names(folder, stem, suffix) if not file.exists())


def _names(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    yield folder / f"{stem}{suffix}"
    yield from (folder / f"{stem}-{n}{suffix}" for n in count(2))
