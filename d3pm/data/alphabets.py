"""The letters of biological sequences, in the order in which codecs and kernels number them."""

from d3pm.errors import ConfigError

ALPHABETS = {"dna": "ACGT", "rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}

AMBIGUOUS = {"dna": "NRYSWKMBDHV-.", "rna": "NRYSWKMBDHV-.", "protein": "XBZJUO*-."}
"""What IUPAC has besides: one of several letters, a gap, a stop, amino acids outside the code."""


def letters(alphabet: str) -> str:
    """The letters of ``"dna"``, ``"rna"`` or ``"protein"``; any other name is the letters themselves.

    Raises:
        ConfigError: If these are not two or more different capital letters.

    >>> letters("dna"), letters("HP")
    ('ACGT', 'HP')
    """
    found = ALPHABETS.get(alphabet.lower(), alphabet)
    good = found.isascii() and found.isalpha() and found.isupper() and 1 < len(found) == len(set(found))
    if not good:
        raise ConfigError(
            f"alphabet: {alphabet!r} is none: give {', '.join(map(repr, ALPHABETS))}, or two or more different "
            "capital letters"
        )
    return found
