"""Every test of data has a cache of its own, and sees the user's data only if it asks for it."""

import lzma
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

REAL = os.environ.get("D3PM_DATA")
PLAIN = "the quick brown fox jumps over the lazy dog while five wizards box quietly " * 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D3PM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("D3PM_DATA", raising=False)


@pytest.fixture
def plain() -> str:
    return PLAIN


@pytest.fixture
def plain_file(tmp_path) -> Path:
    file = tmp_path / "plain.txt"
    file.write_text(PLAIN)
    return file


@pytest.fixture
def real_data(monkeypatch):
    """Sets D3PM_DATA, and gives back a function that skips unless a file is there."""

    def need(file: str) -> Path:
        if not REAL or not (path := Path(REAL) / file).exists():
            pytest.skip(f"{file} is not in D3PM_DATA ({REAL or 'not set'})")
        monkeypatch.setenv("D3PM_DATA", REAL)
        return path

    return need


@pytest.fixture
def unpacked():
    return lambda path: lzma.open(path, "rt", encoding="utf-8", newline="").read()
