"""The same text is found in every shape it can lie about in; what cannot be read says so in one line."""

import gzip
import json
import lzma
import zipfile

import pytest

from d3pm.data.corpora import find
from d3pm.data.readers import HubRows
from d3pm.errors import DataError

ROWS = ["one fish", "two fish", "", "red fish\nblue fish"]


def text_of(source, **options) -> str:
    return "".join(find(str(source), **options).splits["train"].pieces("|"))


def refusal(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        text_of(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_table(path, column="text"):
    rows = [{"id": i, column: row} for i, row in enumerate(ROWS)]
    lines = "\n".join(json.dumps(row) for row in rows)
    name = path.name
    if name.endswith(".jsonl"):
        path.write_text(lines)
    elif name.endswith(".jsonl.xz"):
        path.write_bytes(lzma.compress(lines.encode()))
    elif name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif name.endswith(".csv"):
        quoted = [f'{row["id"]},"{row[column]}"' for row in rows]
        path.write_text("\n".join([f"id,{column}", *quoted]))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


class TestTextFiles:
    def test_packed_or_plain_the_text_is_the_same(self, tmp_path, plain):
        text = plain + "\r\nnaïve 東京\n"
        raw = text.encode()
        (tmp_path / "a.txt").write_bytes(raw)
        (tmp_path / "a.txt.xz").write_bytes(lzma.compress(raw))
        (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a", raw)
        for file in ("a.txt", "a.txt.xz", "a.gz", "a.zip"):
            assert text_of(tmp_path / file) == text

    def test_a_file_with_any_name(self, tmp_path):
        (tmp_path / "corpus.v2").write_text("some text")
        assert text_of(tmp_path / "corpus.v2") == "some text"

    def test_relative_paths_and_brackets(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "odd [1]*").mkdir()
        (tmp_path / "a.txt").write_text("here")
        assert text_of("a.txt") == text_of("./a.txt") == "here"
        assert text_of(write_table(tmp_path / "odd [1]*" / "t.jsonl")) == "|".join(ROWS)

    def test_lines_are_documents(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\nthree")
        assert list(find(str(tmp_path / "a.txt")).splits["train"].documents()) == ["one", "two", "", "three"]


class TestTables:
    @pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.jsonl.xz", "t.jsonl.gz", "t.json", "t.csv"])
    def test_every_kind(self, name, tmp_path):
        rows = [row for row in ROWS if row] if name == "t.csv" else ROWS
        if name == "t.csv":
            (tmp_path / name).write_text(
                "id,text\n" + "\n".join(f'{i},"{row}"' for i, row in enumerate(rows))
            )
        else:
            write_table(tmp_path / name)
        assert text_of(tmp_path / name) == "|".join(rows)

    def test_another_column(self, tmp_path):
        assert text_of(write_table(tmp_path / "t.jsonl", column="body"), column="body") == "|".join(ROWS)

    def test_a_column_that_is_not_there(self, tmp_path):
        assert "one of id, body" in refusal(write_table(tmp_path / "t.parquet", column="body"))

    @pytest.mark.parametrize(
        "rows", ['{"text": "a"}\n{"text": null}', '{"text": 7}', '{"text": "a"}\n{"id": 1}']
    )
    def test_a_row_without_text(self, rows, tmp_path):
        file = tmp_path / "t.jsonl"
        file.write_text(rows)
        assert "give each row a text" in refusal(file)

    @pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.csv", "t.jsonl.xz"])
    @pytest.mark.parametrize("content", [b"", b'{"text": "a"}\n{"text'])
    def test_a_broken_table(self, name, content, tmp_path):
        file = tmp_path / name
        file.write_bytes(content)
        assert str(file) in refusal(file)


class TestFolders:
    def test_files_named_after_splits_are_splits(self, tmp_path):
        for name in ("train-0.txt", "train-1.txt", "valid.txt", "test.txt", "training-notes.md"):
            (tmp_path / name).write_text(name)
        corpus = find(str(tmp_path))
        texts = {name: "".join(reader.pieces("|")) for name, reader in corpus.splits.items()}
        assert texts == {"train": "train-0.txt|train-1.txt", "validation": "valid.txt", "test": "test.txt"}

    def test_other_files_are_one_text_in_the_order_of_their_names(self, tmp_path):
        for name in ("b.txt", "a.txt", "README.md"):
            (tmp_path / name).write_text(name)
        write_table(tmp_path / "c.jsonl")
        assert text_of(tmp_path) == "a.txt|b.txt|" + "|".join(ROWS)

    def test_no_text_in_it(self, tmp_path):
        (tmp_path / "picture.png").write_bytes(b"")
        assert "no text in" in refusal(tmp_path)

    def test_a_test_text_alone(self, tmp_path):
        (tmp_path / "test.txt").write_text("a")
        (tmp_path / "valid.txt").write_text("a")
        assert "no train file" in refusal(tmp_path)


class TestNames:
    @pytest.mark.parametrize(
        "file", ["name", "name.txt", "name.xz", "name.txt.gz", "name/name", "name/input.txt", "name/x.xz"]
    )
    def test_found_in_the_data_folder(self, file, tmp_path, monkeypatch):
        raw = b"some text"
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True)
        packed = {".xz": lzma.compress(raw), ".gz": gzip.compress(raw)}.get(path.suffix, raw)
        path.write_bytes(packed)
        monkeypatch.setenv("D3PM_DATA", str(tmp_path / "data"))
        assert text_of("name") == "some text"
        assert str(path) in find("name").where

    def test_the_whole_text8_goes_before_its_prefix(self, tmp_path, monkeypatch):
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        (tmp_path / "text8_prefix").mkdir()
        (tmp_path / "text8_prefix" / "a.txt").write_text("part")
        assert text_of("text8") == "part"
        (tmp_path / "text8").write_text("whole")
        assert text_of("text8") == "whole"

    def test_a_folder_named_after_it_stands_in_and_that_is_said(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        for name in ("tales-2", "tales-1", "tales", "talesman_x"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.txt").write_text(name)
        (tmp_path / "tales-0").write_text("a file is no folder")
        assert text_of("tales") == "tales"
        assert not caplog.records
        (tmp_path / "tales").rename(tmp_path / "other")
        assert text_of("tales") == "tales-1"
        assert "tales-1 stands in for it" in caplog.text

    def test_a_bare_name_is_no_folder_here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "text8").mkdir()
        assert "./text8" in refusal("text8")

    def test_a_data_folder_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("D3PM_DATA", str(tmp_path / "nothing"))
        assert "D3PM_DATA" in refusal("text8")

    @pytest.mark.parametrize("source", ["nothing.txt", "./nothing", "/no/such/file", "~/nothing.parquet"])
    def test_a_path_that_is_not_there(self, source):
        assert "does not exist" in refusal(source)

    @pytest.mark.parametrize("source", ["text8", "nobody/nothing"])
    def test_the_hub_out_of_reach(self, source):
        message = refusal(source)
        assert "hub" in message
        assert "D3PM_DATA" in message


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch):
        import datasets

        asked = []

        def load(name, subset):
            asked.append((name, subset))
            return datasets.DatasetDict(
                {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in splits.items()}
            )

        splits: dict = {}
        monkeypatch.setattr(datasets, "load_dataset", load)
        return splits, asked

    def test_own_splits(self, hub):
        splits, asked = hub
        splits.update(train=["a", "b"], validation=["c"], test=["d"], unsupervised=["e"])
        corpus = find("somebody/something", subset="small")
        assert {name: "".join(r.pieces(" ")) for name, r in corpus.splits.items()} == {
            "train": "a b",
            "validation": "c",
            "test": "d",
        }
        assert asked == [("somebody/something", "small")]

    def test_text8_has_a_longer_name_there(self, hub):
        splits, asked = hub
        splits.update(train=["a"])
        find("text8")
        assert asked == [("afmck/text8", None)]

    def test_a_single_split_is_the_text(self, hub):
        hub[0].update(everything=["a"])
        assert text_of("x/y") == "a"

    def test_rows_that_cannot_be_read(self):
        class Gone:
            def iter(self, batch_size):
                raise OSError("no such\nfile")

        with pytest.raises(DataError, match=r"source: hub dataset x cannot be read \(no such file\)"):
            list(HubRows(Gone(), "text", "hub dataset x").documents())

    def test_no_training_text(self, hub):
        hub[0].update(test=["a"], odd=["b"])
        assert "no train split" in refusal("x/y")


class TestUnreadableFiles:
    @pytest.mark.parametrize("name", ["a.xz", "a.gz", "a.zip"])
    def test_not_what_its_name_says(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"not compressed")
        assert "cannot be read" in refusal(tmp_path / name)

    @pytest.mark.parametrize(("name", "pack"), [("a.xz", lzma.compress), ("a.gz", gzip.compress)])
    def test_cut_short(self, name, pack, tmp_path):
        (tmp_path / name).write_bytes(pack(b"some text" * 1000)[:-10])
        assert "cannot be read" in refusal(tmp_path / name)

    def test_not_utf8(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
        assert "not UTF-8 in line 1 (byte 0xe9)" in refusal(tmp_path / "a.txt")

    def test_a_zip_of_many(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a", "a")
            archive.writestr("b", "b")
        assert "2 files" in refusal(tmp_path / "a.zip")


def test_the_manual_of_python_is_always_there():
    text = text_of("pydoc")
    assert set(text) == set(" abcdefghijklmnopqrstuvwxyz")
    assert len(text) > 100_000
    assert text == text_of("pydoc")
