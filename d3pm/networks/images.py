"""What networks for images check and choose alike."""

import math
from collections.abc import Sequence

from torch import Tensor

from d3pm.errors import ConfigError

Size = int | Sequence[int] | None
"""Height and width of an image, one number if they agree; None if any will do."""


def check_images(x_t: Tensor, channels: int, size: Size) -> None:
    """Raise a ConfigError unless x_t is (B, channels, H, W) of this size."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    fits = x_t.dim() == 4 and x_t.shape[1] == channels
    if not fits or (size is not None and x_t.shape[2:] != sides):
        wanted = ", ".join("any" if side is None else str(side) for side in (channels, *sides))
        raise ConfigError(
            f"images of shape {tuple(x_t.shape)} do not fit a network for (B, {wanted}): "
            f"give it such images, or take a network with their in_channels and size"
        )


def level_sizes(size: int, channels: Sequence[int]) -> list[int]:
    """The resolution of each level, halved from one to the next.

    Raises:
        ConfigError: If there is no level, a width is no width, or a side is odd before the last level.

    >>> level_sizes(28, (32, 64, 64))
    [28, 14, 7]
    """
    halvings = len(channels) - 1
    if not channels or min(channels) < 1:
        raise ConfigError(f"channels={tuple(channels)} is not a width a level: take (32, 64, 64), say")
    if size < 1 or size % 2**halvings:
        raise ConfigError(
            f"size={size} cannot be halved {halvings} times for the {len(channels)} levels of "
            f"channels={tuple(channels)}: take a multiple of {2**halvings}, or fewer levels"
        )
    return [size >> level for level in range(len(channels))]


def norm_groups(*channels: int) -> int:
    """How many groups to normalise in: the most, up to 32, that divide all widths and hold four channels.

    With fewer channels in a group its mean and spread, which carry the image, would be normalised away.

    >>> norm_groups(128, 256), norm_groups(24, 48), norm_groups(3)
    (32, 6, 1)
    """
    common = math.gcd(*channels)
    return max(n for n in range(1, 33) if common % n == 0 and 4 * n <= max(common, 4))


def check_least(**numbers: int) -> None:
    """Raise a ConfigError if a number is below one."""
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name}={number} is too few: take 1 or more")


def check_probability(**numbers: float) -> None:
    """Raise a ConfigError if a number is not in [0, 1)."""
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise ConfigError(f"{name}={number} is not a probability below one: take a value in [0, 1)")
