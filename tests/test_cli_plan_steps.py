"""``d3pm plan-steps``: a plan is measured, saved with the model and taken by ``d3pm sample``."""

import csv
import hashlib
import json
import random
import shutil
from itertools import pairwise

import pytest
import torch
from tiny import WORDS, train, write_config

from d3pm.cli import main
from d3pm.cli.choices import find_grid, grids
from d3pm.errors import ConfigError
from d3pm.evaluation.grid_bounds import GridBounds
from d3pm.model import DiffusionModel

FEW = ("--num-examples", "64")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    config = write_config(folder)
    (folder / "words.txt").write_text(" ".join(random.Random(0).choices(WORDS, k=6000)))
    assert train(config, folder / "run") == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def output(capsys, *argv):
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 0
    return capsys.readouterr().out


def refusal(capsys, *argv):
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def fingerprint(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).digest() for file in files}


def test_a_plan_is_saved_with_the_model_and_nothing_else_changes(run, capsys):
    before, settings = fingerprint(run), json.loads((run / "config.json").read_text())
    shown = output(capsys, "plan-steps", run, "--steps", "4,8", *FEW)
    assert "64 examples of the test split; planned on the validation split, out of 21 times" in shown
    assert f"saved with the model; `d3pm sample {run} --steps 8 --grid optimal` takes them" in shown
    after = fingerprint(run)
    assert {name for name in after if after[name] != before.get(name)} == {"config.json"}
    assert after.keys() == before.keys()
    plans = json.loads((run / "config.json").read_text()).pop("plans")
    assert json.loads((run / "config.json").read_text()) == settings | {"plans": plans}
    for steps, times in plans.items():
        assert len(times) == int(steps) + 1
        assert (times[0], times[-1]) == (20, 0)
        assert all(a > b for a, b in pairwise(times))
        assert f"{steps} steps: {' '.join(map(str, times))}" in shown


def test_a_model_takes_its_plan_and_keeps_it(run, capsys, tmp_path):
    output(capsys, "plan-steps", run, "--steps", "4", *FEW)
    model = DiffusionModel.from_pretrained(run)
    times = json.loads((run / "config.json").read_text())["plans"]["4"]
    assert model.plan(4) == find_grid("optimal", model)(20, 4) == times
    model.save_pretrained(tmp_path / "copy")
    again = DiffusionModel.from_pretrained(tmp_path / "copy")
    assert again.plan(4) == times
    seen = []
    drawn = again.sample(2, steps=again.plan(4), seed=1, watch=lambda s, x: seen.append(s))
    assert seen == times[1:]
    grid = find_grid("optimal", again)
    assert torch.equal(drawn, again.sample(2, steps=4, grid=grid, seed=1))


def test_a_plan_that_there_is_gives_way_and_the_others_stay(run, capsys):
    output(capsys, "plan-steps", run, "--steps", "4,5", *FEW)
    config = run / "config.json"
    settings = json.loads(config.read_text())
    settings["plans"]["4"] = [20, 19, 18, 17, 0]
    config.write_text(json.dumps(settings))
    shown = output(capsys, "plan-steps", run, "--steps", "4", *FEW)
    assert "saved with the model, in place of an older plan of 4 steps" in shown
    plans = json.loads(config.read_text())["plans"]
    assert plans["4"] != [20, 19, 18, 17, 0]
    assert plans["5"] == settings["plans"]["5"]


def test_equal_seeds_give_equal_numbers_in_json(run, capsys):
    options = ("plan-steps", run, "--steps", "3", "--json", *FEW)
    found = json.loads(output(capsys, *options))
    assert found == json.loads(output(capsys, *options))
    assert {name: found[name] for name in ("planned_on", "judged_on", "num_examples", "num_times")} == {
        "planned_on": "validation",
        "judged_on": "test",
        "num_examples": 64,
        "num_times": 21,
    }
    (plan,) = found["plans"]
    assert plan["times"] == json.loads((run / "config.json").read_text())["plans"]["3"]
    bits = plan["bits_per_dim"]
    assert bits["quadratic"] is None  # it begins below T, which mask diffusion cannot
    saved = bits["uniform"] - bits["optimal"]
    assert plan["saves"]["uniform"]["bits_per_dim"] == pytest.approx(saved)
    other = json.loads(output(capsys, *options, "--seed", "1"))
    assert other["plans"][0]["bits_per_dim"] != bits
    assert json.loads(output(capsys, *options, "--split", "test"))["judged_on"] == "validation"


def test_a_checkpoint_is_planned_where_it_lies(run, capsys):
    before = (run / "config.json").read_bytes()
    checkpoint = run / "checkpoints" / "checkpoint-12"
    output(capsys, "plan-steps", checkpoint, "--steps", "3", *FEW)
    assert list(json.loads((checkpoint / "config.json").read_text())["plans"]) == ["3"]
    assert (run / "config.json").read_bytes() == before


