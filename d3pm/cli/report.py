"""What is said about a model in words and numbers: one place, so that all verbs say it alike."""

from d3pm.data.base import Codec, DataSource
from d3pm.evaluation import BoundReport


def unit(codec: Codec) -> str:
    """What one dimension is called: a character where the codec has an alphabet, else a token."""
    return "char" if getattr(codec, "alphabet", None) else "token"


def bound_lines(report: BoundReport, entropy: float, split: str, data: DataSource) -> str:
    """The bound, term by term, beside the entropy of single symbols; for tokens also a character's share."""
    each = unit(data.codec)
    rows = [
        ("prior L_T", f"{report.prior:8.4f}"),
        ("diffusion terms", f"{report.diffusion:8.4f}"),
        ("reconstruction L_0", f"{report.reconstruction:8.4f}"),
        ("bound (their sum)", f"{report.bits_per_dim:8.4f} ± {report.standard_error:.4f} bits/{each}"),
        ("unigram entropy", f"{entropy:8.4f} bits/{each}"),
    ]
    if each == "token" and hasattr(data, "characters_per_token"):
        length = data.characters_per_token(split)
        rows.append(("bound by character", f"{report.bits_per_dim / length:8.4f} bits/char"))
    title = f"{split} split, {report.num_examples} examples, {report.num_times} times each:"
    return "\n".join([title, *(f"  {name:<20}{value}" for name, value in rows)])


def sample_lines(texts: list[str]) -> str:
    """Samples, one a line, numbered."""
    return "\n".join(f"[{n}] {' '.join(text.split())}" for n, text in enumerate(texts, start=1))
