"""From a name to rows of symbols: what the source holds and nothing else, cut so that nothing unseen is held out."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from d3pm.data import TableCodec, TableData, frequencies
from d3pm.data.base import SPLITS
from d3pm.data.table_cut import cut, free_rows
from d3pm.data.table_rows import TableRows
from d3pm.errors import D3PMError, DataError
from d3pm.evaluation import unigram_entropy


def read(*arguments, **options) -> None:
    data = TableData(*arguments, **options)
    for name in SPLITS:
        data.split(name)


def refusal(*arguments, **options) -> str:
    with pytest.raises(D3PMError) as caught:
        read(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rows(data: TableData, name: str) -> torch.Tensor:
    return torch.stack([item["x0"] for item in data.split(name).__getitems__(range(len(data.split(name))))])


def whole(data: TableData) -> pd.DataFrame:
    return pd.concat([data.frame(name) for name in SPLITS])


def same_rows(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    names = list(first)
    return first.sort_values(names, ignore_index=True).equals(
        second[names].sort_values(names, ignore_index=True)
    )


@pytest.fixture
def homes(tmp_path):
    """A file with every kind of column: 200 rows."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "town": generator.choice(["Ulm", "Łódź", "東京"], 200),
            "rooms": generator.integers(1, 6, 200),
            "price": generator.integers(1000, 9000, 200),
            "rent": generator.standard_normal(200),
            "open": generator.random(200) < 0.5,
            "owner": generator.choice(["Ann", "Bob", "?"], 200),
            "built": generator.choice(["1990", "2000", ""], 200),
        }
    )
    frame.to_csv(tmp_path / "homes.csv", index=False)
    return tmp_path / "homes.csv"


class TestEmbedded:
    @pytest.mark.parametrize(
        ("source", "shape", "counts"),
        [
            ("wine", (14,), (108, 35, 35)),
            ("iris", (5,), (90, 30, 30)),
            ("breast_cancer", (31,), (343, 113, 113)),
        ],
    )
    def test_they_are_those_of_scikit_learn(self, source, shape, counts):
        from sklearn import datasets

        data = TableData(source)
        assert (data.shape, tuple(len(data.split(name)) for name in SPLITS)) == (shape, counts)
        found = getattr(datasets, f"load_{source}")(as_frame=True)
        classes = found.target.map(dict(enumerate(map(str, found.target_names))))
        assert same_rows(whole(data), found.data.assign(**{data.target: classes}))

    def test_splits_are_always_the_same_and_nothing_is_drawn(self):
        state, theirs = torch.get_rng_state(), np.random.get_state()[1].copy()
        first, second = TableData(), TableData()
        for name in SPLITS:
            assert torch.equal(rows(first, name), rows(second, name))
        assert torch.equal(torch.get_rng_state(), state)
        assert (np.random.get_state()[1] == theirs).all()

    def test_rows_are_the_codes_of_the_frame(self):
        data = TableData("iris")
        for name in SPLITS:
            assert torch.equal(rows(data, name), data.codec.encode_frame(data.frame(name)))
        assert data.codec == TableCodec.fit(data.frame("train"), numeric=_numeric(data), missing=["?"])

    def test_a_loader_and_a_worker_see_the_rows(self):
        data = TableData("iris")
        batches = [batch["x0"] for batch in DataLoader(data.split("train"), batch_size=32)]
        assert torch.equal(torch.cat(batches), rows(data, "train"))
        again = pickle.loads(pickle.dumps(data))
        assert torch.equal(rows(again, "test"), rows(data, "test"))
        assert torch.equal(data.split("test")[3]["x0"], rows(data, "test")[3])

    def test_validation_rows_are_counted(self):
        data = TableData("iris", validation=7)
        assert [len(data.split(name)) for name in SPLITS] == [113, 7, 30]


def _numeric(data: TableData) -> list[str]:
    return [column.name for column in data.codec.columns if column.kind == "numeric"]


