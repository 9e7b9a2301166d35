"""text8's normal form, and texts in pieces."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3pm.data.normalize import TEXT8_ALPHABET, rechunk, text8_normalize, text8_pieces

WORDY = st.text(alphabet=st.one_of(st.sampled_from(" \n.aZé7̈"), st.characters()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world "),
        ("x2y 10", "x two y one zero "),
        ("Ünïcödé\t\ncafé", "unicode cafe"),
        ("cafe\u0301", "cafe"),
        ("well-known — “quoted”", "well known quoted "),
        ("x²", "x two "),
        ("", ""),
    ],
)
def test_text8_form(text, expected):
    assert text8_normalize(text) == expected


@given(WORDY)
def test_the_normal_form_is_normal(text):
    normal = text8_normalize(text)
    assert set(normal) <= set(TEXT8_ALPHABET)
    assert "  " not in normal
    assert text8_normalize(normal) == normal


@given(WORDY, st.integers(1, 12))
def test_pieces_join_to_the_text(text, size):
    pieces = list(rechunk([text[:3], text[3:]], size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)


@given(WORDY, st.integers(4, 12))
def test_pieces_do_not_show_in_the_normal_form(text, size):
    longest = max((len(run) for run in _accent_runs(text)), default=0)
    pieces = rechunk([text], size + longest)
    assert "".join(text8_pieces(pieces)) == text8_normalize(text)


@given(st.lists(st.sampled_from(["to", "be", "or", "not"]), max_size=60), st.integers(10, 30))
def test_words_are_not_cut(words, size):
    pieces = list(rechunk([" ".join(words)], size))
    assert [word for piece in pieces for word in piece.split()] == words
    assert all(piece.startswith(" ") for piece in pieces[1:])


def _accent_runs(text: str) -> list[str]:
    """The runs of combining characters, within which no cut is clean."""
    return "".join(c if unicodedata.combining(c) else " " for c in text).split()
