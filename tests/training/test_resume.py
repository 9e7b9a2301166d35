"""A run that was stopped goes on as if it had not been."""

import json
import signal

import pytest
import torch
import yaml
from tiny import train, write_config

from d3pm.training import RunFolder
from d3pm.training.keeping import RAW_WEIGHTS
from d3pm.training.trainer import DiffusionTrainer

RESUME = "--resume"


def curve(folder, step=12):
    """What was logged: loss, bound and learning rate by step, without times."""
    history = json.loads((folder.checkpoint(step) / "trainer_state.json").read_text())["log_history"]
    kept = ("step", "loss", "grad_norm", "learning_rate", "eval_bits_per_dim")
    return [{name: entry[name] for name in kept if name in entry} for entry in history]


def same(a, b):
    """Whether two states hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(folder, other, step=12):
    """Raw weights, averaged weights, optimizer, schedule and curve are equal, bit for bit."""
    assert curve(folder, step) == curve(other, step)
    for name in (RAW_WEIGHTS, "optimizer.pt", "scheduler.pt"):
        here, there = (torch.load(run.checkpoint(step) / name, weights_only=True) for run in (folder, other))
        assert same(here, there), name
    averages = [(run.checkpoint(step) / "model.safetensors").read_bytes() for run in (folder, other)]
    assert averages[0] == averages[1]


def part(path, **arguments):
    return {"class_path": f"d3pm.{path}", "init_args": arguments}


def everything(folder):
    """All that must be remembered at once: a history of losses, dropout, labels hidden, micro-batches, rare logs."""
    kernel = part("transitions.UniformTransition", num_states=17, num_steps=4)
    network = part(
        "networks.ImageTransformer",
        size=8,
        in_channels=1,
        out_channels=17,
        patch=4,
        dim=16,
        depth=1,
        heads=2,
        dropout=0.2,
        num_classes=10,
        label_drop=0.5,
    )
    objective = part(
        "time_sampling.ImportanceTimes", base=part("objectives.VariationalBound"), num_steps=4, history=2
    )
    training = {
        "max_steps": 12,
        "batch_size": 256,
        "micro_batch_size": 64,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "eval_every": 4,
        "eval_examples": 4,
        "eval_times": 2,
        "save_every": 4,
        "log_every": 5,
        "report_to": [],
    }
    config = {
        "data": part("data.ImageData", source="digits", discrete=True, labels=True),
        "process": part("discrete.process.DiscreteDiffusion", transition=kernel),
        "network": part("networks.PixelLogits", num_states=17, network=network),
        "objective": objective,
        "training": training,
    }
    path = folder / "everything.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 12 steps, never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    config = write_config(folder)
    assert train(config, folder / "run") == 0
    return config, RunFolder(folder / "run")


@pytest.fixture(scope="module")
def straight_everything(tmp_path_factory):
    """The same of everything; 6 steps are an epoch, the last of them a smaller one."""
    folder = tmp_path_factory.mktemp("everything")
    config = everything(folder)
    assert train(config, folder / "run") == 0
    return config, RunFolder(folder / "run")


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Have the signal arrive in the middle of a step: in its first micro-batch."""
    training_step = DiffusionTrainer.training_step
    steps = []

    def interrupted(self, *args, **kwargs):
        steps.append(self.state.global_step + 1)
        if steps[-1] == step and steps.count(step) == 1:
            signal.raise_signal(number)
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(DiffusionTrainer, "training_step", interrupted)


@pytest.mark.parametrize("step", [3, 7, 10], ids=["first epoch", "between epochs", "second epoch"])
def test_a_resumed_run_is_the_same_run(straight, tmp_path, monkeypatch, capsys, step):
    config, whole = straight
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert train(config, folder.path) == 128 + signal.SIGINT
    assert capsys.readouterr().err.rstrip().endswith(f"`{folder.resume_command}`")
    assert folder.checkpoint_steps()[-1] == step
    assert not folder.finished
    assert train(folder.config_file, folder.path, RESUME) == 0
    assert folder.finished
    assert_same_run(folder, whole)


@pytest.mark.parametrize("step", [3, 6, 11], ids=["first epoch", "between epochs", "second epoch"])
def test_everything_there_is_to_remember_is_remembered(straight_everything, tmp_path, monkeypatch, step):
    config, whole = straight_everything
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert train(config, folder.path) == 128 + signal.SIGINT
    state = torch.load(folder.checkpoint(step) / RAW_WEIGHTS, weights_only=True)
    assert state["memory.seen"].min() > 2  # times are drawn by their history
    torch.manual_seed(987)  # another process would not have this one's state either
    assert train(folder.config_file, folder.path, RESUME) == 0
    assert_same_run(folder, whole)


def test_sigterm_stops_as_gently(straight, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGTERM)
    assert train(straight[0], tmp_path / "run") == 128 + signal.SIGTERM
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [2]


def test_accumulated_gradients_make_steps_of_the_whole_batch(straight, tmp_path):
    """Each half draws its own times and noise: the same steps and rates, and losses that agree on average."""
    folder = RunFolder(tmp_path / "run")
    assert train(straight[0], folder.path, "--training.micro_batch_size", "8") == 0
    halves, whole = curve(folder), curve(straight[1])
    assert [entry.get("learning_rate") for entry in halves] == [entry.get("learning_rate") for entry in whole]
    mean_loss, expected = (sum(entry.get("loss", 0) for entry in entries) / 12 for entries in (halves, whole))
    assert mean_loss == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("objective", "is_bound"),
    [("discrete.continuous.ContinuousTimeBound", True), ("objectives.CrossEntropy", False)],
)
def test_a_loss_is_read_as_bits_where_it_is_a_bound(straight, tmp_path, objective, is_bound):
    folder = RunFolder(tmp_path / "run")
    options = [f"--objective=d3pm.{objective}", "--training.max_steps=2"]
    assert train(straight[0], folder.path, *options) == 0
    history = json.loads((folder.checkpoint(2) / "trainer_state.json").read_text())["log_history"]
    assert all(("bits_per_dim" in entry) == is_bound for entry in history if "loss" in entry)


def test_a_loss_that_is_no_number_stops_the_run(straight, tmp_path, capsys):
    assert train(straight[0], tmp_path / "run", "--training.learning_rate", "1e30") == 2
    assert "training.learning_rate is 1e+30: the loss was nan" in capsys.readouterr().err.splitlines()[-1]
    assert not RunFolder(tmp_path / "run").finished


def test_resuming_a_finished_run_finishes_it_again(straight, tmp_path, capsys):
    config, whole = straight
    before = (whole.path / "model.safetensors").read_bytes()
    (whole.path / "config.json").unlink()  # as if killed while the model was being published
    assert train(config, whole.path, RESUME) == 0
    assert (whole.path / "model.safetensors").read_bytes() == before
    assert "unigram entropy" in capsys.readouterr().out
