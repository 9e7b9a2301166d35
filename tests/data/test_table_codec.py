"""A table's code: what is lossless comes back as it was, what is binned stays in its bin, the rest is refused."""

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d3pm.data import TableCodec
from d3pm.data.binning import quantile_bins
from d3pm.data.columns import Column
from d3pm.errors import ConfigError, D3PMError, DataError

SIZES = ["S", "M", "L"]
TABLE = pd.DataFrame(
    {
        "town": ["Ulm", "Łódź", "东京", "Ulm", "🏙", "Ulm"],
        "size": pd.Categorical(["M", "S", "S", "L", "M", "M"], categories=[*SIZES, "XL"], ordered=True),
        "open": [True, False, True, True, False, True],
        "rooms": np.array([3, 1, 2, 3, 3, 8], dtype="int16"),
        "stars": np.array([0.5, 4.5, 0.1, 0.1, 0.5, 4.5], dtype="float32"),
        "owner": pd.Series(["Ann", None, "Bob", None, "Ann", "Ann"], dtype="str"),
        "year": pd.array([1999, None, 2001, 2001, None, 1999], dtype="Int64"),
        "sold": pd.array([True, None, False, True, None, True], dtype="boolean"),
    }
)


def refusal(act) -> str:
    with pytest.raises(D3PMError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


def encoded(frame, **changes):
    codec = TableCodec.fit(frame, missing=["?"])
    return refusal(lambda: codec.encode_frame(frame.assign(**changes)))


class TestLossless:
    def test_a_frame_comes_back_as_it_was(self):
        codec = TableCodec.fit(TABLE)
        pd.testing.assert_frame_equal(codec.frame(codec.encode_frame(TABLE)), TABLE)

    def test_kinds_and_cardinalities(self):
        codec = TableCodec.fit(TABLE)
        assert [column.kind for column in codec.columns] == (
            ["nominal", "ordinal", "nominal", "ordinal", "ordinal", "nominal", "ordinal", "nominal"]
        )
        assert codec.cardinalities == (4, 3, 2, 4, 3, 3, 3, 3)
        assert (codec.num_symbols, codec.columnwise, codec.real) == (4, True, False)

    def test_ordinal_symbols_follow_the_order(self):
        codec = TableCodec.fit(TABLE)
        x = codec.encode_frame(TABLE)
        assert x[:, 1].tolist() == [SIZES.index(size) for size in TABLE["size"]]
        assert x[:, 3].argsort(stable=True).tolist() == np.argsort(TABLE["rooms"], kind="stable").tolist()

    def test_a_missing_value_is_the_last_symbol(self):
        codec = TableCodec.fit(TABLE)
        x = codec.encode_frame(TABLE)
        for place, column in enumerate(codec.columns):
            absent = torch.from_numpy(TABLE[column.name].isna().to_numpy(dtype=bool).copy())
            assert column.missing == absent.any()
            assert ((x[:, place] == column.num_symbols - 1)[absent]).all()
            assert torch.equal(codec.blanks(TABLE)[:, place], absent)

    def test_columns_are_found_by_name(self):
        codec = TableCodec.fit(TABLE)
        x = codec.encode_frame(TABLE)
        assert torch.equal(codec.encode_frame(TABLE[TABLE.columns[::-1]]), x)
        assert torch.equal(codec.encode_frame(TABLE.assign(more=1), extra=True), x)
        assert torch.equal(codec.encode_frame(TABLE.set_index(pd.Index(list("zyxwvu")))), x)

    def test_columns_that_are_numbered(self):
        frame = pd.DataFrame([[1, 2], [2, 3]])
        codec = TableCodec.fit(frame, nominal=["0"])
        assert codec.encode_frame(frame).tolist() == [[0, 0], [1, 1]]
        assert codec.names == ["0", "1"]

    def test_one_row(self):
        codec = TableCodec.fit(TABLE)
        x = codec.encode_frame(TABLE)
        assert torch.equal(codec.encode(TABLE.iloc[1]), x[1])
        assert torch.equal(torch.stack([codec.encode(row) for row in codec.decode(x)]), x)

    def test_decode_gives_plain_values(self):
        codec = TableCodec.fit(TABLE)
        row = codec.decode(codec.encode_frame(TABLE))[1]
        assert row == {
            "town": "Łódź", "size": "S", "open": False, "rooms": 1,
            "stars": 4.5, "owner": None, "year": None, "sold": None,
        }  # fmt: skip
        assert type(row["rooms"]) is int

    def test_types_of_another_size_mean_the_same(self):
        codec = TableCodec.fit(TABLE)
        other = TABLE.astype({"rooms": "float64", "size": "str", "open": object})
        assert torch.equal(codec.encode_frame(other), codec.encode_frame(TABLE))


class TestMissing:
    def test_a_mask_is_shown_as_missing(self):
        codec = TableCodec.fit(TABLE)
        masks = torch.tensor([codec.cardinalities])
        frame = codec.frame(masks)
        assert frame.isna().all(axis=None)
        kept = pd.concat([codec.frame(codec.encode_frame(TABLE)[:1]), frame])
        assert (kept["rooms"].tolist()[0], str(frame["rooms"].dtype), str(frame["open"].dtype)) == (
            3,
            "Int16",
            "boolean",
        )

    def test_blanks_are_filled_with_a_symbol_of_the_data(self):
        frame = pd.DataFrame({"a": ["x", "y", "y"], "b": [1.5, 2.5, 3.5]})
        codec = TableCodec.fit(frame)
        holes = pd.DataFrame({"a": [None, "y"], "b": [3.5, None]})
        assert codec.blanks(holes).tolist() == [[True, False], [False, True]]
        assert codec.encode_frame(holes, blanks=True).tolist() == [[0, 2], [1, 0]]
        wholly_empty = pd.DataFrame({"a": [None], "b": [None]})
        assert codec.encode_frame(wholly_empty, blanks=True).tolist() == [[0, 0]]

    def test_a_sign_stands_for_a_missing_value(self):
        frame = pd.DataFrame({"a": ["x", "?", "y"], "b": [1, "?", 2]})
        codec = TableCodec.fit(frame, missing=["?"])
        assert codec.cardinalities == (3, 3)
        assert codec.encode_frame(frame).tolist() == [[0, 0], [2, 2], [1, 1]]
        assert codec.frame(codec.encode_frame(frame)).isna().to_numpy().tolist()[1] == [True, True]


class TestBins:
    @given(st.lists(st.integers(-20, 20), min_size=1, max_size=200), st.integers(2, 12))
    def test_every_bin_is_used_and_there_are_not_too_many(self, values, bins):
        distinct, counts = np.unique(values, return_counts=True)
        medians, edges = quantile_bins(distinct, counts, bins)
        assert len(medians) == len(edges) + 1 <= bins
        assert len(medians) == len(distinct) or len(distinct) > bins
        groups = [sum(value >= edge for edge in edges) for value in values]  # the slow twin of searchsorted
        assert set(groups) == set(range(len(medians)))
        for group, median in enumerate(medians):
            inside = sorted(value for value, own in zip(values, groups, strict=True) if own == group)
            assert median == inside[(len(inside) - 1) // 2]

    def test_without_ties_bins_weigh_the_same(self):
        values = np.sort(np.random.default_rng(0).standard_normal(1000))
        _, edges = quantile_bins(values, np.ones(1000, dtype=int), bins=30)
        weights = np.bincount(np.searchsorted(edges, values, side="right"))
        assert len(weights) == 30
        assert weights.max() - weights.min() <= 1

    def test_a_heavy_value_has_a_bin_to_itself(self):
        values = np.arange(100)
        counts = np.ones(100, dtype=int)
        counts[[0, 40, 70]] = [5000, 900, 80]
        medians, edges = quantile_bins(values, counts, bins=20)
        groups = np.searchsorted(edges, values, side="right")
        for heavy in (0, 40, 70):
            assert (groups == groups[heavy]).sum() == 1
            assert medians[groups[heavy]] == heavy
        assert len(medians) == 20
        light = np.bincount(groups, weights=counts)[np.setdiff1d(np.arange(20), groups[[0, 40, 70]])]
        assert light.max() <= 2 * light.min()

    def test_numbers_stay_in_their_bin_and_integers_integers(self):
        generator = np.random.default_rng(1)
        frame = pd.DataFrame({"n": generator.integers(0, 1000, 500), "r": generator.standard_normal(500)})
        codec = TableCodec.fit(frame, bins=16)
        x = codec.encode_frame(frame)
        shown = codec.frame(x)
        assert [str(kind) for kind in shown.dtypes] == ["int64", "float64"]
        assert torch.equal(codec.encode_frame(shown), x)
        assert [column.kind for column in codec.columns] == ["numeric", "numeric"]
        assert codec.cardinalities == (16, 16)
        for place, name in enumerate(frame):
            order = np.argsort(frame[name], kind="stable")
            assert (np.diff(x[order.tolist(), place].numpy()) >= 0).all()

    def test_what_lies_beyond_training_is_in_the_outer_bins(self):
        codec = TableCodec.fit(pd.DataFrame({"n": range(100)}), bins=4)
        assert codec.encode_frame(pd.DataFrame({"n": [-1e9, 49.5, 1e9]}))[:, 0].tolist() == [0, 1, 3]

    def test_large_integers_are_exact(self):
        values = [2**62 + 2 * i for i in range(40)]
        codec = TableCodec.fit(pd.DataFrame({"n": values}), numeric=["n"], bins=64)
        assert codec.frame(codec.encode_frame(pd.DataFrame({"n": values})))["n"].tolist() == values


class TestSaving:
    def test_a_saved_codec_is_the_same_bit_by_bit(self, tmp_path):
        frame = TABLE.assign(exact=np.random.default_rng(0).standard_normal(6))
        codec = TableCodec.fit(frame, numeric=["exact"], bins=3, missing=["?", "n/a"])
        codec.save_pretrained(tmp_path / "a")
        again = TableCodec.from_pretrained(tmp_path / "a")
        again.save_pretrained(tmp_path / "b")
        assert again == codec
        assert hash(again) == hash(codec)
        first, second = ((tmp_path / name / "table_codec.json").read_bytes() for name in "ab")
        assert first == second
        assert "东京".encode() in first
        x = codec.encode_frame(frame)
        assert torch.equal(again.encode_frame(frame), x)
        pd.testing.assert_frame_equal(again.frame(x), codec.frame(x))

    def test_other_symbols_make_another_codec(self):
        codec = TableCodec.fit(TABLE)
        assert codec != TableCodec.fit(TABLE[TABLE.columns[::-1]])
        assert codec != TableCodec.fit(TABLE.replace({"town": {"Ulm": "Rom"}}))
        assert codec != "codec"

    @pytest.mark.parametrize(
        "text", ["", "{}", '{"columns": [{"name": "a"}], "missing": []}', '{"columns": 3}']
    )
    def test_a_broken_file(self, tmp_path, text):
        (tmp_path / "table_codec.json").write_text(text)
        assert "cannot be read" in refusal(lambda: TableCodec.from_pretrained(tmp_path))

    def test_no_folder(self):
        assert "is no folder" in refusal(lambda: TableCodec.from_pretrained("no/such"))

    def test_a_file_is_read_with_the_types_of_training(self, tmp_path):
        codec = TableCodec.fit(pd.DataFrame({"zip": ["007", "A1", "12"], "n": [1, 2, 2]}), missing=["?"])
        (tmp_path / "a.csv").write_text("n, zip\n1, 007\n?, 12\n")
        frame = codec.read(tmp_path / "a.csv")
        assert codec.encode_frame(frame, blanks=True).tolist() == [[0, 0], [1, 0]]
        assert codec.blanks(frame).tolist() == [[False, False], [False, True]]


class TestRefusals:
    def test_an_unseen_category(self):
        message = encoded(TABLE, town=["Ulm", "Ulm", "Ulm", "Rom", "Ulm", "Ulm"])
        assert message.startswith("column 'town', row 3: 'Rom' was not in training ('Ulm', ")
        assert "drop the row" in message

    def test_an_unseen_number(self):
        message = encoded(TABLE, rooms=[3, 1, 2, 3, 3, 7])
        assert message.startswith("column 'rooms', row 5: 7 was not in training (1, 2, 3, 8)")
        assert "numeric: [rooms]" in message

    def test_text_where_numbers_were(self):
        message = encoded(TABLE, rooms=["3", "1", "2", "3", "3", "8"])
        assert message.startswith("column 'rooms', row 0: '3' was not in training")
        assert "read the column as int16" in message

    def test_a_missing_value_where_none_was(self):
        message = encoded(TABLE, town=["Ulm", None, "Ulm", "Ulm", "Ulm", "Ulm"])
        assert message.startswith("column 'town', row 1: the value is missing, and none was in training")
        assert "row 2: the value is missing" in encoded(TABLE, town=["Ulm", "Ulm", "?", "Ulm", "Ulm", "Ulm"])

    def test_what_is_no_number(self):
        frame = pd.DataFrame({"n": range(50)})
        assert "column 'n', row 7: 'x' is no number" in encoded(frame, n=[*range(7), "x", *range(42)])
        assert "column 'n', row 0: True is no number" in encoded(frame, n=[True] * 50)
        assert "column 'n', row 2: inf is not finite" in encoded(frame, n=[0, 1, np.inf, *range(47)])

    def test_columns_that_do_not_fit(self):
        codec = TableCodec.fit(TABLE)
        assert "column 'town' is missing" in refusal(lambda: codec.encode_frame(TABLE.drop(columns="town")))
        assert "column 'more' was not in training" in refusal(
            lambda: codec.encode_frame(TABLE.assign(more=1))
        )
        twice = pd.concat([TABLE, TABLE[["town"]]], axis=1)
        assert "column 'town' is there 2 times" in refusal(lambda: codec.encode_frame(twice))
        assert "are not all different" in refusal(lambda: TableCodec.fit(twice))

    def test_a_cell_with_several_values(self):
        codec = TableCodec.fit(TABLE)
        message = refusal(
            lambda: codec.encode({**codec.decode(codec.encode_frame(TABLE))[0], "town": ["Ulm"]})
        )
        assert message.startswith("column 'town', row 0: ['Ulm'] is neither text nor a number")

    @pytest.mark.parametrize(
        ("values", "what"),
        [(["x"] * 3, "hold 'x'"), ([7, 7, 7], "hold 7"), ([0.5] * 3, "hold 0.5"), ([None] * 3, "are empty")],
    )
    def test_a_column_with_one_value(self, values, what):
        message = refusal(lambda: TableCodec.fit(pd.DataFrame({"veil-type": values, "b": [1, 2, 3]})))
        assert message.startswith(f"column 'veil-type': all 3 training rows {what}")
        assert message.endswith("drop: [veil-type]")

    def test_one_value_and_missing_ones_are_two_symbols(self):
        frame = pd.DataFrame({"a": ["x", None, "x"]})
        assert TableCodec.fit(frame).cardinalities == (2,)

    @pytest.mark.parametrize(
        ("values", "what"),
        [
            (pd.to_datetime(["2020-01-01", "2020-01-02"]), "dates and times are no categories"),
            (pd.to_timedelta([1, 2], "h"), "dates and times are no categories"),
            ([date(2020, 1, 1), date(2020, 1, 2)], "dates and times are no categories"),
            (["2020-01-01", "2020-01-02 12:00"], "dates and times are no categories"),
            (pd.period_range("2020", periods=2, freq="M"), "dates and times are no categories"),
            (["a", 1], "several types"),
            ([1j, 2j], "neither numbers nor categories"),
            ([["a"], ["b"]], "neither text nor a number"),
        ],
    )
    def test_what_is_neither_number_nor_category(self, values, what):
        frame = pd.DataFrame({"when": values, "b": [1, 2]})
        message = refusal(lambda: TableCodec.fit(frame))
        assert "column 'when'" in message
        assert what in message
        if not isinstance(values, list) or isinstance(values[0], date):
            assert "drop: [when]" in refusal(lambda: TableCodec.fit(frame, nominal=["when"]))

    def test_text_that_looks_like_dates_may_be_named_nominal(self):
        frame = pd.DataFrame({"when": ["2020-01-01", "2020-01-02"]})
        assert TableCodec.fit(frame, nominal=["when"]).cardinalities == (2,)

    def test_infinite_numbers(self):
        few = pd.DataFrame({"n": [1.0, np.inf, 2.0]})
        assert "column 'n': inf is neither" in refusal(lambda: TableCodec.fit(few))
        assert "column 'n', row 1: inf is not finite" in refusal(lambda: TableCodec.fit(few, numeric=["n"]))

    def test_orders(self):
        frame = pd.DataFrame({"size": ["S", "M", "L"]})
        assert "holds text, which has no order" in refusal(lambda: TableCodec.fit(frame, ordinal=["size"]))
        assert "lacks 'L'" in refusal(lambda: TableCodec.fit(frame, ordinal={"size": ["S", "M"]}))
        codec = TableCodec.fit(frame, ordinal={"size": ["S", "M", "L", "XL"]})
        assert codec.columns[0].values == ("S", "M", "L")

    def test_columns_named_in_vain(self):
        for kind in ("nominal", "ordinal", "numeric"):
            message = refusal(lambda kind=kind: TableCodec.fit(TABLE, **{kind: ["towm"]}))
            assert message.startswith(f"{kind}: no column 'towm': name some of 'town'")
        assert "named under nominal too" in refusal(
            lambda: TableCodec.fit(TABLE, nominal=["rooms"], ordinal=["rooms"])
        )

    def test_rows_that_are_none(self):
        codec = TableCodec.fit(TABLE)
        for x in (torch.zeros(8, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 8)):
            assert "give integers (N, 8)" in refusal(lambda x=x: codec.frame(x))
        for symbol in (-1, 5):
            x = torch.full((1, 8), symbol)
            assert "column 'town'" in refusal(lambda x=x: codec.decode(x))

    def test_no_columns(self):
        with pytest.raises(ConfigError, match="do not name one column or more"):
            TableCodec([])
        column = Column("a", "nominal", "str", ("x", "y"))
        with pytest.raises(ConfigError, match="each once"):
            TableCodec([column, column])


class TestSizes:
    def test_a_thousand_columns(self):
        generator = np.random.default_rng(0)
        frame = pd.DataFrame(generator.integers(0, 5, (50, 1000))).rename(columns=str)
        codec = TableCodec.fit(frame)
        x = codec.encode_frame(frame)
        assert x.shape == (50, 1000)
        pd.testing.assert_frame_equal(codec.frame(x), frame)

    def test_no_rows(self):
        codec = TableCodec.fit(TABLE)
        assert codec.encode_frame(TABLE[:0]).shape == (0, 8)
        assert codec.frame(torch.zeros(0, 8, dtype=torch.int64)).dtypes.equals(TABLE.dtypes)
        assert codec.decode(torch.zeros(0, 8, dtype=torch.int64)) == []


def cells(kind):
    """Lists of 12 cells of one kind, some missing, at least two different values."""
    some = {
        "text": st.text(max_size=3),
        "bool": st.booleans(),
        "int": st.integers(-(2**53), 2**53),
        "float": st.floats(allow_nan=False, allow_infinity=False),
    }[kind]
    lists = st.lists(st.one_of(some, some, some, st.none()), min_size=12, max_size=12)
    types = {"text": "str", "bool": "boolean", "int": "Int64", "float": "float64"}
    whole = lists.filter(lambda found: len({cell for cell in found if cell is not None}) > 1)
    return whole.map(lambda found: pd.Series(found, dtype=types[kind]))


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["text", "bool", "int", "float"]).flatmap(cells), min_size=1, max_size=4),
    st.integers(2, 12),
    st.randoms(use_true_random=False),
)
def test_any_table_comes_back(tmp_path_factory, columns, bins, random):
    frame = pd.DataFrame({f"column {i}": column for i, column in enumerate(columns)})
    codec = TableCodec.fit(frame, bins=bins)
    shuffled = frame[random.sample(list(frame), len(frame.columns))]
    x = codec.encode_frame(shuffled)
    assert (x >= 0).all()
    assert (x < torch.tensor(codec.cardinalities)).all()
    shown = codec.frame(x)
    assert shown.dtypes.equals(frame.dtypes)
    assert torch.equal(codec.encode_frame(shown), x)
    assert (shown.isna() == frame.isna()).all(axis=None)
    for column in codec.columns:
        if column.kind != "numeric":
            pd.testing.assert_series_equal(shown[column.name], frame[column.name])
            continue
        lower, upper = (np.array(ends) for ends in ((-np.inf, *column.edges), (*column.edges, np.inf)))
        there = frame[column.name].notna().to_numpy()
        symbols = x[:, codec.names.index(column.name)].numpy()[there]
        values = frame[column.name][there].to_numpy(dtype=float)
        assert ((lower[symbols] <= values) & (values < upper[symbols])).all()
    folder = tmp_path_factory.mktemp("codec")
    codec.save_pretrained(folder)
    assert TableCodec.from_pretrained(folder) == codec
    assert (
        json.loads((folder / "table_codec.json").read_text(encoding="utf-8"))["columns"][0]["name"]
        == "column 0"
    )


def test_dataerrors_are_data_errors():
    with pytest.raises(DataError):
        TableCodec.fit(TABLE).encode({"town": "Ulm"})
