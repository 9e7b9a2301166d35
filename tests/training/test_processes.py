"""Two processes on half a batch each train as one does on all of it."""

import signal

import pytest
import torch
from processes import BATCH, STEPS, asked, end, gradient_norms, losses, together, train
from torch.testing import assert_close
from transformers import TrainerState

from d3pm.errors import ConfigError
from d3pm.objectives import VariationalBound
from d3pm.time_sampling import ImportanceTimes
from d3pm.training import TrainingConfig
from d3pm.training.callbacks import StopOnSignal

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RUNS = {
    "absorbing": {"kernel": "absorbing"},
    "uniform": {"kernel": "uniform"},
    "padded": {"padded": True},
    "importance": {"importance": True},
}
SPLITS = {"whole": {}, "micro": {"micro_batch_size": 4}}


def several(folder, runs, splits):
    """All the runs that one start of processes is for."""
    for name in runs:
        for split in splits:
            run(folder / f"{name}-{split}", **RUNS.get(name, {"seed": 1}), **SPLITS[split])


def run(folder, importance=False, **settings):
    objective = ImportanceTimes(VariationalBound(), num_steps=10, history=1) if importance else None
    train(folder, objective=objective, **settings)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every run in one process, and in micro-batches of one process."""
    folder = tmp_path_factory.mktemp("alone")
    together(1, several, folder, [*RUNS, "other seed"], ["whole", "micro"])
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Every run in two processes, and in micro-batches of two."""
    folder = tmp_path_factory.mktemp("pair")
    together(2, several, folder, list(RUNS), ["whole", "micro"])
    return folder


def the_same(one, other):
    """Curves, gradients, weights and averages."""
    assert len(losses(one)) == STEPS
    assert_close(losses(one), losses(other), **CLOSE)
    assert_close(gradient_norms(one), gradient_norms(other), **CLOSE)
    for part in ("network", "average"):
        assert_close(end(one)[part], end(other)[part], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_does(alone, pair, name, split):
    the_same(alone / f"{name}-whole", pair / f"{name}-{split}")


@pytest.mark.parametrize("name", RUNS)
def test_micro_batches_train_as_whole_ones_do(alone, name):
    the_same(alone / f"{name}-whole", alone / f"{name}-micro")


def test_noise_matters(alone):
    """The runs above are compared more closely than runs of different noise agree."""
    curves = [losses(alone / f"{name}-whole") for name in ("absorbing", "other seed")]
    assert float((curves[0] - curves[1]).abs().max()) > 0.01


@pytest.mark.parametrize("split", SPLITS)
def test_all_processes_end_with_the_same(pair, split):
    for name in RUNS:
        one, other = (end(pair / f"{name}-{split}", rank) for rank in (0, 1))
        assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("split", SPLITS)
def test_what_a_loss_remembers_is_that_of_the_whole_batch(alone, pair, split):
    memories = [
        end(folder)["memory"] for folder in (alone / "importance-whole", pair / f"importance-{split}")
    ]
    assert int(memories[0]["seen"].sum()) == STEPS * BATCH
    assert torch.equal(memories[0]["seen"], memories[1]["seen"])
    assert_close(memories[0]["losses"], memories[1]["losses"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("split", SPLITS)
def test_each_example_goes_to_one_process(alone, pair, split):
    """Together they see what one process sees, an epoch of whole batches at a time."""
    whole, epoch = asked(alone / "absorbing-whole"), 100 // BATCH * BATCH
    halves = [asked(pair / f"absorbing-{split}", rank, size=2) for rank in (0, 1)]
    for first in range(0, 3 * epoch // 2, epoch // 2):
        mine, theirs = (set(half[first : first + epoch // 2]) for half in halves)
        assert not mine & theirs
        assert mine | theirs == set(whole[2 * first : 2 * first + epoch])
    batches = [set(whole[i : i + BATCH]) for i in range(0, len(whole), BATCH)]
    pairs = zip(*(list(zip(*[iter(half)] * (BATCH // 2), strict=True)) for half in halves), strict=True)
    assert [set(mine + theirs) for mine, theirs in pairs] == batches


@pytest.mark.parametrize(
    ("size", "then", "settings"),
    [(2, 2, {}), (2, 2, {"micro_batch_size": 4}), (2, 1, {}), (1, 2, {"padded": True})],
    ids=["two", "two in micro-batches", "two, then one", "one, then two, padded"],
)
def test_a_run_killed_in_a_step_goes_on_as_if_nothing_had_been(alone, tmp_path, size, then, settings):
    folder, now = tmp_path / "run", tmp_path / "now"
    together(size, train, folder, **settings, save_every=5, stop_file=now, killed_when=now)
    assert not (folder / "end-0.pt").exists()
    together(then, train, folder, **settings)
    the_same(alone / f"{'padded' if 'padded' in settings else 'absorbing'}-whole", folder)


@pytest.mark.parametrize(
    ("processes", "settings", "remedy"),
    [
        (
            2,
            {"batch_size": 15},
            "15, which 2 processes cannot share evenly: give 16, or another multiple of 2",
        ),
        (
            4,
            {"batch_size": 12, "micro_batch_size": 2},
            r"12, which 4 processes, 2 examples at once \(.*set training.micro_batch_size to 1",
        ),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(monkeypatch, processes, settings, remedy):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(ConfigError, match=f"training.batch_size is {remedy}"):
        TrainingConfig(**settings, report_to=[]).here()


@pytest.mark.parametrize("passed_on", [True, False], ids=["torchrun", "alone"])
def test_a_signal_that_torchrun_passes_on_is_part_of_the_first(monkeypatch, passed_on):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if passed_on:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    stop = StopOnSignal()
    stop.on_train_begin(None, TrainerState(), None)
    try:
        signal.raise_signal(signal.SIGINT)
        if passed_on:
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr("time.monotonic", lambda: float("inf"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT
    finally:
        stop.restore()
