"""Which states are alike, from what they stand beside: embeddings for a nearest-neighbour kernel, from tokens alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d3pm.errors import ConfigError, DataError

CHUNK = 2**22
"""Tokens whose pairs are counted at once."""

JITTER = 1e-6
"""How far rows are moved at random, of length one: so that no two are equal, nor any zero."""


def cooccurrence_embeddings(
    tokens: Tensor | np.ndarray, num_states: int | None = None, window: int = 5, dim: int = 64
) -> Tensor:
    r"""One direction for every state, near to those of states that stand in like places: (K, d), rows of length one.

    The positive part of :math:`\log(n_{ij} n / n_i n_j)`, with :math:`n_{ij}` how often j comes after i within the
    window, beside the same for what comes before; of that the leading singular vectors, each weighed by the root of its
    singular value. A state that never occurs lies anywhere. Equal input, equal output.

    Args:
        tokens: A stream (N,), or counts (K, K).
        num_states: K; not needed with counts.
        window: How many places a pair may be apart.
        dim: d at most; K - 1 if that is less.

    Raises:
        ConfigError: If K, the window or d make no sense, or counts are not square, negative or not finite.
        DataError: If a token is no state, or no two tokens stand side by side.

    References:
        Levy and Goldberg, *Neural Word Embedding as Implicit Matrix Factorization*, 2014, section 4.2.

    >>> rows = cooccurrence_embeddings(torch.tensor([0, 1, 0, 2] * 9), num_states=3, window=1)
    >>> rows[1] @ rows[2] > 0.9  # 1 and 2 stand in the same places
    tensor(True)
    """
    for name, value in (("window", window), ("dim", dim)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: it must be at least 1")
    array = tokens.numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    counts = _checked(array) if array.ndim == 2 else count_pairs(array, num_states, window)
    if counts.sum() == 0:
        raise DataError("tokens: no two stand side by side, so nothing is known of any: give more")
    after, before = positive_information(counts), positive_information(counts.T.tocsr())
    rows = _leading(after, before, min(dim, counts.shape[0] - 1))
    noise = np.random.default_rng(0).normal(size=rows.shape)
    rows = rows + JITTER * noise * np.abs(rows).max()
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def count_pairs(tokens: np.ndarray, num_states: int | None, window: int) -> Any:
    """How often j comes after i, at most ``window`` places later: a scipy CSR array (K, K)."""
    from scipy.sparse import coo_array, csr_array

    if num_states is None or num_states < 2:
        raise ConfigError(f"num_states is {num_states}: say how many states there are, at least 2")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(
            f"tokens is {tokens.dtype} {tokens.shape}: give one stream of integers (N,), or counts (K, K)"
        )
    counts = csr_array((num_states, num_states))
    for start in range(0, len(tokens), CHUNK):
        piece = tokens[start : start + CHUNK + window].astype(np.int64)
        if len(piece) and not 0 <= piece.min() <= piece.max() < num_states:
            wrong = piece.max() if piece.min() >= 0 else piece.min()
            raise DataError(f"tokens: {wrong} is no state: num_states is {num_states}")
        for apart in range(1, window + 1):
            first = piece[: min(CHUNK, len(piece) - apart)] if len(piece) > apart else piece[:0]
            pairs = (first, piece[apart : apart + len(first)])
            counts = counts + coo_array((np.ones(len(first)), pairs), counts.shape).tocsr()
    return counts


def positive_information(counts: Any) -> Any:
    """How much more often than by chance, in nats; nothing where it is less: CSR (K, K) to the same."""
    from scipy.sparse import coo_array

    pairs = counts.tocoo()
    ahead, behind = counts.sum(axis=1), counts.sum(axis=0)
    expected = ahead[pairs.row] * behind[pairs.col] / counts.sum()
    values = np.log(np.where(pairs.data > 0, pairs.data, expected) / expected).clip(min=0)
    return coo_array((values, (pairs.row, pairs.col)), counts.shape).tocsr()


def _leading(after: Any, before: Any, dim: int) -> np.ndarray:
    """The first left singular vectors of both side by side, each times the root of its singular value, (K, dim)."""
    from scipy.sparse import hstack
    from sklearn.utils.extmath import randomized_svd

    both = hstack([after, before]).tocsr()
    if both.shape[0] <= 512:
        vectors, values, _ = np.linalg.svd(both.toarray(), full_matrices=False)
    else:
        vectors, values, _ = randomized_svd(both, dim, n_iter=7, random_state=0)
    return vectors[:, :dim] * np.sqrt(values[:dim])


def _checked(counts: np.ndarray) -> Any:
    from scipy.sparse import csr_array

    if counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise ConfigError(
            f"counts has shape {counts.shape}: give (K, K), K at least 2, or a stream of tokens (N,)"
        )
    wrong = np.argwhere(~(np.isfinite(counts) & (counts >= 0)))
    if len(wrong):
        i, j = wrong[0]
        raise ConfigError(f"counts[{i}, {j}] is {counts[i, j]}: it must be 0 or more")
    return csr_array(counts.astype(np.float64))
