"""Splits: what they are called, in files and on the hub, and where the training text ends if nobody says so."""

import re
from collections.abc import Sequence

from d3pm.data.base import SPLITS
from d3pm.errors import ConfigError

HELD_OUT_PERCENT = 5

_SPLIT_NAME = re.compile(r"(train|valid(?:ation)?|val|dev|test)(?![a-z0-9])", re.IGNORECASE)


def known(name: str) -> str:
    """The name of a split, refused (ConfigError) if there is none of that name."""
    if name not in SPLITS:
        raise ConfigError(f"split: {name!r} is unknown: give one of {', '.join(SPLITS)}")
    return name


def split_of(name: str) -> str | None:
    """The split that a file, a folder or a part of a hub dataset is by its name, or None.

    >>> split_of("train-images.gz"), split_of("dev.txt"), split_of("trained.txt")
    ('train', 'validation', None)
    """
    found = _SPLIT_NAME.match(name)
    if not found:
        return None
    word = found[1].lower()
    return word if word in SPLITS else "validation"


def contiguous(
    total: int, held_out: Sequence[str] = SPLITS[1:], sizes: Sequence[int] | None = None
) -> dict[str, range]:
    """Cut ``total`` entries, in order, into ``"train"`` and the named held-out splits.

    Each held-out split is the next 5 % (so 90/5/5 in all), or ``sizes`` gives all counts outright.
    On 10⁸ characters this is text8's canonical 90M/5M/5M.

    Raises:
        ConfigError: If ``sizes`` are not one positive count a split, or exceed ``total``.

    Examples:
        >>> {name: len(part) for name, part in contiguous(100_000_000).items()}
        {'train': 90000000, 'validation': 5000000, 'test': 5000000}
    """
    names = ["train", *held_out]
    if sizes is None:
        percents = [100 - HELD_OUT_PERCENT * (len(names) - place) for place in range(1, len(names) + 1)]
        edges = [0, *(total * percent // 100 for percent in percents)]
    else:
        edges = [0, *(sum(sizes[: place + 1]) for place in range(len(sizes)))]
        if len(sizes) != len(names) or min(sizes) < 1 or edges[-1] > total:
            raise ConfigError(
                f"sizes: {list(sizes)} do not fit a text of {total:,}: "
                f"give one positive count for each of {', '.join(names)}, {total:,} together at most"
            )
    return {name: range(edges[i], edges[i + 1]) for i, name in enumerate(names)}
