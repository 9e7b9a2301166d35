"""FASTA files: finding them, reading their records, cutting these where a letter is unknown."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np

from d3pm.data.files import COMPRESSED, inner_suffix, open_text, reading
from d3pm.data.places import data_folder
from d3pm.errors import DataError

SUFFIXES = {".fna": "dna rna", ".ffn": "dna rna", ".faa": "protein", ".fa": "", ".fasta": ""}
"""What a file holds by its name, if that says anything."""

CAPITALS = str.maketrans(ascii_lowercase, ascii_uppercase)
"""Of plain letters only: others have capitals of two letters."""

_UNKNOWN, _CUT = -1, -2


@dataclass(frozen=True)
class Sequences:
    """Records as numbers, one after the other, cut into stretches without unknown letters.

    Attributes:
        tokens: The letters of all stretches, uint8 (n,).
        ends: Where each stretch ends in ``tokens``, int64.
        records: How many records there were.
        left_out: How many letters they were cut at.
    """

    tokens: np.ndarray
    ends: np.ndarray
    records: int
    left_out: int


def find_fasta(source: str, alphabet: str) -> list[Path]:
    """The files of a path, a folder, or a name in ``$D3PM_DATA``; of a folder those that fit ``alphabet``.

    Raises:
        DataError: If there is none. The message says where it was looked for.
    """
    path = Path(source).expanduser()
    named_like_one = source.startswith((".", "~", "/")) or inner_suffix(path) in SUFFIXES
    if not (path.exists() and (named_like_one or len(path.parts) > 1)):
        path = _in_data_folder(source, named_like_one)
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and inner_suffix(file) in SUFFIXES]
    fitting = [file for file in files if _fits(file, alphabet)]
    if not fitting:
        found = f"only {files[0].name}, which is no {alphabet}" if files else "none"
        raise DataError(
            f"source: of FASTA files {path} has {found}: put {', '.join(SUFFIXES)} (.gz, .xz, .zip) there, "
            "or set alphabet to what they hold"
        )
    return fitting


def _fits(file: Path, alphabet: str) -> bool:
    holds = SUFFIXES[inner_suffix(file)].split()
    named = {kind for kinds in SUFFIXES.values() for kind in kinds.split()}
    return not holds or alphabet in holds or alphabet not in named


def _in_data_folder(name: str, named_like_a_path: bool) -> Path:
    folder = data_folder()
    names = [name + kind + packed for packed in ("", *COMPRESSED) for kind in ("", *SUFFIXES)]
    found = next((folder / each for each in names if (folder / each).exists()), None) if folder else None
    if found is None or named_like_a_path:
        where = "" if named_like_a_path else f" and is not in $D3PM_DATA ({folder or 'not set'})"
        raise DataError(
            f"source: {name!r} does not exist{where}: give the path of a FASTA file or of a folder of them"
        )
    return found


def records(path: Path) -> Iterator[tuple[str, str]]:
    """The name and the letters of each record, in capitals and without white space.

    Raises:
        DataError: If the file cannot be read, is empty, or something stands before its first ``>``.
    """
    name, lines = None, list[str]()
    with reading(path), open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if text.startswith(">"):
                if name is not None:
                    yield name, "".join(lines)
                name, lines = (text[1:].split() or ["(no name)"])[0], []
            elif text and not text.startswith(";"):  # a comment in old files
                if name is None:
                    raise DataError(
                        f"source: {path}, line {number}: {text[:20]!r} stands before the first '>': "
                        "give a FASTA file, where a line '>name' opens each record"
                    )
                lines.append("".join(text.split()).translate(CAPITALS))
        if name is None:
            raise DataError(
                f"source: {path} has no record: give a FASTA file with a line '>name' and letters"
            )
        yield name, "".join(lines)


def read_sequences(files: Iterable[Path], letters: str, cut: str) -> Sequences:
    """All records of the files as numbers in the order of ``letters``, cut at the letters of ``cut``.

    Raises:
        DataError: If a letter is in neither (the message names the record and the place), or none is left.
    """
    table = _table(letters, cut)
    parts, lengths = [np.empty(0, np.uint8)], [np.empty(0, np.int64)]
    count = left_out = 0
    for path in files:
        for name, text in records(path):
            codes = table[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
            _check(codes, text, f"{path}, record {name}", letters)
            known = codes >= 0
            edges = np.diff(known.astype(np.int8), prepend=0, append=0)
            lengths.append(np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1))
            parts.append(codes[known].astype(np.uint8))
            count, left_out = count + 1, left_out + int((~known).sum())
    sequences = Sequences(np.concatenate(parts), np.concatenate(lengths).cumsum(), count, left_out)
    if not len(sequences.tokens):
        raise DataError(f"source: {path} has no letter of {letters}: give records with sequences")
    return sequences


def _table(letters: str, cut: str) -> np.ndarray:
    table = np.full(256, _UNKNOWN, np.int16)
    table[list(cut.encode())] = _CUT
    table[list(letters.encode())] = np.arange(len(letters))
    return table


def _check(codes: np.ndarray, text: str, where: str, letters: str) -> None:
    wrong = np.flatnonzero(codes == _UNKNOWN)
    if len(wrong):
        letter = text[wrong[0]]
        raise DataError(
            f"source: {where}: {letter!r} at letter {wrong[0] + 1:,} is not in {letters}: set alphabet to what "
            f"the file holds, or add {letter!r} to cut to leave it out"
        )
