"""What of a text is given: a prompt that goes on, a template with blanks, a pattern of allowed symbols."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.cli.model import codec_of
from d3pm.data.codec import MASK_SIGNS
from d3pm.errors import ConfigError, D3PMError
from d3pm.model import DiffusionModel

WAYS = ("prompt", "infill", "pattern")


@dataclass
class Given:
    """What is known of each sample.

    Attributes:
        x0: Symbols, int64 (L,); whatever they are where nothing is known.
        known: Which are, bool (L,).
        allowed: The states each entry may take, bool (L, K), where some are neither known nor free.
    """

    x0: Tensor
    known: Tensor
    allowed: Tensor | None = None

    @property
    def length(self) -> int:
        """L."""
        return len(self.x0)

    def held(self, num: int) -> dict[str, Any]:
        """The arguments for ``num`` samples (num, L) that keep what is known."""
        if not bool(self.known.any()):
            return {}
        return {"x0": self.x0.expand(num, -1), "known": self.known.expand(num, -1)}


def given(model: DiffusionModel, config: Any) -> Given:
    """What the options say of each sample, and how long it is.

    Raises:
        ConfigError: If they contradict each other, or ask for more than the model draws.
        DataError: If a text holds a symbol that the model does not know.
    """
    (trained,) = model.shape
    ways = [way for way in WAYS if config[way] is not None]
    if len(ways) > 1:
        raise ConfigError(f"--{ways[0]} and --{ways[1]} both say what is given: give one of them")
    if config.length is not None and config.length < 1:
        raise ConfigError(f"--length is {config.length}: give 1 or more symbols")
    if ways:
        _check_sign(model, ways[0], config[ways[0]])
    if config.infill is not None or config.pattern is not None:
        return _whole(model, config, ways[0], trained)
    return _continued(model, config.prompt, config.length or trained)


def _check_sign(model: DiffusionModel, way: str, text: str) -> None:
    """Refuse the blank of other models, where it is no symbol of this one."""
    known = getattr(codec_of(model), "alphabet", None)
    for other in MASK_SIGNS:
        if other in text and known is not None and other not in known and other != sign(model):
            raise ConfigError(
                f"--{way} holds {other}, but the blank of this model is {sign(model)}: write that"
            )


def _continued(model: DiffusionModel, prompt: str | None, length: int) -> Given:
    """A prompt, and blanks up to the length."""
    x0, known = blanks(model, prompt or "")
    if len(x0) > length:
        raise ConfigError(
            f"--prompt has {len(x0)} symbols, but a sample has {length}: shorten it, or give a larger --length"
        )
    rest = length - len(x0)
    return Given(*(torch.nn.functional.pad(part, (0, rest)) for part in (x0, known)))


def _whole(model: DiffusionModel, config: Any, way: str, trained: int) -> Given:
    """A template or a pattern: the sample is as long as it is."""
    for option in ("length", "block", "context"):
        if config[option] is not None:
            raise ConfigError(f"--{option} and --{way} both say how long a sample is: give one of them")
    found = _template(model, config.infill) if way == "infill" else _pattern(model, config.pattern)
    if found.length > trained:
        raise ConfigError(
            f"--{way} has {found.length} symbols, but the model was trained on {trained}: shorten it, or continue a "
            f"--prompt block by block with --length {found.length}"
        )
    if bool(found.known.all()):
        raise ConfigError(
            f"--{way} leaves nothing to fill in: write {sign(model)} for each symbol to be drawn"
        )
    return found


def _template(model: DiffusionModel, text: str) -> Given:
    return Given(*blanks(model, text))


def _pattern(model: DiffusionModel, text: str) -> Given:
    """A place of which one symbol is left is known from the start; the others are held to their sets."""
    from d3pm.discrete.patterns import pattern

    codec, process = codec_of(model), model.process
    alphabet, states = getattr(codec, "alphabet", None), getattr(process, "num_states", None)
    if alphabet is None or states is None:
        raise ConfigError("--pattern is of characters, and this model's symbols are others: use --infill")
    try:
        sets = pattern(text, alphabet.index, codec.num_symbols, sign(model))
    except D3PMError as error:
        raise ConfigError(f"--{error}") from error
    known = sets.sum(-1) == 1
    allowed = torch.nn.functional.pad(sets, (0, states - codec.num_symbols))  # no mask
    free = bool(sets[~known].all())
    return Given(sets.int().argmax(-1), known, None if free else allowed)


def sign(model: DiffusionModel) -> str:
    """How a blank is written."""
    return getattr(codec_of(model), "mask_sign", "_")


def blanks(model: DiffusionModel, prompt: str) -> tuple[Tensor, Tensor]:
    """The symbols of a prompt and which of them are given, (n,); a blank counts as one symbol."""
    codec = codec_of(model)
    blank = torch.zeros(1, dtype=torch.int64)
    parts = [codec.encode(part) for part in prompt.split(sign(model))]
    symbols, given = [parts[0]], [torch.ones_like(parts[0])]
    for part in parts[1:]:
        symbols += [blank, part]
        given += [blank, torch.ones_like(part)]
    return torch.cat(symbols), torch.cat(given).bool()
