"""Pictures whose grey levels are states: an image network within, logits over the levels around it."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError


class PixelHead(nn.Module, ABC):
    r"""What turns a network for images into one for grey levels, entry by entry.

    The network within sees level v as :math:`2 v / (\text{levels} - 1) - 1`. A mask, the state that an absorbing
    kernel adds, is shown as 0, the middle grey, and as a one in further channels (one for each of the picture's),
    since grey may be true. No logit of a mask is asked for: its own is 0, and no belief has it.

    Args:
        network: A network for images, such as `UNetDenoiser` or `ImageTransformer`.
        num_states: K, the mask included where there is one.
        num_levels: Grey levels: K - 1 if the last state is a mask. None means K: there is no mask.
        outputs: Channels of the network's output for each of the picture's.

    Attributes:
        levels: Grey levels.
        masked: Whether the last state is a mask.
        in_channels: Channels of a picture; None where the network within does not tell.
        out_channels: Logits of a pixel.
        size: Height and width of a picture, as far as the network within tells.
        num_classes: Classes it knows, None if it takes no labels; ``label_drop`` likewise.

    Raises:
        ConfigError: If the channels of the network within do not fit.
    """

    def __init__(self, network: nn.Module, num_states: int, num_levels: int | None, outputs: int) -> None:
        super().__init__()
        self.network = network
        self.num_states = num_states
        self.num_levels = num_levels
        self.outputs = outputs
        self.levels = num_states if num_levels is None else num_levels
        self.masked = self.levels < num_states
        self._check()
        self.in_channels = self._channels()
        self.out_channels = None if self.in_channels is None else self.in_channels * num_states
        self.size = getattr(network, "size", None)
        self.num_classes = getattr(network, "num_classes", None)
        self.label_drop = getattr(network, "label_drop", 0.0)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Logits (B, C, H, W, K) for int64 pictures x_t (B, C, H, W) at times t (B,); ``labels`` are passed on."""
        if x_t.is_floating_point():
            raise ConfigError(
                f"x_t is {x_t.dtype}: {type(self).__name__} is for levels, set data.discrete to true"
            )
        output = self.network(self._seen(x_t), t, **cond)
        each = output.unflatten(1, (x_t.shape[1], self.outputs)).movedim(2, -1)  # (B, C, H, W, outputs)
        logits = self.logits(each, x_t)
        return F.pad(logits, (0, 1)) if self.masked else logits

    @abstractmethod
    def logits(self, output: Tensor, x_t: Tensor) -> Tensor:
        """Logits of the levels, (B, C, H, W, levels), from the output (B, C, H, W, outputs) within."""

    def values(self, x_t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The value in [-1, 1] of each entry, in the shape of x_t; 0 for a mask."""
        ends = self.levels - 1
        values = (2 * x_t - ends).to(dtype) / ends
        return values.masked_fill(x_t == self.levels, 0.0) if self.masked else values

    def suited(self, data: Any) -> "PixelHead":
        """Itself for a `DataSource` of such pictures; other levels, channels or sizes are refused (ConfigError)."""
        if data.codec.real:
            raise ConfigError(
                f"network {type(self).__name__} is for grey levels, but the data are floats: set data.discrete to true"
            )
        sides = tuple(data.shape[1:])
        found = {"levels": data.codec.num_symbols, "in_channels": data.shape[0], "size": sides}
        if len(set(sides)) == 1 and isinstance(self.size, int):
            found["size"] = sides[0]
        for name, value in found.items():
            ours = getattr(self, name)
            if ours not in (None, value):
                raise ConfigError(
                    f"network {type(self).__name__} has {name}={ours}, but the pictures have {name}={value}: "
                    f"change num_states and num_levels, or the network within it"
                )
        return self

    def _seen(self, x_t: Tensor) -> Tensor:
        values = self.values(x_t)
        return torch.cat([values, (x_t == self.levels).to(values.dtype)], 1) if self.masked else values

    def _channels(self) -> int | None:
        """Of a picture: what the network's outputs are for; checked against its inputs."""
        given, taken = (getattr(self.network, name, None) for name in ("out_channels", "in_channels"))
        if given is None:
            return None
        channels = given // self.outputs
        if given != channels * self.outputs:
            raise ConfigError(
                f"network.out_channels is {given}, but {type(self).__name__} of {self.levels} levels needs "
                f"{self.outputs} for each channel of a picture: set it to {self.outputs} (grey) or "
                f"{3 * self.outputs} (colour)"
            )
        wanted = channels * (1 + self.masked)
        if taken not in (None, wanted):
            raise ConfigError(
                f"network.in_channels is {taken}, but its out_channels={given} are for pictures of {channels} "
                f"channels{', each with one more that tells the mask' if self.masked else ''}: set it to {wanted}"
            )
        return channels

    def _check(self) -> None:
        if self.levels < 2:
            raise ConfigError(
                f"num_states={self.num_states} leaves {self.levels} grey levels: take 2 or more"
            )
        if self.num_states - self.levels not in (0, 1):
            raise ConfigError(
                f"num_levels={self.num_levels} does not fit num_states={self.num_states}: take as many, or one less "
                f"where the last state is a mask"
            )
