"""Making and loading tokenizers: one symbol a character, byte pairs learnt from a text, or from a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from d3pm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BYTES = 256
"""Symbols that byte pairs begin with, so that no text is unknown to them."""


def character_tokenizer(alphabet: str) -> "PreTrainedTokenizerFast":
    """Each character of ``alphabet`` is a symbol, numbered in that order; there is none for the unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if len(alphabet) < 2 or len(set(alphabet)) < len(alphabet):
        raise ConfigError(f"alphabet: {alphabet!r} must be two or more different characters")
    backend = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(alphabet)}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def train_byte_pairs(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Byte-level byte pairs: 256 bytes and the ``vocab_size - 256`` merges the text asks for most.

    Raises:
        DataError: If the text is too small to yield that many symbols.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if (reached := backend.get_vocab_size()) < vocab_size:
        raise DataError(f"vocab_size: the text yields {reached} of {vocab_size} byte pairs: lower vocab_size")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def load_tokenizer(name: str) -> "PreTrainedTokenizerFast":
    """A tokenizer from a ``tokenizer.json``, a folder that holds one, or a repository on the hub."""
    path = Path(name).expanduser()
    if path.exists():
        return load_local_tokenizer(path)
    if path.suffix == ".json" or path.is_absolute() or name.startswith((".", "~")):
        raise DataError(f"tokenizer: no file {name!r}: give a tokenizer.json, its folder or a hub name")
    return load_local_tokenizer(_download(name))


def load_local_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """A tokenizer from a file or a folder on this machine; nothing is asked of the hub."""
    from transformers import PreTrainedTokenizerFast

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"tokenizer: no {file}: save one with codec.save_pretrained(folder)")
    try:
        if path.is_dir():
            return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot parse
        reason = " ".join(str(error).split())
        raise DataError(f"tokenizer: {file} cannot be read ({reason}): replace it") from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["tokenizer.json", "tokenizer_config.json"]))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"tokenizer: {name!r} is no path and cannot be had from the hub ({reason}): "
            f"give a tokenizer.json, its folder or a hub name (as tokenizer of data also characters or bpe)"
        ) from error