def test_the_terms_as_a_table_and_the_bounds_as_a_picture(run, capsys, tmp_path):
    table, picture = tmp_path / "terms.csv", tmp_path / "plan.png"
    options = ("plan-steps", run, "--steps", "3", "--table", table, "--plot", picture, *FEW)
    output(capsys, *options)
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 21 * 20 // 2
    assert all(int(row["s"]) < int(row["t"]) and float(row["bits_per_dim"]) >= 0 for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "--overwrite" in refusal(capsys, *options)
    output(capsys, *options, "--overwrite")


def test_fewer_times_to_choose_from_cost_fewer_calls(run, capsys):
    found = json.loads(output(capsys, "plan-steps", run, "--steps", "2", "--resolution", "8", "--json", *FEW))
    assert 5 <= found["num_times"] <= 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "21"], "--steps is 21: this model has T=20, choose 1 .. 20"),
        (["--steps", "0"], "--steps is 0: give a whole number of at least 1"),
        (["--steps", "4,x"], "--steps is 4,x: give a whole number"),
        (["--steps", "10", "--resolution", "10"], "--resolution 10 times are there to choose from: raise it"),
        (["--steps", "4", "--num-examples", "0"], "--num_examples is 0: give 1 or more"),
        (["--steps", "4", "--num-examples", "1"], "--num_examples is 1: give 2 or more"),
        (["--steps", "4", "--resolution", "0"], "--resolution is 0: give 1 or more"),
        (["--steps", "4", "--plot", "plan.txt"], "--plot plan.txt: end the name in .png"),
        ([], "steps"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(run, capsys, options, words):
    before = fingerprint(run)
    assert words in refusal(capsys, "plan-steps", run, *options)
    assert fingerprint(run) == before


def test_a_plan_that_is_surely_worse_is_told_and_not_saved(run, capsys, monkeypatch):
    output(capsys, "plan-steps", run, "--steps", "4", *FEW)
    before = json.loads((run / "config.json").read_text())["plans"]

    def judged(model, data, grids, **options):
        """The first grid, the plan of 4 steps, costs more than all others; that of 5 steps less."""
        nats = torch.randn(len(grids), 64, generator=torch.Generator().manual_seed(0))
        nats[0] += 9
        nats[4] -= 9
        return GridBounds(nats, torch.full((64,), 16))

    monkeypatch.setattr("d3pm.cli.plan_steps.judge_grids", judged)
    options = ["plan-steps", str(run), "--steps", "4,5", *FEW]
    assert main(options) == 2
    said = capsys.readouterr()
    assert "worse than uniform at 4 steps: not saved" in said.out
    assert "no sure gain" not in said.out
    assert f"saved with the model; `d3pm sample {run} --steps 5 --grid optimal` takes them" in said.out
    (line,) = said.err.splitlines()
    assert "at 4 steps (worse than uniform and cosine) and is not saved: give more" in line
    plans = json.loads((run / "config.json").read_text())["plans"]
    assert plans["4"] == before["4"]
    assert plans.keys() == {"4", "5"}
    assert main([*options, "--json"]) == 2
    assert [plan["saved"] for plan in json.loads(capsys.readouterr().out)["plans"]] == [False, True]


def test_the_optimal_grid_without_steps_names_the_plans_there_are(run, capsys):
    verbs = (["sample", run], ["evaluate", run, "--samples", "2", "--num-examples", "0"])
    for verb in verbs:
        line = refusal(capsys, *verb, "--grid", "optimal")
        assert "--grid is optimal, but no number of --steps is given" in line
        assert f"make a plan with `d3pm plan-steps {run} --steps 16` (plans: none yet)" in line
    output(capsys, "plan-steps", run, "--steps", "4,5", *FEW)
    for verb in verbs:
        assert "(plans: 4, 5)" in refusal(capsys, *verb, "--grid", "optimal")
    assert "--steps are times already" in refusal(
        capsys, "sample", run, "--grid", "optimal", "--steps", "20,5,0"
    )


def test_a_folder_without_a_model_or_without_data_is_refused(run, capsys, tmp_path):
    assert "does not exist" in refusal(capsys, "plan-steps", tmp_path / "none", "--steps", "4")
    (run / "config.yaml").unlink()
    assert "config.yaml cannot be read" in refusal(capsys, "plan-steps", run, "--steps", "4")


def test_a_classifier_is_refused(run, capsys, monkeypatch):
    monkeypatch.setattr("d3pm.objectives.VariationalBound.classifies", True)
    assert "is a classifier" in refusal(capsys, "plan-steps", run, "--steps", "4")


@pytest.mark.parametrize("where", ["d3pm.cli.plan_steps.judge_grids", "d3pm.cli.plan_steps.os.replace"])
def test_whoever_is_interrupted_keeps_the_old_config(run, capsys, monkeypatch, where):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    before = fingerprint(run)
    monkeypatch.setattr(where, interrupted)
    assert main(["plan-steps", str(run), "--steps", "4", *FEW]) == 130
    assert fingerprint(run) == before


def test_d3pm_sample_takes_the_plan_or_says_how_to_make_it(run, capsys):
    options = ("sample", run, "--num=1", "--steps=4", "--grid=optimal")
    assert f"make one with `d3pm plan-steps {run} --steps 4`" in refusal(capsys, *options)
    output(capsys, "plan-steps", run, "--steps", "4", *FEW)
    times = json.loads((run / "config.json").read_text())["plans"]["4"]
    texts = output(capsys, *options)
    assert texts == output(capsys, "sample", run, "--num=1", f"--steps={times}")


def test_without_a_plan_the_optimal_grid_says_how_to_get_one(run):
    model = DiffusionModel.from_pretrained(run)
    with pytest.raises(
        ConfigError, match=rf"\(plans: none yet\): make one with `d3pm plan-steps {run} --steps 4`"
    ):
        find_grid("optimal", model)(20, 4)
    assert model.plan(20) == list(range(20, -1, -1))
    with pytest.raises(ConfigError, match="measured for one model"):
        find_grid("optimal")(20, 4)
    assert "optimal" in grids()


def test_models_saved_before_there_were_plans_load(run):
    settings = json.loads((run / "config.json").read_text())
    settings.pop("plans", None)
    (run / "config.json").write_text(json.dumps(settings))
    assert DiffusionModel.from_pretrained(run).config.plans == {}


def test_the_verb_has_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan-steps", "--help"])
    assert end.value.code == 0
    assert "usage: d3pm plan-steps" in capsys.readouterr().out
