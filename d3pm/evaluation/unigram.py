"""The entropy of symbols taken one by one: what a model must beat to have learned anything of their order."""

import math

import torch
from torch.utils.data import Dataset

from d3pm.data.base import Codec
from d3pm.data.unigram import frequencies


def unigram_entropy(data: Dataset, num_symbols: int, codec: Codec | None = None) -> float:
    """Bits a symbol of ``data`` under the frequencies of ``data`` itself, padding left out.

    Any dataset of ``{"x0", "attention_mask"?}`` will do; it is read once. Rows of floats need the ``codec``
    that knows their symbols: for pictures the result is bits a channel of a pixel (bits/dim). For a table it is the
    mean over columns of each one's own entropy: what a column costs if all are independent.

    Raises:
        DataError: If there is no symbol in it, or one that is not below ``num_symbols``, or rows are of floats
            and there is no codec.

    Examples:
        >>> unigram_entropy([{"x0": torch.tensor([0, 0, 1, 2])}], num_symbols=4)
        1.5
    """
    law = frequencies(data, num_symbols, codec)
    return torch.special.entr(law).sum(-1).mean().item() / math.log(2)
