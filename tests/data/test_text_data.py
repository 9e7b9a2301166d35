"""From a name to blocks: everything between, on made texts always and on real ones where they are."""

import hashlib
import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch

from d3pm.data import TextData, text8_normalize
from d3pm.data.base import SPLITS
from d3pm.errors import ConfigError, D3PMError, DataError
from d3pm.evaluation import unigram_entropy

BOOKS8_MD5 = "034e02b17c28c76c5fd83626561d1169"
"""Of the unpacked bytes, as the data's own README states it."""


def stored(data: TextData, name: str) -> np.ndarray:
    return np.array(data.split(name).tokens)


def texts(data: TextData) -> dict[str, str]:
    return {
        name: data.codec.decode(torch.from_numpy(stored(data, name).astype(int))[None])[0] for name in SPLITS
    }


def refusal(**options) -> str:
    with pytest.raises(D3PMError) as caught:
        TextData(**options).split("train")
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestDefault:
    def test_the_default_needs_nothing(self):
        data = TextData()
        assert data.shape == (256,)
        assert data.codec.num_symbols == 27
        for name in SPLITS:
            block = data.split(name)[0]["x0"]
            assert block.shape == (256,)
            assert block.dtype == torch.int64
        assert 3.5 < unigram_entropy(data.split("train"), 27) < 4.4

    def test_every_argument_is_kept(self):
        options = {
            "source": "a.txt",
            "block_size": 8,
            "tokenizer": "bpe",
            "vocab_size": 300,
            "alphabet": "ab",
            "normalize": "text8",
            "documents": "padded",
            "separator": " ",
            "column": "body",
            "subset": "small",
            "sizes": [3, 2, 1],
            "cache_dir": "x",
        }
        data = TextData(**options)
        assert {name: getattr(data, name) for name in options} == options
        json.dumps(options)


class TestSplits:
    def test_they_are_the_text(self, plain_file, plain):
        data = TextData(str(plain_file), block_size=8)
        parts = texts(data)
        assert "".join(parts.values()) == plain
        assert [len(parts[name]) for name in SPLITS] == [2700, 150, 150]

    def test_sizes(self, plain_file, plain):
        data = TextData(str(plain_file), block_size=8, sizes=[100, 20, 10])
        assert list(texts(data).values()) == [plain[:100], plain[100:120], plain[120:130]]

    def test_an_unknown_one(self, plain_file):
        with pytest.raises(ConfigError, match="one of train, validation, test"):
            TextData(str(plain_file)).split("valid")

    def test_a_stream_of_many_pieces(self, tmp_path):
        text = "".join(np.random.default_rng(0).choice(list("abc "), 300_000))
        (tmp_path / "a.txt").write_text(text)
        assert "".join(texts(TextData(str(tmp_path / "a.txt"))).values()) == text


class TestBytePairs:
    def test_learnt_from_the_training_split_only(self, tmp_path, plain):
        (tmp_path / "train.txt").write_text(plain)
        (tmp_path / "valid.txt").write_text("zyzzyva " * 200)
        (tmp_path / "test.txt").write_text("zyzzyva " * 200)
        data = TextData(str(tmp_path), block_size=8, tokenizer="bpe", vocab_size=280)
        assert texts(data)["test"] == "zyzzyva " * 200
        assert not any("zz" in symbol for symbol in data.codec.tokenizer.get_vocab())
        assert stored(data, "train").dtype == np.uint16
        assert data.characters_per_token("train") == len(plain) / len(stored(data, "train")) > 1.5

    def test_a_saved_tokenizer(self, tmp_path, plain_file):
        trained = TextData(str(plain_file), block_size=8, tokenizer="bpe", vocab_size=280)
        trained.codec.save_pretrained(tmp_path / "tokenizer")
        loaded = TextData(str(plain_file), block_size=8, tokenizer=str(tmp_path / "tokenizer"))
        assert np.array_equal(stored(loaded, "train"), stored(trained, "train"))


