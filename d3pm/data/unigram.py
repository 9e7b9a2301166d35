"""The law of single symbols, the least a model of a text has to beat."""

import numpy as np

from d3pm.data.blocks import PaddedDocuments, TokenBlocks
from d3pm.errors import DataError

_SLICE = 1 << 22


def frequencies(dataset: TokenBlocks | PaddedDocuments, num_symbols: int) -> np.ndarray:
    """How often each symbol occurs, float64 ``(num_symbols,)`` with sum one.

    Reads the memory-mapped stream slice by slice (10⁸ tokens in about a second), its last
    incomplete block included.

    Raises:
        DataError: If there is no token, or one that is not below ``num_symbols``.

    Examples:
        >>> frequencies(TokenBlocks(np.array([0, 1, 1, 1]), block_size=2), num_symbols=3).tolist()
        [0.25, 0.75, 0.0]
    """
    tokens = dataset.tokens
    counts = np.zeros(num_symbols, dtype=np.int64)
    for start in range(0, len(tokens), _SLICE):
        found = np.bincount(tokens[start : start + _SLICE], minlength=num_symbols)
        if len(found) > num_symbols:
            raise DataError(
                f"num_symbols: {num_symbols} is too few for token {len(found) - 1}: use the data's own codec"
            )
        counts += found
    if not len(tokens):
        raise DataError("dataset: it holds no token, so it has no frequencies: give more text")
    return counts / counts.sum()


def unigram_entropy(frequencies: np.ndarray) -> float:
    """Entropy of a law in bits per symbol: what a model that knows only the frequencies needs.

    Examples:
        >>> unigram_entropy(np.array([0.5, 0.25, 0.25, 0.0]))
        1.5
    """
    law = np.asarray(frequencies, dtype=np.float64)
    seen = law[law > 0]
    return float(-(seen * np.log2(seen)).sum())
