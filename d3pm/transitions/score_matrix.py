"""Files of substitution scores as NCBI writes them: comments, a line of letters, a row of numbers a letter."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from d3pm.errors import ConfigError


def read_scores(path: str | Path, alphabet: str | None = None) -> tuple[Tensor, str]:
    """The scores among the letters of ``alphabet`` in that order, float64 (K, K), and these letters.

    Args:
        path: A file such as NCBI's BLOSUM62: lines of ``#`` are comments, the first other line names the columns,
            each further one is a letter and its scores.
        alphabet: Which letters; all of the file in its order if not given.

    Raises:
        ConfigError: If there is no such file, a line does not fit (the message has its number), or a letter is missing.
    """
    columns, rows = _lines(Path(path))
    chosen = alphabet if alphabet is not None else "".join(columns)
    for letter in chosen:
        if letter not in columns or letter not in rows:
            raise ConfigError(
                f"scores: {path} has no {'column' if letter not in columns else 'row'} for {letter!r}: "
                f"its letters are {''.join(columns)}, choose alphabet among them"
            )
    places = [columns.index(letter) for letter in chosen]
    return torch.tensor([[rows[letter][j] for j in places] for letter in chosen], dtype=torch.float64), chosen


def _lines(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    """The letters of the columns, and each row by its letter."""
    columns: list[str] = []
    rows: dict[str, list[float]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        where, words = f"scores: {path}, line {number}", line.split()
        if not words or words[0].startswith("#"):
            continue
        if not columns:
            columns = _header(words, where)
            continue
        if words[0] in rows or len(words) != len(columns) + 1:
            what = f"a second row for {words[0]!r}" if words[0] in rows else f"{len(words) - 1} scores"
            raise ConfigError(f"{where} has {what}: give one row a letter, with {len(columns)} scores")
        rows[words[0]] = [_number(word, where) for word in words[1:]]
    if not columns:
        raise ConfigError(f"scores: {path} is empty: give a line of letters and a row of scores for each")
    return columns, rows


def _text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(
            f"scores: there is no file {path}: give a matrix of scores, such as NCBI's BLOSUM62"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"scores: {path} cannot be read ({error}): give a text file") from error


def _header(words: list[str], where: str) -> list[str]:
    if any(len(word) != 1 for word in words) or len(set(words)) < len(words):
        raise ConfigError(f"{where} is to name the columns: give different letters with blanks between them")
    return words


def _number(word: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not value < math.inf:
        raise ConfigError(f"{where}: {word!r} is no score: give a number")
    return value
