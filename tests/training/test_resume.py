"""A run that was stopped goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny import train, write_config

from d3pm.training import RunFolder
from d3pm.training.trainer import RAW_WEIGHTS, DiffusionTrainer

RESUME = "--resume"


def weights(folder, step=12):
    return torch.load(folder.checkpoint(step) / RAW_WEIGHTS, weights_only=True)


def curve(folder, step=12):
    """What was logged: loss, bound and learning rate by step, without times."""
    history = json.loads((folder.checkpoint(step) / "trainer_state.json").read_text())["log_history"]
    kept = ("step", "loss", "grad_norm", "learning_rate", "eval_bits_per_dim")
    return [{name: entry[name] for name in kept if name in entry} for entry in history]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of 12 steps, never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    config = write_config(folder)
    assert train(config, folder / "run") == 0
    return config, RunFolder(folder / "run")


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Have the signal arrive in the middle of a step."""
    training_step = DiffusionTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
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
    assert curve(folder) == curve(whole)
    torch.testing.assert_close(weights(folder), weights(whole), rtol=0, atol=1e-7)


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


def test_a_killed_run_resumes_from_a_whole_checkpoint(tmp_path):
    config = write_config(tmp_path, save_every=1, lr_schedule="constant", eval_every=10**6)
    folder = RunFolder(tmp_path / "run")
    command = "import sys; from d3pm.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [
        "train",
        "--config",
        str(config),
        "--output",
        str(folder.path),
        "--training.max_steps",
        "1000000",
    ]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-c", command, *arguments], stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not folder.checkpoint_steps() or folder.checkpoint_steps()[-1] < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = folder.checkpoint_steps()[-1]
    assert train(folder.config_file, folder.path, RESUME, "--training.max_steps", str(step + 2)) == 0
    assert folder.finished
    assert folder.checkpoint_steps()[-1] == step + 2


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
