"""Several processes share evaluation and sampling: what comes out is what one process gives, bit for bit."""

import contextlib
import io
import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from several import in_processes
from test_cli_tables import cells, part, people
from tiny import train, write_config
from torch.utils.data import Dataset

from d3pm.cli import main
from d3pm.cli.drawn import drawn
from d3pm.cli.forms import Draw
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError, DataError
from d3pm.evaluation import estimate_bound, judge
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.parallel import ALONE, Team, dealt, everyone, in_turn, noise_of
from d3pm.transitions import AbsorbingTransition

TRAINING = {"max_steps": 1, "batch_size": 16, "eval_examples": 2, "eval_times": 2, "report_to": []}
OUT = "OUT"
"""Stands in a command for the folder that its files go to."""

TEXTS = {
    "bound": "evaluate RUN --num-examples 10 --batch-size 4 --num-times 3 --json",
    "one batch": "evaluate RUN --num-examples 3 --batch-size 4 --num-times 3",
    "by time": "evaluate RUN --num-examples 5 --batch-size 2 --table OUT/terms.csv --plot OUT/terms.png --json",
    "samples": "sample RUN --num 10 --batch-size 4 --output OUT/samples.txt",
    "one sample": "sample RUN --num 1 --steps 4",
    "first hitting": "sample RUN --num 5 --batch-size 2 --sampler FirstHitting",
    "prompt": "sample RUN --num 5 --batch-size 2 --prompt the --temperature 0.9",
    "infill": "sample RUN --num 3 --batch-size 1 --infill the_is_",
    "pattern": "sample RUN --num 3 --batch-size 2 --pattern [a-c]{3}_",
    "blocks": "sample RUN --num 3 --batch-size 1 --prompt the --length 40 --block 8 --output OUT/long.txt",
    "watched": "sample RUN --num 2 --steps 3 --watch",
    "quality": "evaluate RUN --num-examples 0 --samples 4 --steps 2,4 --json",
}
TABLES = {
    "rows": "sample RUN --num 10 --batch-size 3 --steps 4 --output OUT/rows.csv",
    "imputed": "sample RUN --impute HOLES --batch-size 5 --steps 4 --output OUT/filled.csv",
    "quality": "evaluate RUN --num-examples 4 --samples 30 --steps 3 --json",
}
PICTURES = {
    "sheet": "sample RUN --num 5 --batch-size 2 --steps 4 --output OUT/sheet.png --strip OUT/strip.png",
    "files": "sample RUN --num 5 --batch-size 2 --steps 4 --label 3,7 --guidance 2 --each OUT/each",
    "filled": "sample RUN --inpaint TORN --num 3 --batch-size 2 --steps 4 --each OUT/filled",
    "walk": "sample RUN --num 2 --walk OUT/walk.gif --steps 2",
    "continuous": "sample RUN --num 3 --batch-size 1 --sde euler --steps 3 --output OUT/euler.png",
    "classifier": "sample RUN --num 3 --batch-size 2 --steps 3 --classifier JUDGE --label 1 --output OUT/guided.png",
    "by time": "evaluate RUN --num-examples 5 --batch-size 2 --table OUT/distortion.csv",
    "accuracy": "evaluate JUDGE --num-examples 10 --batch-size 4 --num-times 3 --json",
}
MISTAKES = {
    "no number": "sample RUN --num 0",
    "no run": "sample OUT/nowhere",
    "no time": "evaluate RUN --num-times 0",
    "not so many": "evaluate RUN --split train --samples 4",
    "alone": "plan-steps RUN --steps 2",
}


