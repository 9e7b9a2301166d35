"""A prompt: which symbols of a sample are given, and which are to be filled in."""

from typing import Any

import torch
from torch import Tensor

from d3pm.cli.model import codec_of
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel


def held(model: DiffusionModel, prompt: str | None, num: int) -> dict[str, Any]:
    """What a prompt keeps: ``known`` and ``x0``, (num, L); nothing without a prompt.

    Raises:
        ConfigError: If the prompt is longer than a sample.
        DataError: If it holds a symbol that the model does not know.
    """
    if prompt is None:
        return {}
    x0, known = blanks(model, prompt)
    (length,) = model.shape
    if len(x0) > length:
        raise ConfigError(f"--prompt has {len(x0)} symbols, but a sample has {length}: shorten it")
    rest = length - len(x0)
    x0, known = (torch.nn.functional.pad(part, (0, rest)) for part in (x0, known))
    return {"x0": x0.expand(num, -1), "known": known.expand(num, -1)}


def blanks(model: DiffusionModel, prompt: str) -> tuple[Tensor, Tensor]:
    """The symbols of a prompt and which of them are given, (n,); a blank counts as one symbol."""
    codec = codec_of(model)
    sign = getattr(codec, "mask_sign", "_")
    blank = torch.zeros(1, dtype=torch.int64)
    parts = [codec.encode(part) for part in prompt.split(sign)]
    symbols, given = [parts[0]], [torch.ones_like(parts[0])]
    for part in parts[1:]:
        symbols += [blank, part]
        given += [blank, torch.ones_like(part)]
    return torch.cat(symbols), torch.cat(given).bool()
