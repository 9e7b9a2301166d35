"""What is said about a model in words and numbers: one place, so that all verbs say it alike."""

import math

from d3pm.data.base import Codec, DataSource
from d3pm.evaluation import Report, TableQuality

QUALITY = {
    "total variation, mean": "total_variation",
    "total variation, largest": "largest_total_variation",
    "association error": "association_error",
    "classifier's accuracy": "accuracy",
    "classifier's AUC": "auc",
}
"""What a line about drawn rows is called, and the number it tells."""
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


def quality_lines(found: TableQuality, split: str) -> str:
    """What drawn rows are worth, beside what is to be beaten and what cannot be."""
    tables = [table.as_dict() for table in found.tables.values()]
    rows = [("", *found.tables)]
    for name, key in QUALITY.items():
        values = [table.get(key, math.nan) for table in tables]
        if not all(map(math.isnan, values)):
            rows.append((name, *(f"{value:.4f}" for value in values)))
    worst = [f"{found.columns[c]} {found.samples.variation[c]:.4f}" for c in found.worst(WORST)]
    lines = [
        f"{found.num_rows:,} rows of each kind, against {found.num_test:,} real rows of the {split} split:",
        *(f"  {name:<26}{a:>8}{b:>13}{c:>8}" for name, a, b, c in rows),
        f"  columns farthest off      {', '.join(worst)}",
    ]
    if found.target is not None:
        lines.append(
            f"  the classifier predicts   {found.target} (the commonest class: {found.commonest:.4f})"
        )
    return "\n".join(lines)


def sample_lines(texts: list[str]) -> str:
    """Samples, one a line, numbered."""
    return "\n".join(f"[{n}] {' '.join(text.split())}" for n, text in enumerate(texts, start=1))
