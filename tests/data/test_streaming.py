"""A stream shows the rows that a stored text would, to any number of processes, and goes on where it stood."""

import gzip
import json
import random
from collections import Counter
from itertools import islice, takewhile

import pytest
import torch

from d3pm.data import StreamedText, TextData, frequencies
from d3pm.data.codec import TextCodec
from d3pm.data.feed import Portion, StepFeed
from d3pm.data.lanes import LaneState, LaneText, Place
from d3pm.data.shards import Shard, shards_of
from d3pm.errors import ConfigError, DataError

BATCH = 8


def document(number, rng):
    """Some words, of which the first says which document this is."""
    name = "".join(chr(ord("a") + int(digit)) for digit in str(number))
    return " ".join([name, *("".join(rng.choices("lmnopqrstuvw", k=5)) for _ in range(rng.randint(1, 12)))])


@pytest.fixture
def folder(tmp_path):
    """Four shards of 60 documents each."""
    (tmp_path / "shards").mkdir()
    rng = random.Random(0)
    for shard in range(4):
        lines = [json.dumps({"text": document(60 * shard + place, rng)}) for place in range(60)]
        (tmp_path / "shards" / f"part{shard}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "shards"


def stream(folder, **options):
    settings = {"block_size": 16, "separator": " ", "lanes": 2, "shuffle": 6, "held_out": 4}
    return StreamedText(str(folder), **settings | options)


def feed(data, process=0, processes=1, micro=None, **options):
    portion = Portion(BATCH, micro or BATCH // processes, process, processes)
    return StepFeed(data.split("train"), portion, **options)


def batches(data, number, processes=1, micro=None, **options):
    """The first whole batches, put together from what each process gets."""
    micro = micro or BATCH // processes
    feeds = [iter(feed(data, process, processes, micro, **options)) for process in range(processes)]
    rounds = BATCH // (micro * processes)
    steps = ([next(one) for _ in range(rounds) for one in feeds] for _ in range(number))
    return [{key: torch.cat([part[key] for part in parts]) for key in parts[0]} for parts in steps]


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


class TestRows:
    def test_in_order_they_are_those_of_the_stored_text(self, folder):
        data = stream(folder, lanes=1, shuffle=0)
        held = [data.split(name)[row]["x0"] for name in ("validation", "test") for row in range(4)]
        rows = [item["x0"] for item in islice(data.split("train"), 700)]
        stored = TextData(str(folder), block_size=16, separator=" ")
        tokens = [
            torch.from_numpy(stored.split(name).tokens.astype("int64"))
            for name in ("train", "validation", "test")
        ]
        text = torch.cat([*tokens, torch.zeros(1, dtype=torch.int64)])  # a stream ends in a separator, too
        assert torch.equal(torch.cat([*held, *rows])[: len(text)], text)

    @pytest.mark.parametrize(("shards", "lanes"), [(4, 1), (4, 2), (4, 4), (4, 8), (4, 3), (1, 4), (3, 2)])
    def test_an_epoch_shows_each_document_to_one_lane(self, folder, shards, lanes):
        corpus = stream(folder)._corpus
        chosen = shards_of(corpus, "train", None, None)[:shards]
        seen = Counter()
        for lane in range(lanes):
            text = LaneText(chosen, TextCodec.characters(), lane, lanes, Place(0, 0, 5), seed=1)
            once = takewhile(lambda unit: unit[0].epoch == 0, text.units(Place()))
            seen.update(bytes(tokens) for _, tokens in once)
        assert len(seen) == 60 * shards - 5
        assert set(seen.values()) == {1}

    def test_epochs_differ_in_order_only(self, folder):
        chosen = shards_of(stream(folder)._corpus, "train", None, None)
        text = LaneText(chosen, TextCodec.characters(), seed=3)
        units = [bytes(tokens) for _, tokens in islice(text.units(Place()), 480)]
        assert units[:240] != units[240:]
        assert sorted(units[:240]) == sorted(units[240:])

    def test_shuffling_moves_rows_within_windows_of_a_lane(self, folder):
        plain, shuffled = (stream(folder, lanes=1, shuffle=0), stream(folder, lanes=1, shuffle=6))
        shards = plain.split("train").text.shards
        rows = [
            [tuple(item["x0"].tolist()) for item in islice(lane_rows(data, shards), 18)]
            for data in (plain, shuffled)
        ]
        assert rows[0] != rows[1]
        for start in range(0, 18, 6):
            assert sorted(rows[0][start : start + 6]) == sorted(rows[1][start : start + 6])

    def test_held_out_rows_are_not_trained_on(self, folder):
        data = stream(folder, documents="padded", block_size=80, held_out=10)
        held = {bytes(data.split(name)[row]["x0"]) for name in ("validation", "test") for row in range(10)}
        epoch = {bytes(row) for batch in batches(data, 2 * 240 // BATCH) for row in batch["x0"]}
        assert len(held) == 20
        assert len(epoch) == 220
        assert not held & epoch

    def test_splits_of_its_own_are_used(self, folder):
        (folder / "part3.jsonl").rename(folder / "test.jsonl")
        for shard in range(3):
            (folder / f"part{shard}.jsonl").rename(folder / f"train-{shard}.jsonl")
        data = stream(folder, held_out=3, documents="padded", block_size=80)
        assert data.codec.decode(data.split("test")[0]["x0"][None])[0].startswith("bia")  # document 180
        assert data.codec.decode(data.split("validation")[0]["x0"][None])[0].startswith("a ")  # document 0
        assert (
            "3 shards in 2 lanes; held out validation 3, test 3 rows of 16"
            in stream(folder, held_out=3).describe()
        )

    def test_documents_stay_whole(self, folder):
        rows = [
            row
            for batch in batches(stream(folder, documents="whole", block_size=96), 12)
            for row in batch_rows(batch)
        ]
        assert max(int(row["segments"].max()) for row in rows) > 1
        for row in rows:
            for segment in range(1, int(row["segments"].max()) + 1):
                text = stream(folder).codec.decode(row["x0"][row["segments"] == segment][None])[0]
                assert text.split()[0].strip("abcdefghij") == ""  # begins with a document's name
                assert not any(
                    word.strip("abcdefghij") == "" for word in text.split()[1:]
                )  # and holds no other


def batch_rows(batch):
    return [{key: values[row] for key, values in batch.items()} for row in range(len(batch["x0"]))]


def lane_rows(data, shards):
    """Rows of the only lane of ``data``, its shards in their order."""
    rows = data.split("train")
    rows.text = LaneText(shards, rows.text.codec, start=rows.text.start)
    return rows


class TestProcesses:
    @pytest.mark.parametrize("lanes", [1, 2, 4])
    @pytest.mark.parametrize(("processes", "micro"), [(1, 4), (2, 4), (2, 2), (4, 1), (8, 1)])
    def test_batches_are_the_same_for_all(self, folder, lanes, processes, micro):
        data = stream(folder, lanes=lanes)
        assert_same(batches(data, 8, processes, micro), batches(data, 8))

    def test_each_reads_its_own_lanes(self, folder):
        wanted = [feed(stream(folder, lanes=4), process, 2).wanted for process in range(2)]
        assert wanted == [{0: [0, 1], 1: [0, 1]}, {2: [0, 1], 3: [0, 1]}]

    def test_loading_processes_change_nothing(self, folder):
        data = stream(folder, lanes=4)
        assert_same(batches(data, 8, num_workers=2), batches(data, 8))

    def test_a_hint_where_work_is_done_twice(self, folder, caplog):
        feed(stream(folder, lanes=2), 0, 2)
        assert not caplog.messages
        feed(stream(folder, lanes=2), 0, 4)
        assert "a multiple of 4" in caplog.text


class TestResume:
    @pytest.mark.parametrize("documents", ["packed", "padded", "whole"])
    @pytest.mark.parametrize("shuffle", [0, 6, 1000])
    @pytest.mark.parametrize("done", [1, 2, 5, 40])
    def test_the_next_row_is_the_one_that_would_have_come(self, folder, documents, shuffle, done):
        data = stream(folder, documents=documents, shuffle=shuffle, block_size=24)
        straight = feed(data)
        rows = iter(straight)
        list(islice(rows, done))
        positions = json.loads(json.dumps(straight.positions))
        resumed = feed(stream(folder, documents=documents, shuffle=shuffle, block_size=24))
        resumed.positions = {int(lane): state for lane, state in positions.items()}
        assert_same(list(islice(resumed, 8)), list(islice(rows, 8)))

    def test_with_loading_processes_that_have_read_ahead(self, folder):
        data = stream(folder, lanes=4)
        straight = feed(data, num_workers=2)
        rows = iter(straight)
        list(islice(rows, 5))
        resumed = feed(data)
        resumed.positions = dict(straight.positions)
        assert_same(list(islice(resumed, 4)), list(islice(rows, 4)))

    @pytest.mark.parametrize("processes", [1, 4])
    def test_by_another_number_of_processes(self, folder, processes):
        data = stream(folder, lanes=4)
        two = [feed(data, process, 2) for process in range(2)]
        rows = [iter(one) for one in two]
        for one in rows:
            list(islice(one, 3))
        positions = two[0].positions | two[1].positions
        others = [feed(data, process, processes) for process in range(processes)]
        for other in others:
            other.positions = {lane: positions[lane] for lane in other.wanted}
        parts = [next(iter(other))["x0"] for other in others]
        assert torch.equal(torch.cat(parts), torch.cat([next(one)["x0"] for one in rows]))

    def test_nothing_is_read_again_but_the_open_shard_and_a_window(self, folder, monkeypatch):
        data = stream(folder, lanes=1, shuffle=6, documents="padded", block_size=80)
        data.split("train")  # the held-out rows are read by now
        straight = feed(data)
        list(islice(straight, 20))  # 160 of 232 documents, so into the third shard of four
        (state,) = straight.positions.values()
        opened, encoded = [], []
        units, encode_all = Shard.units, TextCodec.encode_all
        monkeypatch.setattr(Shard, "units", lambda self: opened.append(self.name) or units(self))
        monkeypatch.setattr(
            TextCodec, "encode_all", lambda self, texts: encoded.extend(texts) or encode_all(self, texts)
        )
        resumed = feed(data)
        resumed.positions = {0: state}
        next(iter(resumed))
        assert LaneState.from_list(state).place.shard == 2
        assert len(opened) == 1
        assert len(encoded) <= 32  # two windows and what a tokenizer takes at once, of 172 documents so far

    def test_reading_is_bounded(self, folder, monkeypatch):
        """The first batch asks for what fills a window, however long the text is."""
        data, opened, units = stream(folder, shuffle=6), [], Shard.units
        data.split("train")
        monkeypatch.setattr(Shard, "units", lambda self: opened.append(self.name) or units(self))
        next(iter(feed(data)))
        assert len(opened) == 2  # one a lane


class TestBadInput:
    def harm(self, folder, how):
        file = folder / "part2.jsonl"
        whole = file.read_bytes()
        lines = whole.splitlines(keepends=True)
        match how:
            case "cut short":
                file.unlink()
                packed = gzip.compress(whole)
                (folder / "part2.jsonl.gz").write_bytes(packed[: len(packed) // 2])
            case "no JSON":
                file.write_bytes(b"".join([*lines[:30], b'{"text": "abc\n', *lines[31:]]))
            case "no UTF-8":
                file.write_bytes(
                    b"".join([*lines[:40], lines[40][:11] + b"\xff" + lines[40][11:], *lines[41:]])
                )
            case "no text":
                file.write_bytes(b"".join([*lines[:30], b'{"text": 5}\n', *lines[31:]]))
            case "unknown symbol":
                file.write_bytes(b"".join([*lines[:30], b'{"text": "A"}\n', *lines[31:]]))

    @pytest.mark.parametrize(
        ("how", "where"),
        [
            ("cut short", r"part2.jsonl.gz cannot be read after line \d+ \(.*\): replace it"),
            ("no JSON", r"part2.jsonl cannot be read in line 31 \(.*\): replace it"),
            ("no UTF-8", r"part2.jsonl is not UTF-8 in line 41 \(byte 0xff\): convert it"),
            ("unknown symbol", r"part2.jsonl, document 30: text: unknown symbol 'A'.*at position 0"),
        ],
    )
    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_broken_shard_is_named(self, folder, how, where, workers):
        self.harm(folder, how)
        data = stream(folder, documents="padded", block_size=80, shuffle=0)
        with pytest.raises(DataError, match=where) as error:
            list(islice(feed(data, num_workers=workers), 60))
        assert "\n" not in str(error.value)

    def test_a_broken_parquet_file_is_named(self, folder):
        from datasets import Dataset

        Dataset.from_dict({"text": ["a b c d"] * 100}).to_parquet(str(folder / "part9.parquet"))
        whole = (folder / "part9.parquet").read_bytes()
        (folder / "part9.parquet").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"part9.parquet cannot be read \(.*\): replace it"):
            list(islice(feed(stream(folder, shuffle=0)), 200))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tokenizer": "bpe"}, "tokenizer: 'bpe' would have to be learnt.*give FOLDER"),
            ({"lanes": 0}, "lanes: 0 is no number"),
            ({"shuffle": -1}, "shuffle: -1 rows"),
            ({"documents": "torn"}, "documents: 'torn' is unknown"),
            ({"normalize": "x"}, "normalize: 'x' is unknown"),
        ],
    )
    def test_options(self, folder, options, message):
        with pytest.raises(ConfigError, match=message):
            stream(folder, **options)

    def test_what_does_not_divide(self, folder):
        with pytest.raises(ConfigError, match="batch_size is 8, which the 3 lanes"):
            feed(stream(folder, lanes=3))
        with pytest.raises(
            ConfigError, match=r"num_workers is 3, but each process reads 2 of the 4 lanes.*divisor of 2"
        ):
            feed(stream(folder, lanes=4), processes=2, num_workers=3)

    def test_too_little_text(self, folder):
        with pytest.raises(DataError, match="held_out: the text ends after"):
            stream(folder, held_out=2000).split("train")
        with pytest.raises(DataError, match="lanes: nothing of the text is left for lane"):
            next(iter(feed(stream(folder, lanes=8))))

    def test_a_stream_has_no_length(self, folder):
        rows = stream(folder).split("train")
        with pytest.raises(DataError, match="a stream has no end"):
            frequencies(rows, 27)
        for ask in (len, lambda stream: stream[0]):
            with pytest.raises(DataError, match="is a stream, whose rows cannot be counted or picked"):
                ask(rows)


class TestHub:
    @pytest.fixture
    def hub(self, folder, monkeypatch):
        """A dataset of four shards, as the hub would stream it."""
        import datasets

        asked = []
        files = [str(file) for file in sorted(folder.iterdir())]
        local = datasets.load_dataset("json", data_files={"train": files}, streaming=True)

        def load_dataset(name, subset=None, **options):
            asked.append((name, subset, options))
            return local

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    def test_its_shards_are_streamed(self, folder, hub):
        data, local = stream("some/corpus", lanes=4), stream(folder, lanes=4)
        assert_same(batches(data, 20), batches_of_local(local, 20))
        assert hub == [("some/corpus", None, {"streaming": True})]
        assert "a stream from hub dataset some/corpus, 4 shards in 4 lanes" in data.describe()

    def test_it_goes_on_where_it_stood(self, hub):
        data = stream("some/corpus", lanes=4)
        straight = feed(data)
        rows = iter(straight)
        list(islice(rows, 7))
        resumed = feed(data)
        resumed.positions = dict(straight.positions)
        assert_same(list(islice(resumed, 4)), list(islice(rows, 4)))


def batches_of_local(data, number):
    import datasets

    real = datasets.load.load_dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", real)
        return batches(data, number)


def test_bits_per_character_of_a_tokenizer(folder, tmp_path):
    stored = TextData(str(folder), block_size=16, tokenizer="bpe", vocab_size=300)
    stored.codec.save_pretrained(tmp_path / "pieces")
    data = stream(folder, tokenizer=str(tmp_path / "pieces"))
    assert data.codec == stored.codec
    assert data.characters_per_token("test") == pytest.approx(stored.characters_per_token("train"), rel=0.2)
    assert batches(data, 1)[0]["x0"].max() < 300


def test_text_files_and_text8(tmp_path):
    (tmp_path / "texts").mkdir()
    for shard in range(2):
        (tmp_path / "texts" / f"{shard}.txt").write_text("It's 7 Things\n" * 40)
    data = StreamedText(
        str(tmp_path / "texts" / "*.txt"), block_size=28, normalize="text8", lanes=2, held_out=2, shuffle=0
    )
    assert {text for batch in batches(data, 1) for text in data.codec.decode(batch["x0"])} != set()
    rows = data.codec.decode(torch.stack([item["x0"] for item in islice(iter(stream_of_lane(data, 1)), 20)]))
    assert "".join(rows).startswith("it s seven things it s seven things it s")
    assert "  " not in "".join(rows)


def stream_of_lane(data, lane):
    rows = data.split("train")
    one = rows.lane(lane)
    return (rows.form.item(*one.take(1)) for _ in range(20))
