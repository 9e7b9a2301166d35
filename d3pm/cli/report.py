"""What is said about a model in words and numbers: one place, so that all verbs say it alike."""

from d3pm.data.base import Codec, DataSource
from d3pm.evaluation import Report


def unit(codec: Codec) -> str:
    """What one dimension is called: a character or a token of a text, a dimension of anything else."""
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


def sample_lines(texts: list[str]) -> str:
    """Samples, one a line, numbered."""
    return "\n".join(f"[{n}] {' '.join(text.split())}" for n, text in enumerate(texts, start=1))