class TestDocuments:
    @pytest.fixture
    def rows(self, tmp_path):
        rows = [f"row {chr(97 + i % 26)}{' is long' * (i % 3)}" for i in range(60)] + ["", "  "]
        (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
        return tmp_path / "rows.jsonl", rows

    def test_packed_with_a_separator(self, rows):
        file, expected = rows
        data = TextData(str(file), block_size=8, separator=" ")
        assert "".join(texts(data).values()) == " ".join(expected)

    def test_packed_and_normalized(self, rows):
        file, expected = rows
        data = TextData(str(file), block_size=8, normalize="text8")
        assert "".join(texts(data).values()) == text8_normalize(" ".join(expected))

    def test_padded(self, rows):
        file, expected = rows
        data = TextData(str(file), block_size=8, documents="padded")
        found = [item for name in SPLITS for item in data.split(name)]
        lengths = [int(item["attention_mask"].sum()) for item in found]
        shown = data.codec.decode(torch.stack([item["x0"] for item in found]))
        assert [text[:n] for text, n in zip(shown, lengths, strict=True)] == [
            row[:8] for row in expected[:60]
        ]
        assert [len(data.split(name)) for name in SPLITS] == [54, 3, 3]
        assert "66.7% of the training documents are cut to block_size=8" in data.describe()

    def test_padded_lines_of_a_text(self, tmp_path):
        (tmp_path / "a.txt").write_text("\n".join(["abc"] * 40))
        data = TextData(str(tmp_path / "a.txt"), block_size=5, documents="padded")
        assert data.split("test")[0]["x0"].tolist() == [1, 2, 3, 0, 0]
        assert "cut to" not in data.describe()


class TestCaching:
    def test_the_second_time_nothing_is_read(self, plain_file, monkeypatch):
        first = stored(TextData(str(plain_file), block_size=8), "train")
        monkeypatch.setattr("d3pm.data.text.store", lambda *_: pytest.fail("built again"))
        assert np.array_equal(stored(TextData(str(plain_file), block_size=16), "train"), first)

    def test_a_changed_file_is_noticed(self, plain_file, plain):
        before = texts(TextData(str(plain_file), block_size=8))
        changed = plain.replace("fox", "cat")
        times = plain_file.stat()
        plain_file.write_text(changed)
        os.utime(plain_file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        after = texts(TextData(str(plain_file), block_size=8))
        assert "".join(before.values()) == plain
        assert "".join(after.values()) == changed

    @pytest.mark.parametrize(
        "options",
        [
            {"tokenizer": "bpe", "vocab_size": 280},
            {"alphabet": "zyxwvutsrqponmlkjihgfedcba "},
            {"sizes": [100, 20, 20]},
        ],
    )
    def test_other_options_are_other_tokens(self, plain_file, options):
        plain = TextData(str(plain_file), block_size=8)
        other = TextData(str(plain_file), block_size=8, **options)
        assert not np.array_equal(stored(plain, "train"), stored(other, "train"))
        assert texts(plain)["train"].startswith(texts(other)["train"][:100])

    def test_pickling(self, plain_file):
        data = TextData(str(plain_file), block_size=8)
        before = stored(data, "train")
        assert np.array_equal(stored(pickle.loads(pickle.dumps(data)), "train"), before)


class TestAnnouncement:
    def test_what_was_found_is_said_in_one_line(self, plain_file):
        line = TextData(str(plain_file), block_size=8).describe()
        assert str(plain_file) in line
        assert "3,000 characters" in line
        assert "train 2,700, validation 150, test 150" in line
        assert "\n" not in line

    def test_a_part_of_text8_is_not_text8(self, tmp_path, monkeypatch, caplog, plain):
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        (tmp_path / "text8").write_text(plain)
        data = TextData("text8", block_size=8)
        with caplog.at_level(logging.WARNING, "d3pm"):
            data.split("train")
        assert "not the whole text8" in caplog.text
        assert "3,000 characters" in data.describe()
        assert "not the whole text8" in data.describe()

    def test_tokens_are_counted_too(self, plain_file):
        data = TextData(str(plain_file), block_size=8, tokenizer="bpe", vocab_size=280)
        assert f"({len(stored(data, 'test')):,} tokens)" in data.describe()


class TestBadInput:
    def test_unknown_symbols(self, tmp_path):
        (tmp_path / "a.txt").write_text("lower Upper " * 100)
        message = refusal(source=str(tmp_path / "a.txt"), block_size=8)
        assert "train split" in message
        assert "'U' (U+0055) at position 6" in message
        assert "normalize='text8'" in message
        data = TextData(str(tmp_path / "a.txt"), block_size=8, normalize="text8")
        assert "".join(texts(data).values()) == "lower upper " * 100

    def test_a_failure_leaves_no_entry(self, tmp_path):
        (tmp_path / "a.txt").write_text("lower Upper " * 100)
        refusal(source=str(tmp_path / "a.txt"), block_size=8)
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]

    @pytest.mark.parametrize(
        ("content", "says"), [("", "holds no text"), ("abc", "less than one block of 256")]
    )
    def test_empty_and_short(self, content, says, tmp_path):
        (tmp_path / "a.txt").write_text(content)
        assert says in refusal(source=str(tmp_path / "a.txt"))

    def test_only_the_short_split_is_refused(self, plain_file):
        data = TextData(str(plain_file), block_size=200)
        assert len(data.split("train")) == 13
        with pytest.raises(DataError, match="validation split has 150 tokens, less than one block of 200"):
            data.split("validation")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"block_size": 0}, "block_size"),
            ({"normalize": "lower"}, "normalize"),
            ({"documents": "rows"}, "documents"),
            ({"vocab_size": 300}, "vocab_size"),
            ({"tokenizer": "bpe"}, "vocab_size"),
            ({"tokenizer": "bpe", "vocab_size": 100}, "vocab_size"),
            ({"sizes": [1, 2]}, "sizes"),
            ({"alphabet": "aa"}, "alphabet"),
            ({"tokenizer": "bpe", "vocab_size": 10**6}, "lower vocab_size"),
            ({"source": "nothing.txt"}, "does not exist"),
            ({"source": "nobody/nothing"}, "hub"),
            ({"tokenizer": "nobody/nothing"}, "hub"),
        ],
    )
    def test_options_that_cannot_work(self, options, says):
        assert says in refusal(**options)