class TestFiles:
    def test_types_are_found(self, homes):
        data = TableData(str(homes))
        kinds = {column.name: (column.kind, column.dtype, column.missing) for column in data.codec.columns}
        assert kinds == {
            "town": ("nominal", "str", False),
            "rooms": ("ordinal", "int64", False),
            "price": ("numeric", "int64", False),
            "rent": ("numeric", "float64", False),
            "open": ("nominal", "bool", False),
            "owner": ("nominal", "str", True),
            "built": ("ordinal", "Int64", True),
        }
        assert [len(data.split(name)) for name in SPLITS] == [180, 10, 10]
        shown = data.codec.frame(rows(data, "train"))
        assert shown.dtypes.equals(data.frame("train").dtypes)
        lossless = [name for name, (kind, *_) in kinds.items() if kind != "numeric"]
        pd.testing.assert_frame_equal(shown[lossless], data.frame("train")[lossless])

    def test_options_choose(self, homes):
        data = TableData(
            str(homes),
            drop=["rent"],
            nominal=["built"],
            numeric=["rooms"],
            bins=4,
            ordinal={"owner": ["Bob", "Ann"]},
        )
        kinds = {column.name: column.kind for column in data.codec.columns}
        assert (kinds["built"], kinds["rooms"], kinds["owner"]) == ("nominal", "numeric", "ordinal")
        assert "rent" not in kinds
        assert data.codec.columns[data.codec.names.index("owner")].values == ("Bob", "Ann")
        assert max(column.num_symbols for column in data.codec.columns if column.kind == "numeric") == 4

    @pytest.mark.parametrize(
        "name", ["homes.csv.gz", "homes.csv.xz", "homes.tsv", "homes.parquet", "semi.csv"]
    )
    def test_the_same_table_in_any_file(self, homes, tmp_path, name):
        frame = pd.read_csv(homes, keep_default_na=False).astype({"built": "str"})
        file = tmp_path / "other" / name
        file.parent.mkdir()
        if name.endswith("parquet"):
            frame = frame.assign(built=pd.to_numeric(frame["built"]).astype("Int64"))
            frame.to_parquet(file)
        else:
            frame.to_csv(file, index=False, sep={"homes.tsv": "\t", "semi.csv": ";"}.get(name, ","))
        data, other = TableData(str(homes)), TableData(str(file))
        assert other.codec == data.codec
        assert torch.equal(rows(other, "test"), rows(data, "test"))

    def test_a_folder_has_splits(self, homes, tmp_path):
        frame = TableData(str(homes)).frame("train")
        folder = tmp_path / "split"
        folder.mkdir()
        frame[:100].to_csv(folder / "train.csv", index=False)
        frame[100:][frame.columns[::-1]].to_csv(folder / "test.csv", index=False)  # in another order
        data = TableData(str(folder))
        assert [len(data.split(name)) for name in SPLITS] == [95, 5, 80]
        assert list(data.frame("test")) == list(frame)
        assert same_rows(pd.concat([data.frame("train"), data.frame("validation")]), frame[:100])

    def test_text_stays_text_in_every_split(self, tmp_path):
        pd.DataFrame({"zip": ["007", "A1", "12"] * 20, "n": [1, 2] * 30}).to_csv(
            tmp_path / "train.csv", index=False
        )
        pd.DataFrame({"zip": ["007", "12"], "n": [1, 2]}).to_csv(tmp_path / "test.csv", index=False)
        assert TableData(str(tmp_path)).frame("test")["zip"].tolist() == ["007", "12"]

    def test_the_data_folder(self, homes, tmp_path, monkeypatch):
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        data = TableData("homes")
        assert torch.equal(rows(data, "train"), rows(TableData(str(homes)), "train"))
        assert str(homes) in data.describe()

    def test_describe(self, homes):
        assert TableData(str(homes), target="town").describe() == (
            f"{homes}: 200 rows of 7 columns (3 nominal, 2 ordinal, 2 numeric in up to 32 bins), 2 … 32 symbols, "
            f"missing values in 2 columns, {homes}: train 180, validation 10, test 10"
        )

    def test_categories_only_and_numbers_only(self, homes):
        frame = TableData(str(homes)).frame("train")
        for name, names in {"words": ["town", "owner"], "numbers": ["price", "rent"]}.items():
            frame[names].to_csv(homes.parent / f"{name}.csv", index=False)
            data = TableData(str(homes.parent / f"{name}.csv"))
            assert {column.kind for column in data.codec.columns} == {
                "nominal" if name == "words" else "numeric"
            }
            assert data.shape == (2,)

    def test_a_thousand_columns(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 4, (60, 1000))
        frame = pd.DataFrame(values, columns=[f"c{i}" for i in range(1000)])
        frame.to_csv(tmp_path / "wide.csv", index=False)
        data = TableData(str(tmp_path / "wide.csv"))
        assert data.shape == (1000,)
        assert sum(len(data.split(name)) for name in SPLITS) == 60


