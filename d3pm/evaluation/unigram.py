"""The entropy of symbols taken one by one: what a model must beat to have learned anything of their order."""

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from d3pm.data import unigram
from d3pm.errors import DataError


def unigram_entropy(data: Dataset, num_symbols: int) -> float:
    """Bits a symbol of ``data`` under the frequencies of ``data`` itself, padding left out.

    Any dataset of ``{"x0", "attention_mask"?}`` will do; it is read once.

    Raises:
        DataError: If there is no symbol in it.
    """
    counts = torch.zeros(num_symbols, dtype=torch.int64)
    generator = torch.Generator()  # a loader draws a seed: not from the global one
    for batch in DataLoader(data, batch_size=512, collate_fn=default_collate, generator=generator):
        symbols = batch["x0"]
        if "attention_mask" in batch:
            symbols = symbols[batch["attention_mask"].bool()]
        counts += torch.bincount(symbols.flatten(), minlength=num_symbols)
    if not counts.any():
        raise DataError("data: there is no symbol in it: give more")
    return unigram.unigram_entropy((counts / counts.sum()).numpy())
