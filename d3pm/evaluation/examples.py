"""Which held-out examples a model is judged on: always the same, spread over all there are."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from tqdm import tqdm

from d3pm.errors import ConfigError


def evenly(data: Dataset, num_examples: int) -> Subset:
    """``num_examples`` of ``data`` (all, if fewer) at even distances: a text is not alike throughout."""
    size = len(data)  # type: ignore[arg-type]
    count = min(num_examples, size)
    return Subset(data, [(2 * i + 1) * size // (2 * count) for i in range(count)])


def batches(
    data: Dataset, num_examples: int, batch_size: int, progress: bool = False
) -> Iterable[dict[str, Tensor]]:
    """Those examples in batches, with a bar on a terminal if ``progress`` is asked for."""
    loader = DataLoader(
        evenly(data, num_examples),
        batch_size,
        collate_fn=default_collate,
        generator=torch.Generator(),  # a loader draws a seed: not from the global one
    )
    return tqdm(loader, desc="evaluating", unit="batch", disable=None if progress else True)


def check_numbers(**numbers: int) -> None:
    """Refuse (ConfigError) numbers below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}: give 1 or more")
