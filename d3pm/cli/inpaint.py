"""Filling holes in pictures, given the pixels around them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from d3pm.cli.model import codec_of
from d3pm.data.image_codec import MODES
from d3pm.errors import ConfigError, D3PMError
from d3pm.model import DiffusionModel

if TYPE_CHECKING:
    from PIL.Image import Image

HALF = 128
"""From this value on a mask is white, and a pixel can be seen."""


def check_inpaint(config: Any) -> None:
    """Refuse (ConfigError) options that do not go with ``--inpaint``, or are about it alone."""
    if config.inpaint is None:
        if config.mask is not None:
            raise ConfigError(f"--mask is {config.mask}, but there is nothing to fill: give --inpaint too")
        return
    if config.walk:
        raise ConfigError("--inpaint fills pictures, and --walk is a film of free ones: drop one")
    if config.sde:
        raise ConfigError(f"--inpaint holds pixels step by step, which --sde {config.sde} does not: drop one")


def holes(model: DiffusionModel, inpaint: str, mask: str | None, num: int) -> dict[str, Tensor]:
    """What is kept of each sample: ``x0`` and ``known`` (N * num, C, H, W), each of N pictures ``num`` times.

    Args:
        model: Draws the pictures.
        inpaint: A picture, or a folder of pictures.
        mask: A picture of the same size, white where they are to be filled; if there is none, they are filled
            where they are transparent.
        num: How often each is filled.

    Raises:
        ConfigError: If a file is no picture of the model's size, or there is nothing to fill.
    """
    files = [Path(inpaint)]
    if files[0].is_dir():
        files = sorted(file for file in files[0].iterdir() if file.is_file())
    if not files:
        raise ConfigError(f"--inpaint {inpaint} is an empty folder: name a picture, or a folder of some")
    white = None if mask is None else _values(_opened(mask, "--mask", model).convert("L")) >= HALF
    pairs = [_hole(file, white, model) for file in files]
    x0, blank = (torch.stack(parts).repeat_interleave(num, 0) for parts in zip(*pairs, strict=True))
    if not bool(blank.any()):
        raise ConfigError(
            f"--mask {mask} is white nowhere: make it white where pixels are to be filled in"
            if mask
            else f"--inpaint {inpaint} is transparent nowhere, so nothing is to be filled in: make it so there, or "
            "give a --mask"
        )
    return {"x0": x0, "known": ~blank}


def _hole(file: Path, white: np.ndarray | None, model: DiffusionModel) -> tuple[Tensor, Tensor]:
    """A picture in the model's code and where it is blank, bool, both (C, H, W)."""
    picture = _opened(file, "--inpaint", model)
    if white is None:
        white = _values(picture.convert("RGBA").getchannel("A")) < HALF
    try:
        x0 = codec_of(model).encode(picture.convert(MODES[model.shape[0]]))
    except D3PMError as error:
        raise ConfigError(f"--inpaint {file}: {error}") from error
    return x0, torch.from_numpy(white).expand(model.shape)


def _opened(file: str | Path, option: str, model: DiffusionModel) -> "Image":
    """A picture of the model's size."""
    from PIL import Image, UnidentifiedImageError

    _, height, width = model.shape
    try:
        with Image.open(file) as picture:
            picture.load()
    except FileNotFoundError as error:
        raise ConfigError(f"{option} {file}: no such file: name a picture that there is") from error
    except UnidentifiedImageError as error:
        raise ConfigError(f"{option} {file} is no picture that can be read: give a .png") from error
    if picture.size != (width, height):
        raise ConfigError(
            f"{option} {file} has {picture.width} x {picture.height} pixels, but the model draws {width} x {height}: "
            "resize it, or cut it out"
        )
    return picture


def _values(picture: "Image") -> np.ndarray:
    return np.array(picture)