class TestHub:
    def test_classes_are_shown_by_their_names(self, monkeypatch):
        import datasets

        features = datasets.Features(
            {"n": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["cat", "dog"])}
        )
        table = datasets.Dataset.from_dict({"n": [1, 2] * 30, "kind": [0, 1, 1] * 20}, features=features)
        parts = datasets.DatasetDict({"train": table, "test": table.select(range(5))})
        monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: parts)
        data = TableData("some/pets", target="kind")
        assert data.frame("test")["kind"].tolist() == ["cat", "dog", "dog", "cat", "dog"]
        assert [len(data.split(name)) for name in SPLITS] == [57, 3, 5]
        assert "hub dataset some/pets" in data.describe()


class TestCut:
    def test_every_category_and_a_missing_value_stay_in_training(self):
        generator = np.random.default_rng(0)
        frame = pd.DataFrame(
            {"a": generator.integers(0, 60, 200).astype(str), "n": generator.standard_normal(200)}
        )
        frame.loc[17, "n"] = None
        for seed in range(5):
            shuffled = frame.sample(frac=1, random_state=seed, ignore_index=True)
            parts = cut(shuffled, {"validation": 50, "test": 50}, ["a"])
            assert set(parts["train"]["a"]) == set(frame["a"])
            assert parts["train"]["n"].isna().any()
            assert same_rows(pd.concat(parts.values()), frame)
            assert [len(parts[name]) for name in SPLITS] == [100, 50, 50]

    def test_what_is_free_is_drawn_evenly(self):
        frame = pd.DataFrame({"n": np.arange(1000.0)})
        free = free_rows(frame, [])
        assert len(free) == 999  # one row in which nothing is missing stays
        assert abs(free[:500].mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 500)

    def test_rows_of_which_none_can_be_spared(self, tmp_path):
        pd.DataFrame({"id": [f"id{i}" for i in range(60)], "n": [1, 2] * 30}).to_csv(
            tmp_path / "a.csv", index=False
        )
        message = refusal(str(tmp_path / "a.csv"))
        assert message.startswith("column 'id': it has 60 categories in 60 rows, so training can spare 0")
        assert "drop: [id]" in message
        assert TableData(str(tmp_path / "a.csv"), drop=["id"]).shape == (1,)


class TestUnigram:
    def test_each_column_has_its_own_law(self):
        x = torch.tensor([[0, 2], [0, 1], [1, 2], [0, 0]])
        codec = TableCodec.fit(pd.DataFrame({"a": ["x", "y"], "b": ["p", "q"]}))
        laws = frequencies(TableRows(x), 3, codec)
        assert laws.tolist() == [[0.75, 0.25, 0.0], [0.25, 0.25, 0.5]]
        first = -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25)
        assert unigram_entropy(TableRows(x), 3, codec) == pytest.approx((first + 1.5) / 2)

    def test_it_is_what_independent_columns_cost(self):
        data = TableData("iris")
        found = unigram_entropy(data.split("test"), data.codec.num_symbols, data.codec)
        x = rows(data, "test")
        bits = [
            -math.log2((x[:, c] == value).double().mean()) for c in range(5) for value in x[:, c].tolist()
        ]
        assert found == pytest.approx(sum(bits) / len(bits))
        laws = frequencies(data.split("train"), data.codec.num_symbols, data.codec)
        assert laws.shape == (5, data.codec.num_symbols)
        torch.testing.assert_close(laws.sum(-1), torch.ones(5, dtype=torch.float64))
        for law, cardinality in zip(laws, data.codec.cardinalities, strict=True):
            assert (law[cardinality:] == 0).all()
            assert (law[:cardinality] > 0).all()


