"""How close drawn texts come to real ones, beside what costs nothing and what cannot be beaten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from d3pm.errors import DataError
from d3pm.evaluation.language_model import LanguageModel, LanguageScore
from d3pm.evaluation.ngrams import Counts, Letters, NGramModel, check_order, jensen_shannon
from d3pm.evaluation.words import Vocabulary, distinct, inner, repetition, words_of

CHARACTERS = 5_000_000
"""Of the training text that a reference is fitted on, at most."""
RUNS = (3, 4)
"""Characters in the runs whose laws are compared with held-out text."""
PAST = 2
"""Characters that the conditional entropy is given."""
REPEATED = 3
"""Words in a run that counts as a repetition."""


@dataclass(frozen=True)
class TextNumbers:
    """What there is to say about some texts. Most numbers depend on how much text there is: compare as much.

    Attributes:
        num_texts: How many.
        num_characters: In all of them.
        bits_per_character: Mean surprise under an n-gram model of the training text. Real text is the mark, not 0:
            less is duller than real text.
        unigram_entropy: Bits a character, of the frequencies of characters in these texts.
        conditional_entropy: The same of a character whose two predecessors are known.
        divergence: Jensen-Shannon divergence of runs of 3 and of 4 characters from held-out text, bits (0 … 1).
        known_words: Share of words that occur in the training text; the first and last of a text, which
            may be cut off, are left out.
        edits: Mean edit distance of the other words to the nearest common one, each 3 at most.
        distinct: Share of different ones among single words, pairs and triples of words.
        repetition: Share of triples of words that stood in the same text before.
        language: Under a language model, if there is one.
    """

    num_texts: int
    num_characters: int
    bits_per_character: float
    unigram_entropy: float
    conditional_entropy: float
    divergence: tuple[float, float]
    known_words: float
    edits: float
    distinct: tuple[float, float, float]
    repetition: float
    language: LanguageScore | None = None

    @property
    def perplexity(self) -> float:
        """Of the n-gram model, a character."""
        return 2**self.bits_per_character

    def as_dict(self) -> dict[str, float]:
        """Name to number; those that have an n are ``divergence_3``, ``distinct_1``, …"""
        numbers = {
            "bits_per_character": self.bits_per_character,
            "perplexity": self.perplexity,
            **({} if self.language is None else self.language.as_dict()),
            "unigram_entropy": self.unigram_entropy,
            "conditional_entropy": self.conditional_entropy,
            **{f"divergence_{n}": value for n, value in zip(RUNS, self.divergence, strict=True)},
            "known_words": self.known_words,
            "edits": self.edits,
            **{f"distinct_{n}": value for n, value in enumerate(self.distinct, start=1)},
            "repetition": self.repetition,
        }
        return numbers | {"num_texts": self.num_texts, "num_characters": self.num_characters}


class TextReference:
    """What texts are measured by: fitted once with :meth:`fit`, then any number of texts is judged.

    Attributes:
        num_characters: Of training text it was fitted on.
        num_heldout: Characters of held-out text.
    """

    def __init__(
        self,
        letters: Letters,
        model: NGramModel,
        vocabulary: Vocabulary,
        heldout: Sequence[Counts],
        language_model: LanguageModel | None = None,
        num_characters: int = 0,
        num_heldout: int = 0,
    ) -> None:
        self.letters, self.model, self.vocabulary, self.heldout = letters, model, vocabulary, heldout
        self.language_model = language_model
        self.num_characters, self.num_heldout = num_characters, num_heldout

    @classmethod
    def fit(
        cls,
        train: Iterable[str],
        heldout: Sequence[str],
        order: int = 6,
        *,
        language_model: LanguageModel | None = None,
        characters: int = CHARACTERS,
    ) -> TextReference:
        """Learn the training text's runs of characters and its words, and count held-out text.

        Args:
            train: Training texts; no more of them are read once there are so many characters.
            heldout: Texts that were not trained on.
            order: Characters in the longest run of the n-gram model, 1 … 8.
            language_model: To score texts too.
            characters: Of training text, at most; 5,000,000 take a few seconds.

        Raises:
            ConfigError: If the order is out of range.
            DataError: If there is no training or no held-out text.
        """
        check_order(order)
        texts = _first(train, characters)
        letters = Letters.of(texts, order)
        model = NGramModel.fit(texts, order, letters)
        ids = letters(heldout)
        num = int((ids >= 0).sum())
        if not num:
            raise DataError("heldout: there is no text to compare with: give more")
        counts = [Counts.of(ids, n, len(letters)) for n in RUNS]
        size = sum(map(len, texts))
        return cls(letters, model, Vocabulary(texts), counts, language_model, size, num)

    def judge(self, texts: Sequence[str]) -> TextNumbers:
        """Measure ``texts``: about 0.2 s and a second for 200 unknown words, without a language model."""
        ids, base = self.letters(texts), len(self.letters)
        counts = {n: Counts.of(ids, n, base) for n in {1, PAST, PAST + 1, *RUNS}}
        words = [words_of(text) for text in texts]
        whole = [word for each in words for word in inner(each)]
        one, two, three = (distinct(words, n) for n in (1, 2, 3))
        near, far = (jensen_shannon(counts[n], held) for n, held in zip(RUNS, self.heldout, strict=True))
        return TextNumbers(
            num_texts=len(texts),
            num_characters=int((ids >= 0).sum()),
            bits_per_character=self.model.bits_per_character(ids),
            unigram_entropy=counts[1].entropy(),
            conditional_entropy=_conditional_entropy(counts[PAST + 1], base),
            divergence=(near, far),
            known_words=self.vocabulary.known_share(whole),
            edits=self.vocabulary.mean_distance(whole),
            distinct=(one, two, three),
            repetition=repetition(words, REPEATED),
            language=None if self.language_model is None else self.language_model.score(texts),
        )

    def unigram(self, lengths: Sequence[int], seed: int = 0) -> list[str]:
        """Texts of these lengths whose characters are drawn one by one as often as in the training text."""
        counts = self.model.counts[0]
        known = counts.runs > 0
        p = counts.counts[known] / counts.counts[known].sum()
        letters = np.array(list(self.letters.known))[counts.runs[known] - 1]
        drawn = "".join(np.random.default_rng(seed).choice(letters, sum(lengths), p=p))
        ends = np.cumsum([0, *lengths]).tolist()
        return [drawn[start:end] for start, end in pairwise(ends)]


@dataclass(frozen=True)
class TextQuality:
    """Drawn texts, unigram texts and real ones, equally many of each, against the same training and held-out text.

    Attributes:
        num_train: Characters of training text that the n-gram model and the vocabulary know.
        num_heldout: Characters of held-out text that runs of characters are compared with.
        order: Of the n-gram model.
        samples: What is judged.
        unigram: Symbols drawn one by one: costs nothing, and is to be beaten.
        real: Held-out texts: what a perfect sampler would get, with so many texts.
    """

    num_train: int
    num_heldout: int
    order: int
    samples: TextNumbers
    unigram: TextNumbers
    real: TextNumbers

    @property
    def tables(self) -> dict[str, TextNumbers]:
        """The three by name."""
        return {"samples": self.samples, "unigram": self.unigram, "real": self.real}

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        sizes = {"num_train": self.num_train, "num_heldout": self.num_heldout, "order": self.order}
        return sizes | {name: table.as_dict() for name, table in self.tables.items()}


class TextJudge:
    """Holds what drawn texts are compared with: a reference, and what it says of real and of unigram texts.

    Args:
        real: Held-out texts: ``num`` of them, evenly spread, are put beside; the others are compared with.
        train: Training texts.
        num: How many texts are judged at a time; half of ``real`` at most.
        unigram: At least ``num`` texts that cost nothing; characters drawn one by one if not given.
        order: Of the n-gram model.
        language_model: To score texts too.
        seed: Of the unigram texts.

    Raises:
        ConfigError: If the order is out of range.
        DataError: If there are too few held-out texts, or there is no training text.
    """

    def __init__(
        self,
        real: Sequence[str],
        train: Iterable[str],
        num: int,
        *,
        unigram: Sequence[str] | None = None,
        order: int = 6,
        language_model: LanguageModel | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 <= num <= len(real) // 2:
            raise DataError(
                f"real: {len(real)} held-out texts are too few for {num} to judge and as many to compare them "
                f"with: give {max(2 * num, 2)} or more, or judge fewer"
            )
        places = {(2 * i + 1) * len(real) // (2 * num) for i in range(num)}
        aside = [text for place, text in enumerate(real) if place in places]
        others = [text for place, text in enumerate(real) if place not in places]
        self.num = num
        self.reference = TextReference.fit(train, others, order, language_model=language_model)
        costless = self.reference.unigram([len(t) for t in aside], seed) if unigram is None else unigram[:num]
        self.real, self.unigram = self.reference.judge(aside), self.reference.judge(costless)

    def __call__(self, samples: Sequence[str]) -> TextQuality:
        """Judge ``num`` texts; more are left out."""
        if len(samples) < self.num:
            raise DataError(f"samples: there are {len(samples)}, but {self.num} are to be judged: give more")
        reference = self.reference
        return TextQuality(
            num_train=reference.num_characters,
            num_heldout=reference.num_heldout,
            order=reference.model.order,
            samples=reference.judge(samples[: self.num]),
            unigram=self.unigram,
            real=self.real,
        )


def text_quality(
    samples: Sequence[str], real: Sequence[str], train: Iterable[str], **options: Any
) -> TextQuality:
    """Compare drawn texts with real ones.

    Of drawn, unigram and real texts equally many are used, at most half as many as there are real ones: the
    rest of these is what runs of characters are compared with.

    Args:
        samples: Drawn texts.
        real: Held-out texts.
        train: Texts the model was trained on; the first 5,000,000 characters are used.
        **options: Of :class:`TextJudge`.

    Raises:
        ConfigError: If the order is out of range.
        DataError: If there are too few texts.
    """
    return TextJudge(real, train, min(len(samples), len(real) // 2), **options)(samples)


def _first(texts: Iterable[str], characters: int) -> list[str]:
    """So many characters of the texts; the last text is cut."""
    taken, room = [], characters
    for text in texts:
        taken.append(text[:room])
        room -= len(text)
        if room <= 0:
            break
    return taken


def _conditional_entropy(runs: Counts, base: int) -> float:
    """Bits of the last character of a run given the others: H(run) - H(run without its last)."""
    history, starts = np.unique(runs.runs // base, return_index=True)
    if not len(starts):
        return float("nan")
    return runs.entropy() - Counts(history, np.add.reduceat(runs.counts, starts)).entropy()
