"""Words of texts: how many are known, how far the others are from known ones, how varied and repetitive they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
FARTHEST = 3
"""An edit distance of more counts as this."""
LONGEST = 24
"""Letters of the longest word that others are compared with."""
NEIGHBOURS = 20_000
"""The commonest words, among which the nearest one is looked for."""
LOOKED_UP = 200
"""Different unknown words whose nearest one is looked for, spread evenly over all."""


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in lower case.

    >>> words_of("It's a 2nd_try!")
    ["it's", 'a', '2nd', 'try']
    """
    return WORD.findall(text.lower())


def inner(words: Sequence[str]) -> Sequence[str]:
    """All but the first and the last word, which may be cut off by the ends of a block; all, if they are the only ones.

    >>> inner(["ing", "the", "cat", "sa"]), inner(["one", "two"])
    (['the', 'cat'], ['one', 'two'])
    """
    return words[1:-1] if len(words) > 2 else words


class Vocabulary:
    """The words of a training text, and the distance of any other word to the nearest of the commonest of them.

    Args:
        texts: The training texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(inner(words_of(text)))
        self.known = frozenset(counts)
        common = [word for word, _ in counts.most_common(NEIGHBOURS) if len(word) <= LONGEST]
        self._lengths = np.array([len(word) for word in common], dtype=np.int64)
        self._common = np.zeros((len(common), LONGEST), dtype=np.uint32)
        for row, word in zip(self._common, common, strict=True):
            row[: len(word)] = _code_points(word)
        self._found: dict[str, int] = {}

    def known_share(self, words: Sequence[str]) -> float:
        """Share of ``words`` that are known; NaN of none."""
        return _mean([word in self.known for word in words])

    def mean_distance(self, words: Sequence[str]) -> float:
        """Mean edits from an unknown word to the nearest known one; NaN if all are known.

        Of more than :data:`LOOKED_UP` different unknown words, so many are taken, spread evenly over them.
        """
        unknown = Counter(word for word in words if word not in self.known)
        order = sorted(unknown)
        count = min(len(order), LOOKED_UP)
        chosen = [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]
        total = sum(unknown[word] for word in chosen)
        return sum(unknown[word] * self.distance(word) for word in chosen) / total if total else float("nan")

    def distance(self, word: str) -> int:
        """Edits (a letter put in, left out or changed) to the nearest of the commonest words, 3 at most.

        Costs O(V · length²) for V words of about this length, once for each word.
        """
        if word not in self._found:
            near = np.abs(self._lengths - len(word)) < FARTHEST
            distances = _edits(word, self._common[near], self._lengths[near])
            self._found[word] = int(min(FARTHEST, distances.min(initial=FARTHEST)))
        return self._found[word]


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Share of runs of ``n`` words that are different ones, in all texts together; NaN if there is none.

    It falls as there is more text: compare equally many.

    References:
        Li et al., *A diversity-promoting objective function for neural conversation models*, 2016, section 5.

    >>> distinct([["a", "b", "a", "b"]], 1), distinct([["a", "b", "a", "b"]], 2)
    (0.5, 0.6666666666666666)
    """
    runs = [run for words in texts for run in _runs(words, n)]
    return len(set(runs)) / len(runs) if runs else float("nan")


def repetition(texts: Sequence[Sequence[str]], n: int) -> float:
    """Share of runs of ``n`` words that stood in the same text before, mean over texts that have one; else NaN.

    References:
        Welleck et al., *Neural text generation with unlikelihood training*, 2020, section 6.

    >>> repetition([["a", "a", "a"]], 2)
    0.5
    """
    return _mean([1 - len(set(runs)) / len(runs) for words in texts if (runs := _runs(words, n))])


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(n)), strict=False))


def _edits(word: str, others: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Levenshtein distance of a word to each of (V, L) padded ones, int64 (V,): a row of the table for each letter."""
    columns = np.arange(others.shape[1] + 1)
    row = np.broadcast_to(columns, (len(others), len(columns))).astype(np.int16)
    for letter in _code_points(word):
        changed = row[:, :-1] + (others != letter)
        above = row + 1
        above[:, 1:] = np.minimum(above[:, 1:], changed)
        row = np.minimum.accumulate(above - columns, axis=1) + columns  # letters put in, any number of them
    return row[np.arange(len(others)), lengths].astype(np.int64)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
