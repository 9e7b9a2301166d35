"""The command line on tables: the same verbs, on one tiny run of a table with every kind of column."""

import json
import math
from argparse import Namespace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from oracle import chi_square
from test_cli import output, refusal

from d3pm.cli import main
from d3pm.cli.forms import Draw, form_of
from d3pm.cli.frames import CELLS, Tables, rows_at_a_time, shown
from d3pm.cli.impute import Complete, impute
from d3pm.cli.quality import rows_of
from d3pm.data import TextCodec
from d3pm.data.table import TableData
from d3pm.data.table_codec import TableCodec
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.discrete.table import TableDiffusion
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.transitions import AbsorbingTransition

ROWS = 400
TOWNS = ("Zürich", "Ulm", "São Paulo")


def people(num=ROWS, seed=0):
    """Binned integers and floats, an ordinal column, text with gaps, a bool, and what hangs on them."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, num)
    frame = pd.DataFrame(
        {
            "age": age,
            "height": rng.normal(1.7, 0.1, num).round(3),
            "rooms": rng.integers(1, 6, num),
            "town": rng.choice(TOWNS, num),
            "member": rng.random(num) < 0.5,
            "income": np.where(age > 50, ">50K", "<=50K"),
        }
    )
    frame.loc[rng.random(num) < 0.1, "town"] = "?"
    return frame


def part(path, **arguments):
    return {"class_path": path, "init_args": arguments}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def config(folder):
    people().to_csv(folder / "people.csv", index=False)
    config = {
        "data": part("d3pm.data.table.TableData", source=str(folder / "people.csv"), target="income", bins=8),
        "process": part("d3pm.discrete.table.TableDiffusion", num_steps=24),
        "network": part("d3pm.networks.table.TableDenoiser", dim=16, depth=1, heads=2),
        "objective": part("d3pm.objectives.VariationalBound"),
        "training": {
            "max_steps": 4,
            "batch_size": 32,
            "eval_examples": 4,
            "eval_times": 2,
            "report_to": [],
        },
    }
    (folder / "people.yaml").write_text(yaml.safe_dump(config))
    return folder / "people.yaml"


@pytest.fixture(scope="module")
def run(config):
    assert main(["train", "--config", str(config), "--output", str(config.parent / "run")]) == 0
    return config.parent / "run"


def cells(text, **places):
    """A table's text with cells replaced: ``cells(text, age=[0, 2])`` empties two cells of a column."""
    lines = [line.split(",") for line in text.splitlines()]
    for name, changes in places.items():
        column = lines[0].index(name)
        for row, value in (
            changes.items() if isinstance(changes, dict) else dict.fromkeys(changes, "").items()
        ):
            lines[row + 1][column] = value
    return "".join(",".join(line) + "\n" for line in lines)


def write(path, text):
    path.write_text(text)
    return path


# train


def test_a_run_of_a_table_ends_with_the_bound_and_its_first_rows(config, tmp_path, capsys):
    shown = output(capsys, "train", "--config", config, "--output", tmp_path / "run")
    assert "unigram entropy" in shown
    lines = shown.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split() == list(people()))
    assert len(lines[head : head + Tables.few + 1]) == Tables.few + 1
    assert all(line.split()[-1] in (">50K", "<=50K") for line in lines[head + 1 : head + 1 + Tables.few])
    assert f"--num {Tables.few} --steps 24 --output samples.csv" in shown


# sample


def test_samples_are_shown_as_an_aligned_table_of_the_first_rows(run, capsys):
    lines = output(capsys, "sample", run, "--num", 50, "--steps", 3).splitlines()
    assert lines[0].split() == list(people())
    assert len(lines) == 22  # names, 20 rows, and what was left out
    assert lines[-1] == "… 50 rows of 6 columns: --output FILE.csv keeps all"
    end = lines[0].index("income") + len("income")
    assert all(line[:end].endswith(("50K",)) for line in lines[1:-1])
    assert len(output(capsys, "sample", run, "--steps", 3).splitlines()) == 5


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_samples_in_a_file_have_the_types_of_training(run, tmp_path, capsys, suffix):
    file = tmp_path / f"drawn{suffix}"
    said = output(capsys, "sample", run, "--num", 60, "--steps", 3, "--output", file)
    assert said == f"{file}: 60 rows of 6 columns\n"
    read = pd.read_parquet if suffix == ".parquet" else pd.read_csv
    frame = read(file, **({"sep": "\t"} if suffix == ".tsv" else {}))
    expected = people().replace("?", None)
    assert frame.dtypes.astype(str).to_dict() == expected.dtypes.astype(str).to_dict()
    for name in ("age", "height", "rooms", "member", "income"):
        assert set(frame[name]) <= set(expected[name])
    assert set(frame["town"].dropna()) <= set(TOWNS)