class TestRefusals:
    def test_an_unseen_category_at_evaluation(self, tmp_path):
        pd.DataFrame({"town": ["Ulm", "Rom"] * 30, "n": [1, 2] * 30}).to_csv(
            tmp_path / "train.csv", index=False
        )
        pd.DataFrame({"town": ["Ulm", "Kyiv"], "n": [1, 2]}).to_csv(tmp_path / "test.csv", index=False)
        message = refusal(str(tmp_path))
        assert message.startswith(
            f"{tmp_path}, test rows: column 'town', row 1: 'Kyiv' was not in training ('Rom', 'Ulm'): "
        )

    def test_a_column_with_one_value(self, homes, tmp_path):
        frame = pd.read_csv(homes).assign(planet="Earth")
        frame.to_csv(tmp_path / "one.csv", index=False)
        message = refusal(str(tmp_path / "one.csv"))
        assert message.startswith("column 'planet': all 180 training rows hold 'Earth'")
        assert message.endswith("drop: [planet]")

    def test_dates(self, homes, tmp_path):
        frame = pd.read_csv(homes).assign(when=pd.date_range("2020-01-01", periods=200))
        frame.to_csv(tmp_path / "dates.csv", index=False)
        frame.to_parquet(tmp_path / "dates.parquet")
        for name in ("dates.csv", "dates.parquet"):
            message = refusal(str(tmp_path / name))
            assert message.startswith("column 'when': dates and times are no categories")
            assert message.endswith("drop: [when]")

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"bins": 1}, "bins: 1 is too few"),
            ({"validation": 0}, "validation: 0 is no split"),
            ({"validation": 200}, "leave none for training"),
            ({"drop": "alcohol"}, "drop: 'alcohol' is no list: write drop: [alcohol]"),
            ({"drop": ["alkohol"]}, "drop: no column 'alkohol'"),
            ({"nominal": ["alkohol"]}, "nominal: no column 'alkohol'"),
            ({"ordinal": ["cultivar"]}, "ordinal: column 'cultivar' holds text, which has no order"),
            ({"target": "alkohol"}, "target: no column 'alkohol'"),
            ({"drop": ["cultivar"]}, "target: no column 'cultivar'"),
        ],
    )
    def test_options_that_do_not_fit(self, options, what):
        assert what in refusal("wine", **options)

    def test_no_such_split(self):
        with pytest.raises(D3PMError, match="split: 'dev' is unknown"):
            TableData().split("dev")

    def test_files_that_do_not_do(self, tmp_path):
        assert "does not exist" in refusal(str(tmp_path / "no.csv"))
        (tmp_path / "a.csv").write_text("")
        assert "cannot be read" in refusal(str(tmp_path / "a.csv"))
        (tmp_path / "b.csv").write_text("a,b\n")
        assert "has no rows" in refusal(str(tmp_path / "b.csv"))
        (tmp_path / "c.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
        assert "is not UTF-8" in refusal(str(tmp_path / "c.csv"))
        (tmp_path / "d.parquet").write_bytes(b"no parquet")
        assert "cannot be read" in refusal(str(tmp_path / "d.parquet"))
        (tmp_path / "folder").mkdir()
        assert "no training rows" in refusal(str(tmp_path / "folder"))
        (tmp_path / "e.pdf").write_text("")
        assert "is no table by its name" in refusal(str(tmp_path / "e.pdf"))

    def test_tables_that_are_nowhere(self, monkeypatch, tmp_path):
        assert "archive.ics.uci.edu" in refusal("adult")
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        assert "agaricus-lepiota.data" in refusal("mushroom")
        assert "nor to be had from the hub" in refusal("no-such-table")


class TestAdult:
    def test_it_is_all_there(self, real_data):
        real_data("tabular/adult.data.gz")
        data = TableData("adult")
        assert [len(data.split(name)) for name in SPLITS] == [30_933, 1_628, 16_281]
        assert (data.shape, data.target) == ((15,), "income")
        assert data.codec.cardinalities == (32, 9, 32, 16, 16, 7, 15, 6, 5, 2, 32, 32, 32, 42, 2)
        frame = whole(data)
        assert frame.isna().sum().sum() == 6465
        assert set(frame["income"]) == {"<=50K", ">50K"}
        assert (frame["income"] == ">50K").sum() == 11_687
        assert frame["age"].dtype == "int64"

    def test_the_usual_hours_have_their_own_symbol(self, real_data):
        real_data("tabular/adult.data.gz")
        data = TableData("adult", bins=16)
        x, hours = rows(data, "train"), data.frame("train")["hours-per-week"]
        column = data.codec.names.index("hours-per-week")
        usual = data.codec.columns[column].values.index(40)
        assert torch.equal(x[:, column] == usual, torch.tensor((hours == 40).tolist()))
        shown = data.codec.frame(x)
        assert shown.dtypes.equals(data.frame("train").dtypes)
        assert (shown["hours-per-week"] - hours).abs().mean() < 1.5


class TestMushroom:
    def test_a_column_of_one_value_is_left_out_knowingly(self, real_data):
        real_data("tabular/agaricus-lepiota.data.gz")
        data = TableData("mushroom")
        assert [len(data.split(name)) for name in SPLITS] == [6500, 812, 812]
        assert (data.shape, data.target) == ((22,), "class")
        assert "veil-type left out (it has one value only)" in data.describe()
        assert whole(data)["stalk-root"].isna().sum() == 2480

    def test_it_is_refused_where_nobody_knows_of_it(self, real_data, tmp_path):
        from d3pm.data.table_sources import MUSHROOM

        frame = pd.read_csv(real_data("tabular/agaricus-lepiota.data.gz"), names=MUSHROOM)
        frame.to_csv(tmp_path / "mushrooms.csv", index=False)
        message = refusal(str(tmp_path / "mushrooms.csv"))
        assert message.startswith("column 'veil-type': all 7,312 training rows hold 'p'")
        assert message.endswith("drop: [veil-type]")
        assert TableData(str(tmp_path / "mushrooms.csv"), drop=["veil-type"]).shape == (22,)


class TestAnotherTableInTheSameCode:
    """What ``d3pm evaluate RUN --data TableData --data.source FILE`` reads."""

    def file(self, tmp_path, frame, name="other.csv"):
        frame.to_csv(tmp_path / name, index=False)
        return str(tmp_path / name)

    def test_a_part_of_the_rows_is_read_as_before_in_any_order_of_columns(self, tmp_path):
        data = TableData("iris")
        rows = data.frame("train").iloc[:30]
        other = TableData(self.file(tmp_path, rows[rows.columns[::-1]])).read_in(data.codec)
        expected = data.codec.encode_frame(rows)
        for name in ("train", "validation", "test"):
            assert torch.equal(torch.stack([other.split(name)[i]["x0"] for i in range(30)]), expected)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda rows: rows.assign(species="rosa"), r"column 'species', row 0: 'rosa'"),
            (lambda rows: rows.drop(columns="species"), "column 'species'"),
            (lambda rows: rows.assign(zip=7), "zip"),
        ],
    )
    def test_what_training_had_not_is_named(self, tmp_path, change, message):
        data = TableData("iris")
        file = self.file(tmp_path, change(data.frame("train").iloc[:5]))
        with pytest.raises(DataError, match=message) as error:
            TableData(file).read_in(data.codec).split("test")
        assert "\n" not in str(error.value)
