"""Biological sequences as a data source: from a FASTA file to rows of letters."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from d3pm.data.alphabets import AMBIGUOUS, letters
from d3pm.data.base import SPLITS, DataSource
from d3pm.data.blocks import PaddedDocuments, TokenBlocks
from d3pm.data.codec import TextCodec
from d3pm.data.fasta_files import Sequences, find_fasta, read_sequences
from d3pm.data.splits import contiguous, known
from d3pm.errors import ConfigError, DataError

log = logging.getLogger(__name__)


class FastaData(DataSource):
    """Sequences of DNA, RNA, proteins or any other letters, from FASTA files.

    Records are cut at letters that stand for no single one (N in DNA, X in proteins), so a row never spans
    a gap, nor two records. Lower case, which marks repeats, is read as upper case. Letters are split in order,
    90/5/5, and no row reaches over a border; related sequences (both copies of a gene) may still lie on either
    side. Nothing is read before ``split`` or ``describe`` is first used; a letter takes one byte of memory.

    Args:
        source: A FASTA file, plain, ``.gz``, ``.xz`` or ``.zip``; a folder of them; or the name of either in
            the folder ``$D3PM_DATA``. Of a folder, ``.faa`` files are read as proteins only, ``.fna`` and
            ``.ffn`` as DNA or RNA only, ``.fa`` and ``.fasta`` always.
        block_size: Letters in a row.
        alphabet: ``"dna"``, ``"rna"``, ``"protein"``, or the letters themselves, numbered in this order.
        records: ``"blocks"`` makes rows of consecutive letters that do not overlap, and leaves out what is short of
            a row; ``"padded"`` makes each record (each stretch of one that is cut) a row with its
            ``attention_mask``, of which the first ``block_size`` letters are shown, and splits by these.
        cut: The letters to cut at, instead of those that IUPAC has for the alphabet; ``""`` refuses them all.
        sizes: Letters (or padded records) in train, validation and test, instead of 90/5/5.

    Raises:
        ConfigError: If an option cannot be.
        DataError: (At first use) if there is no such file, it is no FASTA, or has a letter that is not known.
    """

    def __init__(
        self,
        source: str,
        block_size: int = 256,
        alphabet: str = "dna",
        records: Literal["blocks", "padded"] = "blocks",
        cut: str | None = None,
        sizes: list[int] | None = None,
    ) -> None:
        self.source = source
        self.block_size = block_size
        self.alphabet = alphabet
        self.records = records
        self.cut = cut
        self.sizes = sizes
        if block_size < 1:
            raise ConfigError(f"block_size: {block_size} is no length: give 1 or more, e.g. 256")
        if records not in ("blocks", "padded"):
            raise ConfigError(f"records: {records!r} is unknown: give 'blocks' or 'padded'")
        self.letters = letters(alphabet)
        if cut and (both := set(cut.upper()) & set(self.letters)):
            raise ConfigError(f"cut: {min(both)!r} is a letter of the alphabet {self.letters}: leave it out")
        self.shape = (block_size,)

    @cached_property
    def codec(self) -> TextCodec:  # type: ignore[override] # an attribute, made when first asked for
        """One symbol a letter."""
        return TextCodec.characters(self.letters)

    def split(self, name: str) -> TokenBlocks | PaddedDocuments:
        """``"train"``, ``"validation"`` or ``"test"``.

        Raises:
            ConfigError: If there is no split of that name.
            DataError: If no stretch of the split is as long as a block.
        """
        part = self._parts[known(name)]
        return self._padded(part, name) if self.records == "padded" else self._blocks(part, name)

    def describe(self) -> str:
        """One line: what was found, where, how much of it, how it is split, and what was left out."""
        found, unit = self._sequences, "records" if self.records == "padded" else "letters"
        splits = ", ".join(f"{name} {len(part):,}" for name, part in self._parts.items())
        return (
            f"{self.source}: {len(found.tokens):,} letters of {self.letters} in {found.records:,} "
            f"{'record' if found.records == 1 else 'records'} from {self._where}: {splits} {unit}; "
            f"{found.left_out:,} other letters left out, {self._unseen():.1%} of the training letters in no row"
        )

    @cached_property
    def _files(self) -> list[Path]:
        return find_fasta(self.source, self.alphabet.lower())

    @cached_property
    def _sequences(self) -> Sequences:
        cut = AMBIGUOUS.get(self.alphabet.lower(), "") if self.cut is None else self.cut
        found = read_sequences(self._files, self.letters, cut.upper())
        log.info("%s: %s letters read from %s", self.source, f"{len(found.tokens):,}", self._where)
        return found

    @property
    def _where(self) -> Path:
        return self._files[0] if len(self._files) == 1 else self._files[0].parent

    @cached_property
    def _parts(self) -> dict[str, range]:
        """Each split as a range of letters, or of rows if padded."""
        whole = self._sequences.ends if self.records == "padded" else self._sequences.tokens
        return contiguous(len(whole), SPLITS[1:], self.sizes)

    def _blocks(self, part: range, name: str) -> TokenBlocks:
        starts, ends = self._stretches(part)
        lengths = ends - starts
        whole = lengths - lengths % self.block_size
        if not whole.any():
            raise DataError(
                f"block_size: the longest stretch of the {name} split has {lengths.max(initial=0):,} letters, less "
                f"than one block of {self.block_size}: lower block_size, or set records to 'padded'"
            )
        tokens = self._sequences.tokens
        kept = [tokens[start : start + n] for start, n in zip(starts, whole, strict=True) if n]
        return TokenBlocks(np.concatenate(kept), self.block_size, f"{name} split")

    def _stretches(self, part: range) -> tuple[np.ndarray, np.ndarray]:
        """Where each stretch starts and ends inside of the letters ``part``."""
        ends = self._sequences.ends
        starts = np.concatenate([[0], ends[:-1]])
        inside = (ends > part.start) & (starts < part.stop)
        return starts[inside].clip(part.start), ends[inside].clip(max=part.stop)

    def _padded(self, part: range, name: str) -> PaddedDocuments:
        ends = self._sequences.ends
        start = int(ends[part.start - 1]) if part.start else 0
        inside = ends[part.start : part.stop]
        stop = int(inside[-1]) if len(inside) else start
        return PaddedDocuments(
            self._sequences.tokens[start:stop], inside - start, self.block_size, f"{name} split"
        )

    def _unseen(self) -> float:
        """The share of the training letters that no row shows."""
        part = self._parts["train"]
        if self.records == "padded":
            lengths = np.diff(self._sequences.ends[part.start : part.stop], prepend=0)
            shown = lengths.clip(max=self.block_size)
        else:
            starts, ends = self._stretches(part)
            lengths = ends - starts
            shown = lengths - lengths % self.block_size
        return 1 - float(shown.sum()) / max(1, int(lengths.sum()))