def test_equal_seeds_give_equal_tables(run, tmp_path, capsys):
    tables = []
    for n, seed in enumerate((1, 1, 2)):
        file = tmp_path / f"{n}.csv"
        output(capsys, "sample", run, "--num", 20, "--steps", 3, "--seed", seed, "--output", file)
        tables.append(file.read_text())
    assert tables[0] == tables[1] != tables[2]


def test_what_belongs_to_other_samples_and_files_that_exist_are_refused(run, tmp_path, capsys):
    assert "--prompt is for text, but this model draws rows" in refusal(
        capsys, "sample", run, "--prompt", "a"
    )
    assert "end the name in .csv or .tsv or .parquet" in refusal(
        capsys, "sample", run, "--output", tmp_path / "a.xls"
    )
    file = write(tmp_path / "a.csv", "kept")
    assert "exists: name another file, or replace it with --overwrite" in refusal(
        capsys, "sample", run, "--output", file
    )
    assert file.read_text() == "kept"
    output(capsys, "sample", run, "--steps", 2, "--output", file, "--overwrite")
    assert len(file.read_text().splitlines()) == 5


def test_a_thousand_columns_are_shown_in_the_width_of_the_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = shown(pd.DataFrame(np.zeros((3, 1000)), columns=[f"c{i}" for i in range(1000)])).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 60
    assert "c0" in lines[0]
    assert "c999" in lines[0]


def test_narrow_tables_go_through_the_network_in_more_rows_at_a_time():
    model = lambda columns: Namespace(shape=(columns,))  # noqa: E731
    assert rows_at_a_time(model(15)) * 15 <= CELLS < rows_at_a_time(model(15)) * 16
    assert rows_at_a_time(model(10**6)) == 1


# impute


@pytest.fixture(scope="module")
def table():
    """Held-out rows, their columns in another order, with numbers spelt as nobody else would."""
    frame = people(60, seed=1)[["income", "town", "age", "member", "height", "rooms"]]
    frame.loc[frame["town"] == "?", "town"] = "Ulm"
    text = frame.to_csv(index=False)
    return cells(text, age={0: "018", 1: "1e3", 2: "44.0"}, height={3: "1.700", 4: "-9"}, member={5: "true"})


def test_empty_cells_are_filled_and_all_others_stay_to_the_letter(run, table, tmp_path, capsys):
    holes = {
        "age": {10: "", 11: "?", 12: "NaN"},
        "town": {10: "", 13: "?"},
        "member": {10: ""},
        "income": {10: "", 20: ""},
        "rooms": {10: ""},
        "height": {10: ""},
    }
    file, filled = write(tmp_path / "holes.csv", cells(table, **holes)), tmp_path / "filled.csv"
    said = output(capsys, "sample", run, "--impute", file, "--output", filled, "--steps", 3)
    assert said == f"{filled}: 10 cells filled, in 5 of 60 rows\n"
    before, after = ([line.split(",") for line in text.splitlines()] for text in (table, filled.read_text()))
    names, known = before[0], people()
    assert after[0] == names
    for row, (old, new) in enumerate(zip(before[1:], after[1:], strict=True)):
        for name, was, cell in zip(names, old, new, strict=True):
            if row in holes[name]:
                assert cell in set(known[name].astype(str)) - {"?"}
            else:
                assert cell == was


