"""A small convolutional network that tells the class of a noisy image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.blocks import zeroed
from d3pm.networks.images import check_images, check_least, check_probability, level_sizes, norm_groups
from d3pm.networks.time_embedding import TimeEmbedding

COND_DIM = 128


class ImageClassifier(nn.Module):
    """Class logits for images at any time of their ruin, smooth in the image, so that they can steer.

    Residual blocks at halving resolutions, told the time by adaptive group norm; the mean over all places of
    the last level is read out. Logits are exactly zero at first. Costs O(size² channels²) an image.

    Args:
        size: Height and width of an image, divisible by 2 ** (len(channels) - 1).
        in_channels: Channels of an image.
        num_classes: How many classes there are; as many logits are given.
        channels: Width of each level; from one to the next, the resolution is halved.
        layers: Residual blocks a level.
        dropout: Probability with which an entry inside a residual block is dropped.

    Raises:
        ConfigError: If a number is out of range or ``size`` cannot be halved so often; when called, if images
            do not fit.

    References:
        Dhariwal and Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021, sections 3 and 4.

    >>> network = ImageClassifier(size=28, in_channels=1, num_classes=10)
    >>> network(torch.randn(2, 1, 28, 28), torch.tensor([1, 1000])).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        size: int,
        in_channels: int,
        num_classes: int,
        channels: tuple[int, ...] = (32, 64, 64),
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        level_sizes(size, channels)
        check_least(in_channels=in_channels, layers=layers)
        check_probability(dropout=dropout)
        if num_classes < 2:
            raise ConfigError(f"num_classes={num_classes} leaves nothing to tell apart: take 2 or more")
        self.size = size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.channels = channels
        self.layers = layers
        self.dropout = dropout

        self.time_embedding = TimeEmbedding(COND_DIM)
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        widths = [width for width in channels for _ in range(layers)]
        self.blocks = nn.ModuleList(
            ResidualBlock(before, width, COND_DIM, dropout)
            for before, width in zip((channels[0], *widths), widths, strict=False)
        )
        self.norm = nn.GroupNorm(norm_groups(channels[-1]), channels[-1])
        self.head = zeroed(nn.Linear(channels[-1], num_classes))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits (B, num_classes) for images x_t (B, in_channels, H, W) at times t (B,), int or float."""
        check_images(x_t, self.in_channels, self.size)
        cond = self.time_embedding(t)
        x = self.stem(x_t.to(self.stem.weight.dtype))  # a process speaks float32 at least
        for number, block in enumerate(self.blocks):
            if number and number % self.layers == 0:
                x = F.avg_pool2d(x, 2)
            x = block(x, cond)
        return self.head(F.silu(self.norm(x)).mean(dim=(-2, -1)))


class ResidualBlock(nn.Module):
    """Two convolutions (B, C, H, W) -> (B, width, H, W) around what a vector (B, cond_dim) scales and shifts."""

    def __init__(self, channels: int, width: int, cond_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(norm_groups(width), width, affine=False)
        self.modulation = nn.Linear(cond_dim, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, C, H, W), (B, cond_dim) -> (B, width, H, W)."""
        shift, scale = self.modulation(cond)[:, :, None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        y = torch.addcmul(shift, self.norm2(y), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(y)))
