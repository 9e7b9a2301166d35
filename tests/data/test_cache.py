"""The cache: built once, noticed when stale or torn, safe from kills and races."""

import json
import os
import signal
import time

import pytest

from d3pm.data import TextCodec
from d3pm.data.cache import cache_root, cached
from d3pm.data.corpora import Corpus
from d3pm.data.prepare import split_streams, store
from d3pm.data.readers import Text
from d3pm.errors import DataError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Builder:
    """Writes two files, and a mark outside the cache for each time it ran."""

    def __init__(self, marks):
        self.marks = marks
        marks.mkdir()

    def __call__(self, folder):
        (self.marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_bytes(b"12345")
        time.sleep(0.05)
        (folder / "b").write_bytes(b"67890")

    @property
    def runs(self):
        return len(list(self.marks.iterdir()))


@pytest.fixture
def builder(tmp_path):
    return Builder(tmp_path / "marks")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def in_child(action) -> int:
    """Run ``action`` in a forked process; its process id."""
    if pid := os.fork():
        return pid
    try:
        action()
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_built_once(builder, root):
    first = cached({"a": 1}, builder, root)
    assert (first / "b").read_bytes() == b"67890"
    assert cached({"a": 1}, builder, root) == first
    assert builder.runs == 1
    assert cached({"a": 2}, builder, root) != first
    assert builder.runs == 2


@pytest.mark.parametrize("file", ["b", "inner/a", "entry.json"])
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_a_torn_entry_does_not_count(file, harm, builder, root):
    entry = cached({}, builder, root)
    (entry / file).unlink() if harm == "removed" else os.truncate(entry / file, 2)
    assert cached({}, builder, root) == entry
    assert builder.runs == 2
    assert (entry / "inner" / "a").read_bytes() == b"12345"
    assert set(json.loads((entry / "entry.json").read_text())["files"]) == {"b", "inner/a"}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda entry: os.truncate(entry / "b", 2), "b has 2 bytes, not the 5 that were stored"),
        (lambda entry: (entry / "b").write_bytes(b"67899"), "b does not hold the bytes that were stored"),
        (lambda entry: (entry / "inner" / "a").unlink(), "a is missing"),
        (lambda entry: (entry / "c").touch(), "c does not belong there"),
        (lambda entry: (entry / "entry.json").write_text("{"), "entry.json is missing or cannot be read"),
        (lambda entry: (entry / "entry.json").write_text('{"files": {"b": 5}}'), "entry.json is missing or"),
    ],
)
def test_what_is_torn_is_named(harm, said, builder, root, caplog):
    entry = cached({}, builder, root)
    cached({}, builder, root)
    assert not caplog.messages
    harm(entry)
    assert cached({}, builder, root) == entry
    assert any(said in line and str(entry) in line and "made again" in line for line in caplog.messages)
    assert (entry / "b").read_bytes() == b"67890"
    assert builder.runs == 2


def test_a_kill_leaves_nothing_that_counts(builder, root):
    def build_and_die(folder):
        (folder / "b").write_bytes(b"67")
        os.kill(os.getpid(), signal.SIGKILL)

    _, status = os.waitpid(in_child(lambda: cached({}, build_and_die, root)), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    entry = cached({}, builder, root)
    assert builder.runs == 1
    assert (entry / "b").read_bytes() == b"67890"
    assert [path.name for path in root.iterdir() if path.is_dir()] == [entry.name]


def test_an_error_leaves_nothing(root):
    def fail(folder):
        (folder / "b").write_bytes(b"67")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        cached({}, fail, root)
    assert not [path for path in root.iterdir() if path.is_dir()]


def test_a_source_that_cannot_be_read_is_not_the_caches_fault(root):
    def fail(folder):
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        cached({}, fail, root)


def test_many_processes_build_once(builder, root):
    children = [in_child(lambda: cached({}, builder, root)) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    assert builder.runs == 1


def test_a_cache_that_cannot_be_written(builder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cache_dir: .* cannot be written") as caught:
        cached({}, builder, tmp_path / "file" / "root")
    assert "D3PM_CACHE" in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_while_tokens_are_written(tmp_path):
    (tmp_path / "train.tokens").symlink_to("/dev/full")
    streams = split_streams(Corpus("here", {"train": Text("a cat " * 100)}), None, "\n")
    with pytest.raises(DataError, match=r"cache_dir: .* cannot be written \(.*No space"):
        store(tmp_path, streams, lambda texts: TextCodec.characters())


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("D3PM_CACHE", "/b")
    assert str(cache_root("/a")) == "/a"
    assert str(cache_root()) == "/b"
    monkeypatch.delenv("D3PM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert str(cache_root()) == "/c/d3pm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/d")
    assert str(cache_root()) == "/d/.cache/d3pm"
