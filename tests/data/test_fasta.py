"""Sequences from FASTA: what is read, where rows may lie, what is refused and how."""

import gzip
import json
import lzma

import numpy as np
import pytest
import torch

from d3pm.data.base import SPLITS
from d3pm.data.fasta import FastaData
from d3pm.errors import ConfigError, D3PMError, DataError


def write(path, *records: str, width: int = 60):
    """Records of these letters, in lines of ``width``."""
    lines = []
    for i, text in enumerate(records):
        lines += [f">r{i} made up", *(text[j : j + width] for j in range(0, len(text), width))]
    path.write_text("\n".join(lines) + "\n")
    return path


def bases(n: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), n))


def shown(data: FastaData, name: str) -> list[str]:
    rows = data.split(name)
    return data.codec.decode(torch.stack([rows[i]["x0"] for i in range(len(rows))]))


def refusal(*args, **options) -> str:
    with pytest.raises(D3PMError) as caught:
        FastaData(*args, **options).split("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestReading:
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_lines_case_and_blanks_mean_nothing(self, tmp_path, end):
        text = bases(200)
        lines = ["; an old comment", "", ">one", text[:70].lower(), "", f" {text[70:90]} {text[90:]}  "]
        (tmp_path / "a.fa").write_text(end.join(lines), newline="")
        assert "".join(shown(FastaData(str(tmp_path / "a.fa"), 10), "train")) == text[:180]

    @pytest.mark.parametrize(
        ("suffix", "pack"), [("", lambda b: b), (".gz", gzip.compress), (".xz", lzma.compress)]
    )
    def test_packed_files(self, tmp_path, suffix, pack):
        content = write(tmp_path / "a.fa", bases(300)).read_bytes()
        (tmp_path / f"b.fna{suffix}").write_bytes(pack(content))
        assert "".join(shown(FastaData(str(tmp_path / f"b.fna{suffix}"), 10), "train")) == bases(300)[:270]

    def test_a_folder_is_read_by_alphabet(self, tmp_path):
        write(tmp_path / "genome.fna", bases(400))
        write(tmp_path / "proteins.faa", "ACDEFGHIKLMNPQRSTVWY" * 20)
        assert set("".join(shown(FastaData(str(tmp_path), 10), "train"))) <= set("ACGT")
        proteins = FastaData(str(tmp_path), 20, alphabet="protein")
        assert shown(proteins, "test") == ["ACDEFGHIKLMNPQRSTVWY"]
        assert proteins.codec.num_symbols == 20
        assert "no rna" in refusal(str(folder_of(tmp_path, "x.faa")), alphabet="rna")

    def test_a_name_in_the_data_folder(self, tmp_path, monkeypatch):
        (tmp_path / "dna").mkdir()
        write(tmp_path / "dna" / "a.fna", bases(300))
        write(tmp_path / "other.fasta", bases(300))
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        for name in ("dna", "other"):
            assert len(FastaData(name, 10).split("train")) == 27

    def test_letters_are_numbered_in_the_order_given(self, tmp_path):
        write(tmp_path / "a.fa", "GATTACA" * 20)
        data = FastaData(str(tmp_path / "a.fa"), 7, alphabet="TGCA")
        assert data.split("train")[0]["x0"].tolist() == [1, 3, 0, 0, 3, 2, 3]
        assert data.codec.num_symbols == 4


def folder_of(tmp_path, name):
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / name, "ACGT")
    return tmp_path / "one"


