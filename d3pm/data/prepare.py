"""From a corpus to token files: what the cache stores."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from d3pm.data.base import SPLITS
from d3pm.data.blocks import TokenFile
from d3pm.data.cache import writing
from d3pm.data.codec import TextCodec
from d3pm.data.corpora import Corpus
from d3pm.data.splits import contiguous
from d3pm.data.stream import TextStream
from d3pm.errors import ConfigError, DataError

Streams = dict[str, TextStream]

_CODEC = "codec"
_RECORD = "splits.json"


def split_streams(
    corpus: Corpus, normalize: str | None, separator: str | None, sizes: Sequence[int] | None = None
) -> Streams:
    """The three splits of a corpus: its own, and those it lacks cut from the end of its training text."""
    streams = {name: TextStream(reader, normalize, separator) for name, reader in corpus.splits.items()}
    missing = [name for name in SPLITS if name not in streams]
    if sizes is not None and len(missing) < 2:
        raise ConfigError(f"sizes: {corpus.where} has its own splits {', '.join(streams)}: leave sizes out")
    if missing:
        whole = streams["train"]
        total = whole.size()
        if not total:
            raise DataError(f"source: {corpus.where} holds no text: give a file with text in it")
        streams |= {name: whole.cut(part) for name, part in contiguous(total, missing, sizes).items()}
    return {name: streams[name] for name in SPLITS}


def store(folder: Path, streams: Streams, make_codec: Callable[[Iterable[str]], TextCodec]) -> None:
    """Write the codec, each split's tokens and how much each split holds into ``folder``.

    ``make_codec`` is given the training texts, and them only.

    Raises:
        DataError: If the text cannot be read or has unknown symbols, or the folder cannot be written.
    """
    codec = make_codec(streams["train"])
    with writing(folder):
        codec.save_pretrained(folder / _CODEC)
    dtype = np.min_scalar_type(codec.num_symbols - 1)
    amounts = {name: _write(folder, name, codec, stream, dtype) for name, stream in streams.items()}
    with writing(folder):
        (folder / _RECORD).write_text(json.dumps({"dtype": str(dtype), "amounts": amounts}))


@dataclass(frozen=True)
class Prepared:
    """What :func:`store` wrote."""

    folder: Path

    @cached_property
    def amounts(self) -> dict[str, dict[str, int]]:
        """How many characters and tokens each split holds."""
        return self._record["amounts"]

    def codec(self) -> TextCodec:
        """The codec of all splits."""
        return TextCodec.from_pretrained(self.folder / _CODEC)

    def tokens(self, split: str) -> TokenFile:
        """The tokens of a split."""
        return TokenFile(self.folder / f"{split}.tokens", self._record["dtype"])

    def ends(self, split: str) -> TokenFile:
        """Where each document of a split ends in its tokens, if documents were kept apart."""
        return TokenFile(self.folder / f"{split}.ends", "int64")

    @cached_property
    def _record(self) -> dict:
        return json.loads((self.folder / _RECORD).read_text())


def _write(folder: Path, name: str, codec: TextCodec, stream: TextStream, dtype: np.dtype) -> dict[str, int]:
    counted = _Counted(stream)
    lengths = []
    try:
        # A reader's faults are DataErrors already (`reading`), so an OSError here is one of writing.
        with writing(folder), open(folder / f"{name}.tokens", "wb") as file:
            for ids in codec.encode_all(counted):
                file.write(ids.astype(dtype).tobytes())
                if len(ids):  # a document of which the tokenizer keeps nothing is no row
                    lengths.append(len(ids))
    except DataError as error:
        raise DataError(f"{name} split: {error}") from error
    if stream.separator is None:
        with writing(folder):
            np.cumsum(lengths, dtype=np.int64).tofile(folder / f"{name}.ends")
    return {"characters": counted.characters, "tokens": sum(lengths)}


class _Counted:
    """Counts the characters that pass."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.characters = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.characters += len(text)
            yield text
