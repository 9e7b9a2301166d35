"""Which held-out examples a model is judged on: always the same, spread over all there are."""

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate
from tqdm import tqdm

from d3pm.errors import ConfigError

BAR = "evaluating"
"""What the progress bar says."""


def evenly(data: Dataset, num_examples: int) -> Subset:
    """``num_examples`` of ``data`` (all, if fewer) at even distances: a text is not alike throughout."""
    size = len(data)  # type: ignore[arg-type]
    count = min(num_examples, size)
    return Subset(data, [(2 * i + 1) * size // (2 * count) for i in range(count)])


class Batches(Sequence[dict[str, Tensor]]):
    """Those examples in batches, each read when it is asked for.

    Args:
        data: Items of tensors.
        num_examples: How many; all, if there are fewer.
        batch_size: How many at a time; the last batch has what is left.
    """

    def __init__(self, data: Dataset, num_examples: int, batch_size: int) -> None:
        self.examples, self.batch_size = evenly(data, num_examples), batch_size

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def __getitem__(self, number):
        """Batch ``number``, collated."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        some = range(len(self.examples))[number * self.batch_size : (number + 1) * self.batch_size]
        return default_collate(self.examples.__getitems__(list(some)))


def batches(
    data: Dataset, num_examples: int, batch_size: int, progress: bool = False
) -> Iterable[dict[str, Tensor]]:
    """The same for whoever takes all of them, with a bar on a terminal if ``progress`` is asked for."""
    found = Batches(data, num_examples, batch_size)
    return tqdm(found, desc=BAR, unit="batch", disable=None if progress else True)


def check_numbers(**numbers: int) -> None:
    """Refuse (ConfigError) numbers below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}: give 1 or more")
