r"""Runs of n characters: how often each occurs, how far two texts are apart in them, and a model made of them.

A text is a row of numbers, and a run of n of them is one whole number to the base of how many characters there are,
so counting is sorting: 10⁶ characters cost a tenth of a second for each n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from d3pm.errors import ConfigError, DataError

GAP = -1
"""Stands between two texts: no run goes across."""
CODE_POINTS = 0x110000


class Letters:
    """The characters of texts as numbers 1, 2, …; 0 is whatever other character there may be.

    Args:
        known: The characters, each once.

    >>> Letters("abc")(["ba", "ax"]).tolist()
    [2, 1, -1, 1, 0]
    """

    def __init__(self, known: str) -> None:
        self.known = known
        self._numbers = np.zeros(CODE_POINTS, dtype=np.int64)
        self._numbers[_code_points(known)] = np.arange(1, len(known) + 1)

    @classmethod
    def of(cls, texts: Iterable[str], order: int) -> Letters:
        """The characters of ``texts``: all of them, but so few that a run of ``order`` still is one 64-bit number."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        most = int(2 ** (62 / order)) - 1
        return cls("".join(sorted(letter for letter, _ in counts.most_common(most))))

    def __len__(self) -> int:
        """How many numbers there are, 0 among them."""
        return len(self.known) + 1

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """All texts in one row, int64, with a gap (-1) between two."""
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)[:-1]
        return np.insert(self._numbers[_code_points("".join(texts))], ends, GAP)


@dataclass(frozen=True)
class Counts:
    """How often each run of n characters occurs.

    Attributes:
        runs: Those that occur, rising, int64 (M,).
        counts: How often, int64 (M,).
    """

    runs: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, n: int, base: int) -> Counts:
        """The runs of ``n`` in what :class:`Letters` gives."""
        codes, whole = _windows(ids, n, base)
        return cls(*np.unique(codes[whole], return_counts=True))

    def __getitem__(self, runs: np.ndarray) -> np.ndarray:
        """How often each of these runs occurs, int64 of the same shape."""
        return _look_up(self.runs, self.counts, runs)

    def entropy(self) -> float:
        """Bits a run, of the frequencies as they are; NaN if there is none."""
        p = self.counts / max(self.counts.sum(), 1)
        return float(-(p * np.log2(p)).sum()) if len(p) else float("nan")


def jensen_shannon(one: Counts, other: Counts) -> float:
    r"""Divergence of two laws of runs, in bits: 0 if they are equal, 1 if they have no run in common.

    .. math::
        \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m), \qquad m = (p + q) / 2

    Few runs differ from many by chance alone: compare with real text of the same size. NaN if one is empty.

    References:
        Lin, *Divergence measures based on the Shannon entropy*, 1991.
    """
    if not (len(one.runs) and len(other.runs)):
        return float("nan")
    runs = np.union1d(one.runs, other.runs)
    p, q = (each[runs] / each.counts.sum() for each in (one, other))
    return float(max(0.0, _divergence(p, (p + q) / 2) + _divergence(q, (p + q) / 2)) / 2)


class NGramModel:
    r"""A character's law given the ``order`` - 1 before it, interpolated with all shorter ones (Witten and Bell).

    .. math::
        p(c \mid h) = \frac{n(hc) + k(h)\, p(c \mid h')}{n(h) + k(h)}, \qquad p(c) \text{ begins from } 1/K

    n counts in the training text, k(h) is how many different characters followed h there, h' is h without its first
    character; where h was never seen, p(c | h) = p(c | h'). The laws add up to one over the K characters, of which one
    is "any other", so nothing has probability 0. The first characters of a text have as long a history as there is.

    Fitting costs O(order · N log N), scoring O(order · n log N).

    References:
        Witten and Bell, *The zero-frequency problem*, 1991; Chen and Goodman, *An empirical study of smoothing
        techniques for language modeling*, 1998, section 2.4.
    """

    def __init__(self, ids: np.ndarray, order: int, base: int) -> None:
        self.order, self.base = order, base
        self.counts = [Counts.of(ids, n, base) for n in range(1, order + 1)]
        self.histories = [_histories(counts, base) for counts in self.counts]

    @classmethod
    def fit(cls, texts: Sequence[str], order: int, letters: Letters | None = None) -> NGramModel:
        """Count the runs of 1 … ``order`` characters in ``texts``."""
        check_order(order)
        letters = letters or Letters.of(texts, order)
        ids = letters(texts)
        if not (ids >= 0).any():
            raise DataError("train: there is no character in it to fit a model on: give more")
        return cls(ids, order, len(letters))

    def probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Of every character given those before it in its text, float64 of the same shape; 1 in a gap."""
        p = np.full(len(ids), 1 / self.base)
        for n, (counts, (runs, totals, kinds)) in enumerate(
            zip(self.counts, self.histories, strict=True), start=1
        ):
            codes, whole = _windows(ids, n, self.base)
            history = codes // self.base
            seen, different = _look_up(runs, totals, history), _look_up(runs, kinds, history)
            refined = (counts[codes] + different * p) / np.maximum(seen + different, 1)
            p = np.where(whole & (seen > 0), refined, p)
        return np.where(ids >= 0, p, 1.0)

    def bits_per_character(self, ids: np.ndarray) -> float:
        """Mean surprise over all characters, NaN if there is none; 2 to this power is the perplexity."""
        number = int((ids >= 0).sum())
        return float(-np.log2(self.probabilities(ids)).sum()) / number if number else float("nan")


def check_order(order: int) -> None:
    """Refuse (ConfigError) an order that is none, or that leaves too few characters to tell apart."""
    if not 1 <= order <= 8:
        raise ConfigError(f"order is {order}: take 1 … 8 characters, e.g. 6")


def _windows(ids: np.ndarray, n: int, base: int) -> tuple[np.ndarray, np.ndarray]:
    """The run of n that ends at each place, as one number, and whether there is one: no gap, not before the start."""
    codes, whole = np.zeros(len(ids), dtype=np.int64), np.ones(len(ids), dtype=bool)
    for back in range(n):
        past = np.concatenate([np.full(min(back, len(ids)), GAP), ids[: max(len(ids) - back, 0)]])
        codes += np.where(past >= 0, past, 0) * base**back
        whole &= past >= 0
    return codes, whole


def _histories(counts: Counts, base: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All but the last character of each run: how often something followed it, and how many different things."""
    runs, starts, kinds = np.unique(counts.runs // base, return_index=True, return_counts=True)
    return runs, np.add.reduceat(counts.counts, starts) if len(starts) else starts, kinds


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none; keys rise."""
    if not len(keys):
        return np.zeros(wanted.shape, dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def _divergence(p: np.ndarray, m: np.ndarray) -> float:
    some = p > 0
    return float((p[some] * np.log2(p[some] / m[some])).sum())


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
