"""The convolutional U-Net of `diffusers` as a network: published weights load into it as they are."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.images import Size, check_images, check_least, check_probability, level_sizes, norm_groups
from d3pm.networks.labels import Labels

CHANNELS_LAST = ("cuda",)
"""Devices on whose matrix units a convolution wants the channels last. On CPUs it gains nothing."""


class DiffusersUNet(nn.Module):
    """Any `diffusers.UNet2DModel` that counts time in steps; the model itself is ``unet``.

    Time t is handed on as t - 1: published weights are trained on 0 … T - 1. The last convolution of a fresh
    network is zero, so its output is too.

    Args:
        config: The model's configuration, as its ``config.json`` has it; what is missing takes the default
            of `diffusers`.
        num_classes: Classes the network tells apart, if ``config`` has ``num_class_embeds``: as many, or
            one less when the last embedding is the null class (see `Labels`). None means as many.
        label_drop: Probability with which a label is hidden in training, if there is a null class.

    Raises:
        ConfigError: If no such model can be made of ``config``; when called, if images or labels do not fit.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, appendix B.

    >>> import torch
    >>> blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    >>> network = DiffusersUNet({"sample_size": 8, "block_out_channels": [32, 32], **blocks})
    >>> network(torch.randn(2, 3, 8, 8), torch.tensor([1, 1000])).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, config: dict[str, Any], num_classes: int | None = None, label_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.unet: Any = _fresh(config)
        embeddings = self.unet.config["num_class_embeds"]
        self.num_classes = embeddings if num_classes is None else num_classes
        if self.num_classes not in (embeddings, None if embeddings is None else embeddings - 1):
            raise ConfigError(
                f"num_classes={num_classes} does not fit num_class_embeds={embeddings}: take "
                f"num_class_embeds one more than num_classes, the last for images of no known class"
            )
        self.label_drop = label_drop
        self.labels = Labels(self.num_classes, label_drop, null=self.num_classes != embeddings)
        self.in_channels: int = self.unet.config["in_channels"]
        self.out_channels: int = self.unet.config["out_channels"]
        self.size = _square(self.unet.config["sample_size"])

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Output (B, out_channels, H, W) for images x_t (B, in_channels, H, W) at times t (B,), int or float.

        ``labels`` (B,): the class of each image; None means the null class for all.
        """
        check_images(x_t, self.in_channels, self.size)
        x_t = x_t.to(self.unet.conv_in.weight.dtype)  # a process speaks float32 at least
        return self.unet(x_t, t - 1, class_labels=self.labels(labels, x_t)).sample

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast; where it pays, convolutions then hold their weights channels last, and work so.

        Only the layout in memory differs: values, names and files stay as they are. Weights that are divided among
        processes are left alone.
        """
        super()._apply(fn, recurse)
        for weight in self.unet.parameters():
            if (
                weight.dim() == 4
                and weight.device.type in CHANNELS_LAST
                and not hasattr(weight, "placements")
            ):
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return self


class UNetDenoiser(DiffusersUNet):
    """The U-Net of DDPM: residual blocks at halving resolutions, attention at some and in the middle.

    The defaults are the layout of the published CIFAR-10 weights (35,746,307 parameters).
    Convolutions cost O(size² channels²) an image, attention O(resolution⁴ channels) where it acts.

    Args:
        size: Height and width of an image, divisible by 2 ** (len(channels) - 1).
        in_channels: Channels of an image.
        out_channels: Channels of the output; None means ``in_channels``. A learned variance needs twice
            as many.
        channels: Width of each level; from one to the next, the resolution is halved. Groups for
            normalisation have four channels or more, and there are 32 of them at most.
        attention_at: Resolutions, each some level's, with attention after every residual block. The
            middle, at the lowest resolution, has it in any case.
        layers: Residual blocks a level on the way down; one more on the way up.
        dropout: Probability with which an entry inside a residual block is dropped.
        num_classes: Classes the network can be told, a null class besides them (see `Labels`).
        label_drop: Probability with which a label is hidden in training.

    Raises:
        ConfigError: If a number is out of range, ``size`` cannot be halved so often, or ``attention_at``
            names no level; when called, if images or labels do not fit.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, appendix B.

    >>> import torch
    >>> network = UNetDenoiser(size=28, in_channels=1, channels=(16, 32, 32), attention_at=(7,), layers=1)
    >>> network(torch.randn(2, 1, 28, 28), torch.tensor([1, 1000])).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        size: int = 32,
        in_channels: int = 3,
        out_channels: int | None = None,
        channels: tuple[int, ...] = (128, 256, 256, 256),
        attention_at: tuple[int, ...] = (16,),
        layers: int = 2,
        dropout: float = 0.0,
        num_classes: int | None = None,
        label_drop: float = 0.1,
    ) -> None:
        out_channels = in_channels if out_channels is None else out_channels
        check_least(in_channels=in_channels, out_channels=out_channels, layers=layers)
        check_probability(dropout=dropout)
        attends = _attends(level_sizes(size, channels), attention_at)
        config = {
            "sample_size": size,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "block_out_channels": list(channels),
            "down_block_types": ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
            "up_block_types": ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
            "layers_per_block": layers,
            "dropout": dropout,
            "norm_num_groups": norm_groups(*channels),
            "num_class_embeds": None if num_classes is None else num_classes + 1,
            **PUBLISHED,
        }
        super().__init__(config, num_classes, label_drop)
        self.channels, self.attention_at = channels, attention_at
        self.layers, self.dropout = layers, dropout


PUBLISHED = {
    "attention_head_dim": None,  # one head, as wide as its level
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
"""Where the published DDPM weights differ from the defaults of `diffusers`."""


def _fresh(config: dict[str, Any]) -> Any:
    from diffusers import UNet2DModel

    for name, kind in SUPPORTED.items():
        if config.get(name, kind) != kind:
            raise ConfigError(f"config has {name}={config[name]!r}: only {kind!r} can be used here")
    try:
        unet: Any = UNet2DModel.from_config(config)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), width=240, placeholder=" …")
        raise ConfigError(f"config makes no UNet2DModel ({reason}): see that class for its fields") from error
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    return unet


SUPPORTED = {"_class_name": "UNet2DModel", "time_embedding_type": "positional", "class_embed_type": None}


def _square(size: Size) -> Size:
    """One number where one says it all."""
    return size[0] if isinstance(size, Sequence) and len(set(size)) == 1 else size


def _attends(resolutions: list[int], attention_at: Sequence[int]) -> list[bool]:
    for resolution in attention_at:
        if resolution not in resolutions:
            levels = ", ".join(map(str, resolutions))
            raise ConfigError(f"attention_at={resolution} is no level's resolution: take some of {levels}")
    return [resolution in attention_at for resolution in resolutions]