def run_all(commands: dict[str, str], out: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and complaints of each command."""
    out.mkdir(exist_ok=True)
    found = {}
    for name, command in commands.items():
        said, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            code = main(command.replace(OUT, str(out)).split())
        found[name] = (code, said.getvalue().replace(str(out), OUT), complained.getvalue())
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def told(output: str) -> object:
    """What was printed; of JSON without the time it took."""

    def timeless(value):
        if isinstance(value, dict):
            return {name: timeless(each) for name, each in value.items() if name != "seconds"}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    return timeless(json.loads(output)) if output.startswith("{") else output


def check_alike(commands: dict[str, str], folder: Path, *numbers: int) -> None:
    """One process and so many say the same and write the same, and only the first of them."""
    (alone,) = in_processes(1, run_all, commands, folder / "1")
    for number in numbers:
        first, *others = in_processes(number, run_all, commands, folder / str(number))
        for name, (code, output, _) in first.items():
            assert (code, told(output)) == (alone[name][0], told(alone[name][1])), name
            assert code == 0, first[name]
        assert all(saying == (0, "", "") for other in others for saying in other.values())
        assert files(folder / str(number)) == files(folder / "1")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    assert train(write_config(folder, max_steps=4), folder / "run") == 0
    return folder / "run"


def with_paths(commands: dict[str, str], **paths: Path) -> dict[str, str]:
    for name, path in paths.items():
        commands = {title: command.replace(name, str(path)) for title, command in commands.items()}
    return commands


def test_texts_are_the_same_however_many_processes_draw_them(text, tmp_path):
    check_alike(with_paths(TEXTS, RUN=text), tmp_path, 3)
    assert len((tmp_path / "3" / "samples.txt").read_text().splitlines()) == 10


def test_tables_too(tmp_path):
    people().to_csv(tmp_path / "people.csv", index=False)
    holes = cells((tmp_path / "people.csv").read_text(), income=range(12), age=range(5, 20))
    (tmp_path / "holes.csv").write_text(holes)
    config = {
        "data": part("d3pm.data.table.TableData", source=str(tmp_path / "people.csv"), bins=8),
        "process": part("d3pm.discrete.table.TableDiffusion", num_steps=24),
        "network": part("d3pm.networks.table.TableDenoiser", dim=16, depth=1, heads=2),
        "objective": part("d3pm.objectives.VariationalBound"),
        "training": TRAINING,
    }
    (tmp_path / "people.yaml").write_text(yaml.safe_dump(config))
    assert train(tmp_path / "people.yaml", tmp_path / "run") == 0
    paths = {"RUN": tmp_path / "run", "HOLES": tmp_path / "holes.csv"}
    check_alike(with_paths(TABLES, **paths), tmp_path, 2)


@pytest.mark.skipif(find_spec("d3pm.gaussian") is None, reason="the Gaussian wing is not there")
def test_pictures_too(tmp_path):
    from test_cli_images import CLASSIFIER, GAUSSIAN, UNET

    for name, network, objective in (
        ("run", part("d3pm.networks.UNetDenoiser", **UNET), "d3pm.gaussian.SimpleError"),
        (
            "judge",
            part("d3pm.networks.classifier.ImageClassifier", **CLASSIFIER),
            "d3pm.classification.Classification",
        ),
    ):
        config = {
            "data": part("d3pm.data.ImageData", source="digits", labels=True),
            "process": part("d3pm.gaussian.GaussianDiffusion", **GAUSSIAN),
            "network": network,
            "objective": part(objective),
            "training": TRAINING,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
        assert train(tmp_path / f"{name}.yaml", tmp_path / name) == 0
    Image.new("LA", (8, 8), (200, 0)).save(tmp_path / "torn.png")
    paths = {"RUN": tmp_path / "run", "JUDGE": tmp_path / "judge", "TORN": tmp_path / "torn.png"}
    check_alike(with_paths(PICTURES, **paths), tmp_path, 2)


def run_with_launcher(commands: dict[str, str], out: Path) -> dict[str, tuple[int, str, str, str]]:
    """The same under a launcher, and what it is told."""
    found = {}
    for name, command in commands.items():
        file = out / f"{everyone().rank}.json"
        os.environ["TORCHELASTIC_ERROR_FILE"] = str(file)
        found[name] = (
            *run_all({name: command}, out)[name],
            json.loads(file.read_text())["message"]["message"],
        )
    return found


def test_a_mistake_is_one_line_from_the_first_process(text, tmp_path):
    first, second = in_processes(2, run_with_launcher, with_paths(MISTAKES, RUN=text), tmp_path)
    for name, (code, output, complaint, message) in first.items():
        assert (code, output, len(complaint.splitlines())) == (2, "", 1), name
        assert complaint == message + "\n"
        assert second[name] == (2, "", "", message)


# what goes wrong on the way


class Rows(Dataset):
    def __init__(self, num):
        self.x0 = torch.randint(4, (num, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x0)

    def __getitem__(self, i):
        return {"x0": self.x0[i]}


def tiny_model() -> DiffusionModel:
    torch.manual_seed(0)
    process = DiscreteDiffusion(AbsorbingTransition(num_states=5, num_steps=8))
    return DiffusionModel(
        process=process, network=TransformerDenoiser(5, dim=8, depth=1, heads=2), shape=(6,)
    ).eval()


class Counted(torch.nn.Module):
    """Counts calls, and does something else at one of them."""

    def __init__(self, network, at=None, what=None):
        super().__init__()
        self.network, self.at, self.what, self.calls = network, at, what, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            raise self.what
        return self.network(*args, **kwargs)


def failing(problem: Exception, by: int) -> str:
    """What this process hears of a problem that one of them has in the middle of an evaluation."""
    model, team = tiny_model(), everyone()
    model.network = Counted(model.network, 2 if team.rank == by else None, problem)
    try:
        estimate_bound(model, Rows(30), batch_size=5, num_times=2, team=team)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def all_failing() -> list[str]:
    return [
        failing(problem, by)
        for problem in (DataError("row 7: out of range"), IndexError("7"))
        for by in (0, 1)
    ]


def test_a_problem_of_one_process_is_raised_in_all():
    user, other = "DataError: row 7: out of range", "RuntimeError: another process failed: IndexError: 7"
    assert in_processes(2, all_failing) == [
        [user, user, "IndexError: 7", other],
        [user, user, other, "IndexError: 7"],
    ]


def stopped(after: list[int]) -> list[list[int]] | str:
    """Samples of 7 batches, where process r is stopped in its batch number ``after[r]``."""
    model, team = tiny_model(), everyone()
    network = Counted(model.network, after[team.rank] * 4 + 1, KeyboardInterrupt())
    draw = Draw(model, network, {"seed": 3, "steps": 4, "batch_size": 2, "cache": False}, [], team=team)
    try:
        return drawn(draw, 14).x0.tolist()
    except KeyboardInterrupt:
        return "stopped"


def stopped_often(*times: list[int]) -> list[list[list[int]] | str]:
    return [stopped(after) for after in times]


def test_whoever_stops_all_has_the_first_batches_and_no_gaps():
    both = in_processes(2, stopped_often, [100, 100], [2, 2], [3, 1], [0, 3])
    assert both[0] == both[1]
    whole, *parts = both[0]
    assert len(whole) == 14
    assert parts == [
        whole[:8],
        whole[:6],
        "stopped",
    ]  # in the second, batches 0, 2, 4 and 1: the fourth is missing


def reported() -> tuple[dict[str, float], int, int]:
    """What a trainer's judge says in this process, the calls it made for it, and the state of torch's generator."""
    model, team = tiny_model(), everyone()
    model.network = Counted(model.network)
    before = torch.get_rng_state()
    report = judge(model, Rows(30), num_examples=25, batch_size=5, num_times=3, team=team)
    return report.as_dict(), model.network.calls, int((torch.get_rng_state() != before).sum())


def test_every_process_of_a_training_has_the_same_report_for_its_share_of_the_calls():
    alone, calls, moved = reported()
    assert (calls, moved) == (20, 0)
    both = in_processes(2, reported)
    assert both == [(alone, 12, 0)] * 2  # 5 batches of 4 calls: 3 of them each, the last one twice


# the parts


def test_noise_belongs_to_a_piece_and_the_first_has_the_seeds_own():
    drawn = [torch.rand(4, generator=noise_of(seed, piece)) for seed in (0, 1) for piece in range(50)]
    assert len({tuple(x.tolist()) for x in drawn}) == 100
    assert torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("num", [1, 2, 6, 11])
def test_what_is_dealt_out_comes_back_in_order(size, num):
    hands = [list(range(num)[rank::size]) for rank in range(size)]
    assert in_turn(hands) == list(range(num))
    rows = torch.arange(num)
    hands = [
        [mine["x"] for _, mine in dealt(num, 2, {"x": rows}, seed=0, team=Team(rank, size))]
        for rank in range(size)
    ]
    assert torch.equal(torch.cat(in_turn(hands)), rows)


def test_one_generator_cannot_be_shared():
    model = tiny_model()
    for source in ({}, {"generator": torch.Generator()}):
        with pytest.raises(ConfigError, match="give a seed"):
            list(model.batches(4, steps=2, batch_size=2, team=Team(0, 2), **source))
    goes_on = torch.Generator().manual_seed(1)
    assert model.draw(4, steps=2, batch_size=2, generator=goes_on).x0.shape == (4, 6)


def test_processes_without_a_meeting_place_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR is not set: start the processes with torchrun"):
        everyone()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert everyone() == ALONE
