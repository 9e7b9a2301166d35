r"""Exchange with `diffusers`: its folders become models, and models become folders its `DDPMPipeline` runs.

Both sides mean the same chain, but count and round differently:

- its timestep i = 0 … T - 1 is our t = i + 1: time 0 is the data itself here;
- its tables are float32, which puts its :math:`1 - \bar\alpha_1` off by 1.7e-4 of itself on the linear schedule;
  ours are float64;
- its last step shows the mean, as ours does, but it knows of no likelihood: the variance at s = 0, the levels of a
  picture and the decoder are no part of the exchange.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d3pm.data.image_codec import ImageCodec
from d3pm.errors import CheckpointError, ConfigError, D3PMError
from d3pm.gaussian.objectives import LearnedVarianceHybrid, SimpleError
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.scheduler_config import Config, process_from, scheduler_config
from d3pm.model import DiffusionModel
from d3pm.networks.unet import DiffusersUNet

UNET, SCHEDULER, PIPELINE = "config.json", "scheduler_config.json", "model_index.json"


def load_diffusers(folder: str | Path) -> DiffusionModel:
    """The model in a folder of `diffusers`: ``unet/`` and ``scheduler/``, or everything at the root.

    `diffusers` itself reads the weights: safetensors or .bin, old attention names included.

    Args:
        folder: On this machine.

    Returns:
        The model of pictures (C, H, W) of 256 levels, in evaluation mode. Its training loss is L_simple, with the
        bound's share for a learned variance.

    Raises:
        CheckpointError: If something is missing or cannot be read, the weights do not fit their configuration, or
            it is no Gaussian diffusion of pixels that can be expressed here.

    References:
        The layout at the root is that of the published google/ddpm-cifar10-32.
    """
    folder = Path(folder)
    try:
        _check_pipeline(folder)
        unet_file, scheduler_file = _find(folder, "unet", UNET), _find(folder, "scheduler", SCHEDULER)
        config, process = _read(unet_file), process_from(_read(scheduler_file))
        shape = _shape(config, process)
        # Underscored fields are notes (the version, the place it came from), not the model's.
        network = DiffusersUNet({k: v for k, v in config.items() if not k.startswith("_")})
        network.unet = _weights(unet_file.parent)
        objective = LearnedVarianceHybrid() if process.variance == "learned_range" else SimpleError()
        return DiffusionModel(
            process=process, network=network, objective=objective, codec=ImageCodec(shape), shape=shape
        ).eval()
    except D3PMError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def export_diffusers(model: DiffusionModel, folder: str | Path) -> None:
    """Write a folder that ``diffusers.DDPMPipeline.from_pretrained`` runs.

    Fewer steps are taken on a "trailing" grid with ``fixed_small``, our uniform one; on a "linspace" grid with the
    other variances, as a `DDPMScheduler` would put noise into the picture at the end of the former. A pipeline of
    T < 1000 steps must be called with ``num_inference_steps`` at most T. Objective, codec and levels stay behind.

    Args:
        model: Its network is a :class:`~d3pm.networks.unet.DiffusersUNet` (or `UNetDenoiser`) without classes.
        folder: New, or empty.

    Raises:
        ConfigError: If `diffusers` cannot express the model.
        CheckpointError: If the folder holds something already.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    network, folder = model.network, Path(folder)
    if not isinstance(network, DiffusersUNet):
        raise ConfigError(
            f"network is {type(network).__name__}: diffusers takes a DiffusersUNet or UNetDenoiser"
        )
    if network.num_classes is not None:
        raise ConfigError(
            f"network has num_classes={network.num_classes}: DDPMPipeline gives no labels, export one without classes"
        )
    scheduler = DDPMScheduler(**scheduler_config(model.process))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is there already and not empty: give a new folder")
    pipeline: Any = DDPMPipeline(unet=network.unet, scheduler=scheduler)
    pipeline.save_pretrained(folder)


def _check_pipeline(folder: Path) -> None:
    """Refuse what is no folder, and pipelines in which the U-Net is only a part, e.g. on latents."""
    if not folder.is_dir():
        raise CheckpointError("there is no such folder: download the model first, and give its place")
    if not (folder / PIPELINE).is_file():
        return
    parts = {name for name in _read(folder / PIPELINE) if not name.startswith("_")}
    if parts - {"unet", "scheduler"}:
        others = ", ".join(sorted(parts - {"unet", "scheduler"}))
        raise CheckpointError(
            f"{PIPELINE} has {others} besides unet and scheduler: only models of pixels are read"
        )


def _find(folder: Path, part: str, name: str) -> Path:
    for place in (folder / part / name, folder / name):
        if place.is_file():
            return place
    raise CheckpointError(f"there is no {part}/{name}, nor {name}: give a folder saved by diffusers")


def _read(file: Path) -> Config:
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.name} cannot be read ({error}): download it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file.name} holds no fields: download it again")
    return config


def _shape(config: Config, process: GaussianDiffusion) -> tuple[int, int, int]:
    if config.get("_class_name") != "UNet2DModel":
        raise CheckpointError(
            f"{UNET} is of {config.get('_class_name', 'no class of diffusers')}: only a UNet2DModel can be read"
        )
    size, channels = config.get("sample_size"), config.get("in_channels", 3)
    if size is None:
        raise CheckpointError(f"{UNET} has no sample_size: add the height and width of its pictures")
    doubled = process.variance == "learned_range"
    wanted, given = channels * (2 if doubled else 1), config.get("out_channels", 3)
    if given != wanted:
        raise CheckpointError(
            f"{UNET} has out_channels={given}, but in_channels={channels} and variance {process.variance} need "
            f"{wanted}: correct it, or variance_type in {SCHEDULER}"
        )
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(side) is int for side in sides):
        raise CheckpointError(
            f"{UNET} has sample_size={size!r}: give a whole number, or a height and a width"
        )
    return channels, sides[0], sides[1]


def _weights(folder: Path) -> Any:
    from diffusers import UNet2DModel

    safe = any(folder.glob("diffusion_pytorch_model.safetensors*"))  # whole, or an index of parts
    try:
        unet, found = UNet2DModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=safe, output_loading_info=True
        )
    except Exception as error:  # whatever a broken file makes the readers raise
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise CheckpointError(
            f"the weights cannot be read, or do not fit {UNET} ({reason}): download both again"
        ) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[problem]:
            names = ", ".join(map(str, sorted(found[problem])[:3]))
            raise CheckpointError(
                f"{problem.replace('_', ' ')} in the weights: {names}: they do not fit {UNET}"
            )
    return unet.eval()