class TestRows:
    def test_splits_are_the_sequence_without_overlap(self, tmp_path):
        text = bases(2000)
        data = FastaData(str(write(tmp_path / "a.fa", text)), 50)
        assert "".join("".join(shown(data, name)) for name in SPLITS) == text
        assert [len(data.split(name)) for name in SPLITS] == [36, 2, 2]
        assert data.split("train")[0]["x0"].dtype == torch.int64

    def test_no_row_spans_a_gap_or_two_records(self, tmp_path):
        texts = [bases(n, seed=n) for n in (95, 7, 120, 33)]
        with_gaps = texts[0] + "N" * 4 + texts[1] + "R" + texts[2]
        data = FastaData(str(write(tmp_path / "a.fa", with_gaps, texts[3])), 10, sizes=[255 - 40, 20, 20])
        train = texts[0] + texts[1] + texts[2] + texts[3]
        expected = [texts[0][:90], texts[2][:110]]  # 7 letters are short of a row; the border is at 215
        assert "".join(shown(data, "train")) == "".join(expected)
        after = train[215:222]
        assert after == texts[2][113:]
        rows = shown(data, "validation") + shown(data, "test")
        assert all(row in texts[3] for row in rows)
        assert "5 other letters left out" in data.describe()
        assert "255 letters of ACGT in 2 records" in data.describe()
        assert "7.0% of the training letters in no row" in data.describe()

    def test_every_row_lies_in_one_stretch_whatever_they_are(self, tmp_path):
        rng = np.random.default_rng(1)
        stretches = [bases(int(n), seed=i) for i, n in enumerate(rng.integers(1, 60, 80))]
        records = ["N".join(stretches[i : i + 5]) for i in range(0, 80, 5)]
        data = FastaData(str(write(tmp_path / "a.fa", *records)), 9)
        rows = [row for name in SPLITS for row in shown(data, name)]
        assert all(any(row in stretch for stretch in stretches) for row in rows)
        most = sum(len(stretch) // 9 for stretch in stretches)
        assert most - 2 <= len(rows) <= most  # each border costs one row at most

    def test_padded_records(self, tmp_path):
        texts = [bases(5 + i % 11, seed=i) for i in range(40)]
        data = FastaData(str(write(tmp_path / "a.fa", *texts)), 12, records="padded")
        assert [len(data.split(name)) for name in SPLITS] == [36, 2, 2]
        rows = [item for name in SPLITS for item in data.split(name)]
        lengths = [int(row["attention_mask"].sum()) for row in rows]
        decoded = data.codec.decode(torch.stack([row["x0"] for row in rows]))
        assert [text[:n] for text, n in zip(decoded, lengths, strict=True)] == [text[:12] for text in texts]
        hidden = sum(max(0, len(text) - 12) for text in texts[:36]) / sum(map(len, texts[:36]))
        assert f"{hidden:.1%} of the training letters in no row" in data.describe()
        assert "train 36, validation 2, test 2 records" in data.describe()

    def test_a_stop_at_the_end_is_no_letter(self, tmp_path):
        data = FastaData(
            str(write(tmp_path / "a.faa", *["MKV*"] * 40)), 3, alphabet="protein", records="padded"
        )
        assert len(data.split("train")) == 36
        assert shown(data, "train")[0] == "MKV"

    def test_every_argument_is_kept(self):
        options = {
            "source": "a.fa",
            "block_size": 8,
            "alphabet": "rna",
            "records": "padded",
            "cut": "N",
            "sizes": [3, 2, 1],
        }
        data = FastaData(**options)
        assert {name: getattr(data, name) for name in options} == options
        json.dumps(options)


class TestRefusals:
    def test_a_letter_that_is_not_known(self, tmp_path):
        file = str(write(tmp_path / "a.fa", bases(100), bases(69) + "J" + bases(30)))
        message = refusal(file, 10)
        assert "record r1: 'J' at letter 70 is not in ACGT" in message
        assert "add 'J' to cut" in message
        assert len(FastaData(file, 10, cut="j").split("train")) == 17
        assert "'N' at letter 3" in refusal(str(write(tmp_path / "b.fa", "ACN")), cut="")
        assert "'é' at letter 2" in refusal(str(write(tmp_path / "c.fa", "Aé")))

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "has no record"),
            ("\n\n", "has no record"),
            ("ACGT\n", "line 1: 'ACGT' stands before the first '>'"),
            ("; note\n\nid,sequence\n", "line 3: 'id,sequence' stands before"),
            (">only a name\n", "has no letter of ACGT"),
            (">gap\nNNNN\n", "has no letter of ACGT"),
        ],
    )
    def test_what_is_no_fasta(self, tmp_path, content, says):
        (tmp_path / "a.fa").write_text(content)
        assert says in refusal(str(tmp_path / "a.fa"))

    def test_bytes_that_are_no_text(self, tmp_path):
        (tmp_path / "a.fa").write_bytes(b">x\n\xff\xfe")
        assert "is not UTF-8" in refusal(str(tmp_path / "a.fa"))
        (tmp_path / "a.fa.gz").write_bytes(b">x\nACGT")
        assert "cannot be read" in refusal(str(tmp_path / "a.fa.gz"))

    def test_stretches_shorter_than_a_row(self, tmp_path):
        file = str(write(tmp_path / "a.fa", *[bases(20)] * 30))
        assert "longest stretch of the train split has 20 letters, less than one block of 64" in refusal(
            file, 64
        )
        assert len(FastaData(file, 64, records="padded").split("train")) == 27

    def test_places_where_nothing_is(self, tmp_path, monkeypatch):
        assert "does not exist" in refusal("nothing.fa")
        assert "$D3PM_DATA (not set)" in refusal("dna")
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        assert str(tmp_path) in refusal("dna")
        (tmp_path / "dna").mkdir()
        assert "has none" in refusal("dna")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"alphabet": "acgt"}, "alphabet: 'acgt'"),
            ({"alphabet": "AAB"}, "alphabet: 'AAB'"),
            ({"alphabet": "A"}, "alphabet: 'A'"),
            ({"records": "whole"}, "records: 'whole'"),
            ({"block_size": 0}, "block_size: 0"),
            ({"cut": "NA"}, "cut: 'A' is a letter"),
            ({"sizes": [1, 2]}, "sizes"),
        ],
    )
    def test_options_that_cannot_work(self, options, says, tmp_path):
        assert says in refusal(str(write(tmp_path / "a.fa", bases(900))), **options)

    def test_an_unknown_split(self, tmp_path):
        with pytest.raises(ConfigError, match="one of train, validation, test"):
            FastaData(str(write(tmp_path / "a.fa", bases(900)))).split("dev")
        with pytest.raises(DataError, match="validation split has 45 letters, less than one block of 256"):
            FastaData(str(tmp_path / "a.fa")).split("validation")


class TestRealData:
    def test_a_genome(self, real_data):
        real_data("dna/ecoli_k12_mg1655_genome.fna.gz")
        data = FastaData("dna")
        assert "4,641,652 letters of ACGT in 1 record from" in data.describe()
        assert [len(data.split(name)) for name in SPLITS] == [16318, 906, 906]
        assert shown(data, "train")[0].startswith("AGCTTTTCATTCTGACTGCAACGGGCAATATGTCTCTG")

    def test_proteins(self, real_data):
        real_data("dna/ecoli_k12_mg1655_proteins.faa.xz")
        data = FastaData("dna", 512, alphabet="protein", records="padded")
        assert "in 4,298 records" in data.describe()
        assert "3 other letters left out" in data.describe()  # selenocysteine
        assert len(data.split("test")) == 216