class TestRealData:
    def test_the_prefix_of_text8(self, real_data, unpacked):
        path = real_data("text8_prefix/text8_first_6877825.xz")
        if (path.parents[1] / "text8").exists():
            pytest.skip("the whole text8 is there")
        data = TextData("text8")
        assert "".join(texts(data).values()) == unpacked(path)
        assert "6,877,825 characters" in data.describe()
        assert "not the whole text8" in data.describe()

    def test_a_hundred_million_characters(self, real_data):
        real_data("books8/books8.xz")
        data = TextData("books8")
        assert [len(data.split(name).tokens) for name in SPLITS] == [90_000_000, 5_000_000, 5_000_000]
        codes = np.frombuffer(b" abcdefghijklmnopqrstuvwxyz", np.uint8)
        digest = hashlib.md5()
        for name in SPLITS:
            digest.update(codes[data.split(name).tokens])
        assert digest.hexdigest() == BOOKS8_MD5
        assert "not the whole" not in data.describe()

    def test_wikitext_has_its_own_splits(self, real_data, unpacked):
        folder = real_data("wikitext2/valid.txt.xz").parent
        data = TextData("wikitext2", normalize="text8")
        parts = texts(data)
        assert parts["validation"] == text8_normalize(unpacked(folder / "valid.txt.xz"))
        assert parts["test"] == text8_normalize(unpacked(folder / "test.txt.xz"))

    def test_shakespeare_in_his_own_characters(self, real_data, unpacked):
        text = unpacked(real_data("tinyshakespeare/input.txt.xz"))
        data = TextData("tinyshakespeare", alphabet="".join(sorted(set(text))))
        assert data.codec.num_symbols == 65
        assert "".join(texts(data).values()) == text

    def test_rows_of_json(self, real_data):
        real_data("wiki_summaries/vital_articles_en.jsonl.xz")
        data = TextData("wiki_summaries", normalize="text8", documents="padded", block_size=64)
        assert [len(data.split(name)) for name in SPLITS] == [9029, 502, 502]
