"""What is said about a model in words and numbers: one place, so that all verbs say it alike."""

import math
from typing import Any

from d3pm.data.base import Codec, DataSource
from d3pm.evaluation import PictureQuality, QualityCurve, Report, TableQuality, TextQuality

COST = {"calls a sample": "calls", "seconds a sample": "seconds"}
"""What a line about the cost of a sample (network calls, time) is called, and the number it tells."""
TABLE = {
    "total variation, mean": "total_variation",
    "total variation, largest": "largest_total_variation",
    "association error": "association_error",
    "classifier's accuracy": "accuracy",
    "classifier's AUC": "auc",
}
"""The same about drawn rows of a table."""
TEXT = {
    "n-gram bits/char": "bits_per_character",
    "n-gram perplexity": "perplexity",
    "language model bits/char": "language_model_bits_per_character",
    "language model perplexity": "language_model_perplexity",
    "entropy, bits/char": "unigram_entropy",
    "  given two before": "conditional_entropy",
    "divergence of 3-grams": "divergence_3",
    "divergence of 4-grams": "divergence_4",
    "known words": "known_words",
    "edits of unknown words": "edits",
    "distinct words": "distinct_1",
    "distinct pairs": "distinct_2",
    "distinct triples": "distinct_3",
    "repeated triples": "repetition",
}
"""The same about drawn texts."""
WORST = 3
"""Columns that are named for their total variation."""


def unit(codec: Codec) -> str:
    """What one dimension is called: a character or a token of a text, a column of a table, else a dimension."""
    if codec.columnwise:
        return "column"
    if getattr(codec, "alphabet", None):
        return "char"
    return "token" if hasattr(codec, "tokenizer") else "dim"


def report_lines(report: Report, entropy: float | None, split: str, data: DataSource) -> str:
    """A report, line by line, beside the entropy of single symbols; for tokens also a character's share."""
    each = unit(data.codec)
    rows = report.rows(each)
    if entropy is not None:
        rows.append(("unigram entropy", f"{entropy:8.4f} bits/{each}"))
    if entropy is not None and each == "token" and hasattr(data, "characters_per_token"):
        share = report.as_dict()["bits_per_dim"] / data.characters_per_token(split)
        rows.append(("bound by character", f"{share:8.4f} bits/char"))
    title = f"{split} split, {report.num_examples} examples, {report.num_times} times each:"
    return "\n".join([title, *(f"  {name:<20}{value}" for name, value in rows)])


def kind_of(drawn: QualityCurve) -> str:
    """What the samples are: ``table``, ``text`` or ``pictures``."""
    kinds = {TableQuality: "table", TextQuality: "text", PictureQuality: "pictures"}
    return kinds[type(drawn.points[-1].quality)]  # type: ignore[index]


def numbers_of(drawn: QualityCurve) -> dict[str, str]:
    """What there is to tell of the samples: what a line is called, and the number it tells."""
    match drawn.points[-1].quality:
        case TableQuality():
            known = TABLE
        case TextQuality():
            known = TEXT
        case other:
            name = getattr(other, "name", "distance")
            known = {name: "frechet", "total variation of classes": "label_variation"}
    return {name: key for name, key in known.items() if any(key in row for row in drawn.rows())}


def quality_lines(drawn: QualityCurve, split: str) -> str:
    """What samples cost and are worth, beside what is to be beaten and what cannot be: a column for each."""
    one = len(drawn.points) == 1
    points = {"samples" if one else f"{point.steps} steps": point.row() for point in drawn.points}
    columns: dict[str, dict[str, float]] = points | drawn.references
    names = COST | numbers_of(drawn)
    wide, width = max(map(len, names)) + 2, [max(10, len(name) + 2) for name in columns]
    lines = [_title(drawn, split), _row("", list(columns), wide, width)]
    for name, key in names.items():
        values = [row.get(key, math.nan) for row in columns.values()]
        if not all(map(math.isnan, values)):
            lines.append(_row(name, [_shown(value) for value in values], wide, width))
    return "\n".join([*lines, *_remarks(drawn, wide)])


def _row(name: str, cells: list[str], wide: int, width: list[int]) -> str:
    cells = [f"{cell:>{size}}" for cell, size in zip(cells, width, strict=True)]
    return f"  {name:<{wide}}{''.join(cells)}".rstrip()


def _shown(value: float) -> str:
    """Four decimals, or fewer of a large number; a dash for none.

    >>> _shown(0.25), _shown(641.99561), _shown(math.nan)
    ('0.2500', '642.00', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}"


def _title(drawn: QualityCurve, split: str) -> str:
    """How many there are of what."""
    point = drawn.points[-1]
    steps = f"{point.steps} step{'' if point.steps == 1 else 's'}"
    cost = f"{steps}, " if len(drawn.points) == 1 else ""
    match point.quality:
        case TableQuality() as found:
            return (
                f"{cost}{found.num_rows:,} rows of each kind, against {found.num_test:,} real rows of the {split} "
                f"split:"
            )
        case TextQuality() as found:
            return (
                f"{cost}{found.samples.num_texts:,} texts of each kind, against {found.num_train:,} training "
                f"characters ({found.order}-gram model, words) and {found.num_heldout:,} of the {split} "
                "split (divergence):"
            )
        case other:
            pictures: Any = other
            return (
                f"{cost}{pictures.samples.num_pictures:,} pictures of each kind, against {pictures.num_train:,} "
                f"training pictures in {pictures.num_features:,} features; real ones are of the {split} split:"
            )


def _remarks(drawn: QualityCurve, wide: int) -> list[str]:
    """What is to be said of a table besides: of the last samples."""
    found = drawn.points[-1].quality
    if not isinstance(found, TableQuality):
        return []
    worst = [f"{found.columns[c]} {found.samples.variation[c]:.4f}" for c in found.worst(WORST)]
    lines = [f"  {'columns farthest off':<{wide}}{', '.join(worst)}"]
    if found.target is not None:
        what = f"{found.target} (the commonest class: {found.commonest:.4f})"
        lines.append(f"  {'the classifier predicts':<{wide}}{what}")
    return lines


def sample_lines(texts: list[str]) -> str:
    """Samples, one a line, numbered."""
    return "\n".join(f"[{n}] {' '.join(text.split())}" for n, text in enumerate(texts, start=1))
