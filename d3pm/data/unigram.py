"""The law of single symbols: what a marginal kernel blurs towards, and the least a model has to beat."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from d3pm.data.base import Codec
from d3pm.errors import DataError


def frequencies(data: Dataset[dict[str, Tensor]], num_symbols: int, codec: Codec | None = None) -> Tensor:
    """How often each symbol occurs in the rows of ``data``, float64 ``(num_symbols,)`` with sum one.

    Where every column is a variable of its own (``codec.columnwise``, a table), there is a law for each:
    ``(C, num_symbols)``, and row ``c`` is zero from ``codec.cardinalities[c]`` on.

    Any dataset of ``{"x0", "attention_mask"?}`` will do; padding is left out. All rows are read once
    (10⁸ tokens in seconds). The law fits ``MarginalTransition`` and ``MutualInformationSchedule``.

    Args:
        data: The rows.
        num_symbols: How many symbols there are.
        codec: What knows the symbol of each entry; rows of integers need none, but rows of floats and
            tables do.

    Raises:
        DataError: If the rows are a stream without end, there is no symbol, or one that is not below
            ``num_symbols``, or rows are of floats and there is no codec.

    Examples:
        >>> from d3pm.data import TokenBlocks
        >>> rows = TokenBlocks(torch.tensor([0, 1, 1, 1]).numpy(), block_size=2)
        >>> frequencies(rows, num_symbols=3).tolist()
        [0.25, 0.75, 0.0]
    """
    if isinstance(data, IterableDataset):
        raise DataError(
            "data: a stream has no end, so its symbols are not counted: take a held-out split of it"
        )
    counts = torch.zeros(1, dtype=torch.int64)
    columnwise = codec is not None and codec.columnwise
    with torch.random.fork_rng(
        devices=[]
    ):  # a loader draws a seed, data may flip: not from the global generator
        for batch in DataLoader(data, batch_size=512, collate_fn=default_collate):
            symbols = batch["x0"] if codec is None else codec.symbols(batch["x0"])
            if symbols.is_floating_point():
                raise DataError(f"codec: rows of {symbols.dtype} are no symbols: give the data's own codec")
            if "attention_mask" in batch:
                symbols = symbols[batch["attention_mask"].bool()]
            counts = counts + _counts(symbols if columnwise else symbols.reshape(-1, 1), num_symbols)
    if not counts.any():
        raise DataError("data: there is no symbol in it, so it has no frequencies: give more")
    laws = counts.double() / counts.sum(-1, keepdim=True)
    return laws if columnwise else laws[0]


def _counts(symbols: Tensor, num_symbols: int) -> Tensor:
    """How often each symbol occurs in each column of ``(N, C)``: ``(C, num_symbols)``."""
    if symbols.numel() and (most := int(symbols.max())) >= num_symbols:
        raise DataError(f"num_symbols: {num_symbols} is too few for token {most}: use the data's own codec")
    columns = symbols.shape[1]
    apart = symbols + num_symbols * torch.arange(columns)
    return torch.bincount(apart.flatten(), minlength=columns * num_symbols).view(columns, num_symbols)
