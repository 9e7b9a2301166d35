"""The law of single symbols: what a marginal kernel blurs towards, and the least a model has to beat."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from d3pm.errors import DataError


def frequencies(data: Dataset[dict[str, Tensor]], num_symbols: int) -> Tensor:
    """How often each symbol occurs in the rows of ``data``, float64 ``(num_symbols,)`` with sum one.

    Any dataset of ``{"x0", "attention_mask"?}`` will do; padding is left out. All rows are read once
    (10⁸ tokens in seconds). The law fits ``MarginalTransition`` and ``MutualInformationSchedule``.

    Raises:
        DataError: If there is no symbol, or one that is not below ``num_symbols``.

    Examples:
        >>> from d3pm.data import TokenBlocks
        >>> rows = TokenBlocks(torch.tensor([0, 1, 1, 1]).numpy(), block_size=2)
        >>> frequencies(rows, num_symbols=3).tolist()
        [0.25, 0.75, 0.0]
    """
    counts = torch.zeros(num_symbols, dtype=torch.int64)
    generator = torch.Generator()  # a loader draws a seed: not from the global one
    for batch in DataLoader(data, batch_size=512, collate_fn=default_collate, generator=generator):
        symbols = batch["x0"]
        if "attention_mask" in batch:
            symbols = symbols[batch["attention_mask"].bool()]
        found = torch.bincount(symbols.flatten(), minlength=num_symbols)
        if len(found) > num_symbols:
            raise DataError(
                f"num_symbols: {num_symbols} is too few for token {len(found) - 1}: use the data's own codec"
            )
        counts += found
    if not counts.any():
        raise DataError("data: there is no symbol in it, so it has no frequencies: give more")
    return counts.double() / counts.sum()