def test_a_filled_table_depends_on_the_seed_alone(run, table, tmp_path, capsys):
    file = write(tmp_path / "holes.csv", cells(table, town=range(60), income=range(60), age=range(0, 60, 2)))
    texts = []
    for n, seed in enumerate((1, 1, 2)):
        filled = tmp_path / f"{n}.csv"
        output(capsys, "sample", run, "--impute", file, "--output", filled, "--steps", 3, "--seed", seed)
        texts.append(filled.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_batches_are_drawn_independently(run, table, tmp_path, capsys):
    """The same row again and again, a few at a time: one seed for every batch would repeat the first."""
    head, row, *_ = cells(table, town=[0], age=[0], rooms=[0], height=[0]).splitlines()
    file = write(tmp_path / "holes.csv", "".join(f"{line}\n" for line in [head, *[row] * 12]))
    filled = tmp_path / "filled.csv"
    output(capsys, "sample", run, "--impute", file, "--output", filled, "--steps", 3, "--batch-size", 4)
    first, second, third = np.split(np.array(filled.read_text().splitlines()[1:]), 3)
    assert not (first == second).all()
    assert not (second == third).all()


def test_a_parquet_file_keeps_its_types(run, tmp_path, capsys):
    frame = people(30, seed=2).replace("?", "Ulm")
    holes = frame.astype({"age": "Int16", "rooms": "Int64", "member": "boolean", "height": "float32"})
    holes["town"] = holes["town"].astype("category")
    holes.loc[:4, ["age", "member"]] = pd.NA
    holes.loc[3, ["town", "height"]] = None
    file, filled = tmp_path / "holes.parquet", tmp_path / "filled.parquet"
    holes.to_parquet(file)
    output(capsys, "sample", run, "--impute", file, "--output", filled, "--steps", 3)
    found = pd.read_parquet(filled, dtype_backend="pyarrow")
    types = pd.read_parquet(file, dtype_backend="pyarrow").dtypes
    assert found.dtypes.astype(str).to_dict() == types.astype(str).to_dict()
    assert not found.isna().any().any()
    known = holes.notna()
    for name in frame:
        assert found[name][known[name]].tolist() == holes[name][known[name]].tolist()


BAD_TABLES = {
    "unseen": (
        {"town": {7: "Atlantis"}},
        "column 'town', row 8 (the first below the header is 1): 'Atlantis' was not in training",
    ),
    "no number": ({"age": {2: "old"}}, "column 'age', row"),
    "infinite": (
        {"height": {2: "inf"}},
        "column 'height', row 3 (the first below the header is 1): inf is not finite",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_cell_that_cannot_be_is_refused_before_anything_is_drawn(name, run, table, tmp_path, capsys):
    changes, said = BAD_TABLES[name]
    file = write(tmp_path / "bad.csv", cells(cells(table, income=[0]), **changes))
    line = refusal(capsys, "sample", run, "--impute", file, "--output", tmp_path / "filled.csv")
    assert f"--impute {file}: {said}" in line
    assert not (tmp_path / "filled.csv").exists()


def test_other_columns_are_refused_with_what_to_do(run, table, tmp_path, capsys):
    def said(text):
        file = write(tmp_path / "bad.csv", text)
        return refusal(capsys, "sample", run, "--impute", file, "--output", tmp_path / "filled.csv")

    assert "column 'towns' is none of the model's: leave it out; did you mean town?" in said(
        table.replace("town", "towns", 1)
    )
    narrower = "".join(line.partition(",")[2] + "\n" for line in table.splitlines())
    assert "column 'income' is not there: add it, with empty cells if it is to be filled in" in said(narrower)
    assert "no cell is empty among 60 rows" in said(table)
    assert "has no rows" in said(table.splitlines()[0] + "\n")


def test_options_of_imputation_that_contradict_each_other_are_refused(run, table, tmp_path, capsys):
    file, filled = write(tmp_path / "holes.csv", cells(table, age=[0])), tmp_path / "filled.csv"
    options = ("sample", run, "--impute", file)
    assert "there is no --output" in refusal(capsys, *options)
    assert "have both be .parquet, or neither" in refusal(
        capsys, *options, "--output", tmp_path / "filled.parquet"
    )
    assert "--impute fills each row once" in refusal(capsys, *options, "--output", filled, "--num", 3)
    absent = ("sample", run, "--impute", tmp_path / "absent.csv", "--output", filled)
    assert refusal(capsys, *absent).endswith("absent.csv: does not exist: give the path of a table")
    write(filled, "kept")
    assert "--overwrite" in refusal(capsys, *options, "--output", filled)


def test_whoever_stops_keeps_what_is_done_and_can_go_on(run, table, tmp_path, capsys, monkeypatch):
    file = write(tmp_path / "holes.csv", cells(table, income=range(60)))
    filled = tmp_path / "filled.csv"
    argv = ["--output", str(filled), "--steps", "3", "--batch-size", "16", "--overwrite"]
    drawn = DiffusionModel.batches

    def batches(self, n, **options):
        yield from islice(drawn(self, n, **options), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModel, "batches", batches)
        assert main(["sample", str(run), "--impute", str(file), *argv]) == 130
    captured = capsys.readouterr()
    assert "32 cells filled, in 32 of 60 rows" in captured.out
    assert f"28 rows are left: go on with --impute {filled}" in captured.err
    done = [line.split(",")[0] for line in filled.read_text().splitlines()[1:]]
    assert [bool(income) for income in done] == [True] * 32 + [False] * 28
    said = output(capsys, "sample", run, "--impute", filled, *argv)
    assert "28 cells filled, in 28 of 60 rows" in said
    again = [line.split(",")[0] for line in filled.read_text().splitlines()[1:]]
    assert again[:32] == done[:32]
    assert all(again)


JOINT = torch.tensor([[0.30, 0.05, 0.05], [0.02, 0.08, 0.20], [0.10, 0.15, 0.05]], dtype=torch.float64)


class Exact(torch.nn.Module):
    """The belief of the joint above in two columns, where the second is missing in nine rows of ten."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))  # a model is where its parameters are

    def forward(self, x_t, t):
        a = torch.where(x_t[:, :1] < 3, x_t[:, :1], 0)  # 3 is the mask of the first column
        given = torch.where(x_t[:, :1] < 3, JOINT[a[:, 0]], JOINT.sum(0))
        second = torch.cat(
            [0.1 * given / given.sum(-1, keepdim=True), torch.tensor(0.9).expand(len(a), 1)], -1
        )
        first = torch.cat([JOINT.sum(1), torch.zeros(1, dtype=torch.float64)]).expand(len(a), 4)
        return torch.nn.functional.pad(torch.stack([first, second], 1), (0, 1)).log()


def test_filled_cells_follow_the_law_given_the_known_ones_and_no_value_is_missing(tmp_path, capsys):
    columns = pd.DataFrame({"a": ["x", "y", "z", "x"], "b": ["p", "q", "r", None]})
    codec = TableCodec.fit(columns)
    kernels = [AbsorbingTransition(num_states=k + 1, num_steps=4) for k in codec.cardinalities]
    process = TableDiffusion(4, transitions=kernels, columns=[0, 1])
    model = DiffusionModel(process=process, network=Exact(), codec=codec, shape=(2,))
    pd.DataFrame({"b": None, "a": ["x", "y", "z"] * 1000}).to_csv(tmp_path / "holes.csv", index=False)
    draw = Draw(model, model.network, {"steps": 4, "seed": 0, "batch_size": 700}, [])
    options = {"impute": str(tmp_path / "holes.csv"), "output": str(tmp_path / "filled.csv")}
    impute(draw, Namespace(**options, seed=0, batch_size=700))
    filled = pd.read_csv(tmp_path / "filled.csv")
    assert filled["a"].tolist() == ["x", "y", "z"] * 1000
    assert filled["b"].isin(["p", "q", "r"]).all()
    counts = torch.tensor(pd.crosstab(filled["a"], filled["b"]).to_numpy())
    assert chi_square(counts, JOINT / JOINT.sum(1, keepdim=True)) > 1e-3


def test_a_network_that_must_not_believe_in_gaps_believes_the_rest_as_before():
    codec = TableCodec.fit(pd.DataFrame({"a": ["x", "y", "x"], "b": ["p", "q", None]}))
    logits = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    found = Complete(lambda x, t: logits, codec)(None, None)
    assert found[:, 1, 2].eq(-math.inf).all()
    found[:, 1, 2] = logits[:, 1, 2]
    assert found.equal(logits)


# evaluate


def test_drawn_rows_are_put_beside_shuffled_and_real_ones(run, capsys):
    shown = output(capsys, "evaluate", run, "--samples", 200, "--steps", 3)
    assert "200 rows of each kind, against 20 real rows of the test split:" in shown
    for name in ("total variation, mean", "association error", "classifier's accuracy", "classifier's AUC"):
        (line,) = (line for line in shown.splitlines() if name in line)
        assert len(line.removeprefix(f"  {name}").split()) == 3
    assert "predicts   income (the commonest class:" in shown
    assert "unigram entropy" in shown


def test_all_of_the_report_is_in_the_json(run, capsys):
    found = json.loads(output(capsys, "evaluate", run, "--samples", 100, "--steps", 3, "--json"))
    table = found["table"]
    assert found["bits_per_dim"] > 0
    assert table["num_rows"] == 100
    assert table["target"] == "income"
    assert table["columns"].keys() == set(people())
    for name in ("samples", "independent", "real"):
        assert 0 <= table[name]["association_error"] <= 1
        assert table[name]["total_variation"] == pytest.approx(
            np.mean([each[name] for each in table["columns"].values()])
        )
    assert table["real"]["accuracy"] > table["independent"]["accuracy"]


def test_no_more_rows_are_drawn_than_there_are_to_compare_with(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--samples", "5000", "--steps", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["table"]["num_rows"] == 360
    assert "there are 360 training rows to put beside: 360 are drawn" in captured.err


def test_a_report_that_cannot_be_is_refused(run, capsys):
    assert "--samples is 0: give 1 or more" in refusal(capsys, "evaluate", run, "--samples", 0)
    assert "--split is train: take test or validation" in refusal(
        capsys, "evaluate", run, "--samples", 9, "--split", "train"
    )
    assert "only --samples are drawn in steps" in refusal(capsys, "evaluate", run, "--steps", 9)


def test_texts_have_no_empty_cells(tmp_path, capsys):
    process = DiscreteDiffusion(AbsorbingTransition(num_states=28, num_steps=5))
    network = TransformerDenoiser(num_states=28, dim=16, depth=1, heads=2)
    model = DiffusionModel(process=process, network=network, codec=TextCodec.characters(), shape=(8,))
    model.save_pretrained(tmp_path / "text")
    assert "--impute is for rows of tables, but this model draws text" in refusal(
        capsys, "sample", tmp_path / "text", "--impute", "a.csv"
    )


def test_all_rows_of_a_split_are_read_in_order():
    data = TableData("iris")
    rows = rows_of(data.split("test"))
    assert rows.equal(data.codec.encode_frame(data.frame("test")))


def test_a_codec_of_rows_makes_a_form_of_tables(run):
    assert isinstance(form_of(DiffusionModel.from_pretrained(run)), Tables)


# Another table in the model's code


def test_rows_of_another_file_are_read_in_the_models_code(run, folder, capsys):
    """In other bins they would be other symbols: half of the training rows alone would be cut into bins anew."""
    people().iloc[:150, ::-1].to_csv(folder / "half.csv", index=False)
    options = [
        "--data=TableData",
        f"--data.source={folder / 'half.csv'}",
        "--num-times=2",
        "--num-examples=8",
    ]
    assert "bits/column" in output(capsys, "evaluate", run, *options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.assign(town="Oz"), "column 'town', row 0: 'Oz'"),
        (lambda rows: rows.drop(columns="age"), "age"),
        (lambda rows: rows.assign(zip=1), "zip"),
    ],
    ids=["unseen", "missing", "extra"],
)
def test_what_the_model_has_not_seen_is_named(run, folder, capsys, change, message):
    change(people(20)).to_csv(folder / "strange.csv", index=False)
    options = ["--data=TableData", f"--data.source={folder / 'strange.csv'}"]
    assert message in refusal(capsys, "evaluate", run, *options)
    assert "leave it out" in refusal(capsys, "evaluate", run, *options, "--samples=10")


def test_kernels_of_the_package_go_by_their_names(config, tmp_path, capsys):
    options = ["--process.nominal", "MarginalTransition", "--process.ordinal", "UniformTransition"]
    assert main(["train", "--config", str(config), "--output", str(tmp_path / "run"), *options]) == 0
    assert (
        main(["train", "--config", str(config), "--output", str(tmp_path / "b"), "--process.nominal", "No"])
        == 2
    )


def test_a_report_that_is_there_is_not_overwritten(run, tmp_path, capsys):
    (tmp_path / "terms.csv").write_text("mine")
    options = ["--num-examples=2", "--table", tmp_path / "terms.csv"]
    assert "--overwrite" in refusal(capsys, "evaluate", run, *options)
    assert (tmp_path / "terms.csv").read_text() == "mine"
    output(capsys, "evaluate", run, *options, "--overwrite")
    assert (tmp_path / "terms.csv").read_text() != "mine"
