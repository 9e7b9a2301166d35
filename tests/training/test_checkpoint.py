"""What a checkpoint is worth after a torn write, a flipped bit, a full disk, or a kill between any two calls."""

import errno
import json
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from tiny import train, write_config

from d3pm.cli import main
from d3pm.errors import CheckpointError
from d3pm.training import RunFolder, checkpoint
from d3pm.training.checkpoint import MANIFEST, damage, reseal, seal
from d3pm.training.keeping import RAW_WEIGHTS


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "checkpoint-1"
    (folder / "pieces").mkdir(parents=True)
    for name in ("model.safetensors", "pieces/0.pt", "empty"):
        (folder / name).write_bytes(name.encode() * (name != "empty"))
    seal(folder)
    return folder


def flip(file):
    """Turn one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_manifest_lists_every_file(sealed):
    listed = json.loads((sealed / MANIFEST).read_text())
    assert listed == {
        "empty": {"bytes": 0, "crc32": "00000000"},
        "model.safetensors": {"bytes": 17, "crc32": "dce553b6"},
        "pieces/0.pt": {"bytes": 11, "crc32": "5dc15476"},
    }
    assert damage(sealed) is None


HARM = {
    "a flipped bit": (lambda folder: flip(folder / "pieces/0.pt"), "pieces/0.pt is not what was written"),
    "a torn file": (
        lambda folder: os.truncate(folder / "model.safetensors", 5),
        "model.safetensors has 5 bytes instead of 17",
    ),
    "an emptied file": (lambda folder: (folder / "pieces/0.pt").write_bytes(b""), "pieces/0.pt has 0 bytes"),
    "a lost file": (lambda folder: (folder / "empty").unlink(), "empty is missing"),
    "a lost folder": (lambda folder: shutil.rmtree(folder / "pieces"), "pieces/0.pt is missing"),
    "a torn manifest": (lambda folder: os.truncate(folder / MANIFEST, 30), f"{MANIFEST} is no list of files"),
    "another manifest": (
        lambda folder: (folder / MANIFEST).write_text("[1]"),
        f"{MANIFEST} is no list of files",
    ),
}


@pytest.mark.parametrize("case", HARM)
def test_harm_is_found_and_the_file_named(case, sealed):
    harm, words = HARM[case]
    harm(sealed)
    assert words in damage(sealed)


def test_sizes_alone_tell_a_torn_file_and_no_flipped_bit(sealed):
    flip(sealed / "pieces/0.pt")
    assert damage(sealed, read=lambda name: False) is None
    os.truncate(sealed / "pieces/0.pt", 3)
    assert "3 bytes" in damage(sealed, read=lambda name: False)


def test_a_file_replaced_on_purpose_is_no_damage(sealed):
    (sealed / "empty").write_text("no longer")
    reseal(sealed, "empty")
    assert damage(sealed) is None
    (sealed / MANIFEST).unlink()
    reseal(sealed, "empty")
    assert not (sealed / MANIFEST).exists()
    for name in checkpoint.ESSENTIAL:
        (sealed / name).write_text(name)
    assert damage(sealed) is None  # made before there were manifests


# The newest that is whole


def made(path, *steps, keep=9):
    folder = RunFolder(path)
    for step in steps:
        staged = folder.staging / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        (staged / "model.safetensors").write_text(f"weights of {step}")
        folder.commit(step, keep)
    return RunFolder(path)  # another process: nothing is known yet


def test_the_newest_whole_checkpoint_is_used_and_the_others_are_kept_by_name(tmp_path, capsys):
    folder = made(tmp_path, 10, 20, 30, 40)
    flip(folder.checkpoint(30) / "model.safetensors")
    os.truncate(folder.checkpoint(40) / "model.safetensors", 3)
    (folder.staging / "checkpoint-50").mkdir()
    assert folder.last_checkpoint() == folder.checkpoint(20)
    assert folder.recover(keep=2) == 20
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" is damaged ")[0] for line in lines] == [
        str(folder.checkpoint(30)),
        str(folder.checkpoint(40)),
    ]
    assert "model.safetensors has 3 bytes instead of 13" in lines[1]
    assert all(line.endswith("going on from checkpoint-20") for line in lines)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        ".staging",
        "checkpoint-10",
        "checkpoint-20",
        "damaged-30",
        "damaged-40",
    ]
    assert not any(folder.staging.iterdir())


def test_a_checkpoint_damaged_twice_is_kept_twice(tmp_path):
    for _ in range(2):
        folder = made(tmp_path, 10, 20)
        flip(folder.checkpoint(20) / "model.safetensors")
        assert folder.recover(keep=2) == 10
    assert {"damaged-20", "damaged-20-2"} < {path.name for path in folder.checkpoints.iterdir()}


def test_where_none_is_whole_all_stay_as_they_are(tmp_path):
    folder = made(tmp_path, 10, 20)
    for step in (10, 20):
        flip(folder.checkpoint(step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint-20: model.*checkpoint-10: model.*--overwrite$"):
        folder.recover(keep=1)
    assert folder.checkpoint_steps() == [10, 20]


def test_the_last_good_one_is_never_let_go(tmp_path):
    folder = made(tmp_path, 10, 20, 30)
    for step in (20, 30):
        flip(folder.checkpoint(step) / "model.safetensors")
    assert folder.recover(keep=1) == 10
    made(tmp_path, 15, keep=1)
    assert folder.checkpoint_steps() == [15]


def test_fewer_are_kept_before_the_next_one_is_written(tmp_path):
    folder = made(tmp_path, 10, 20, 30)
    assert folder.recover(keep=1) == 30
    assert folder.checkpoint_steps() == [30]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("keep", [1, 2])
def test_killed_between_any_two_calls_the_newest_is_whole(tmp_path, monkeypatch, keep):
    """As many kills as saving makes calls that change the disk; after each the last or the new one is there."""
    made(tmp_path / "before", 10, 20, keep=2)
    outcomes = []
    for blow in range(1000):
        path = tmp_path / f"killed-{blow}"
        shutil.copytree(tmp_path / "before", path)
        left = iter(range(blow))

        def until_killed(function, left=left):
            def call(*args, **kwargs):
                if next(left, None) is None:
                    raise Killed
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in [(os, "replace"), (os, "fsync"), (os, "rmdir"), (os, "unlink"), (os, "mkdir")]:
                patch.setattr(owner, name, until_killed(getattr(owner, name)))
            try:
                made(path, 30, keep=keep)
                killed = False
            except Killed:
                killed = True
        folder = RunFolder(path)
        step = folder.recover(keep)
        assert (folder.checkpoint(step) / "model.safetensors").read_text() == f"weights of {step}"
        outcomes.append(step)
        if not killed:
            break
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {20, 30}
    assert outcomes[-1] == 30
    assert len(outcomes) > 8


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 8 steps, checkpoints at 4 and 8."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder)
    assert train(config, folder / "run", "--training.max_steps", "8") == 0
    return config, RunFolder(folder / "run")


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[1].path, tmp_path / "run")
    return run[0], RunFolder(tmp_path / "run")


def test_a_run_holds_all_there_is_to_remember(run):
    listed = set(json.loads((run[1].checkpoint(8) / MANIFEST).read_text()))
    assert {"model.safetensors", RAW_WEIGHTS, "optimizer.pt", "scheduler.pt", "trainer_state.json"} < listed
    assert listed | {MANIFEST} == {path.name for path in run[1].checkpoint(8).iterdir()}


def test_a_torn_checkpoint_is_named_and_the_one_before_goes_on(copy, capsys):
    config, folder = copy
    os.truncate(folder.checkpoint(8) / "optimizer.pt", 1000)
    assert train(config, folder.path, "--resume", "--training.max_steps", "12") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(told) == 1
    assert "checkpoint-8 is damaged (optimizer.pt has 1000 bytes instead of" in told[0]
    assert told[0].endswith("kept as damaged-8, going on from checkpoint-4")
    assert folder.checkpoint_steps() == [8, 12]  # written again
    assert (folder.checkpoints / "damaged-8" / "optimizer.pt").stat().st_size == 1000


def test_a_checkpoint_without_a_manifest_still_goes_on(copy):
    config, folder = copy
    for step in (4, 8):
        for name in (MANIFEST, "unlogged_loss.json"):
            (folder.checkpoint(step) / name).unlink()
    assert train(config, folder.path, "--resume", "--training.max_steps", "9") == 0
    assert folder.checkpoint_steps() == [8, 9]


def test_sampling_from_a_torn_checkpoint_is_refused(copy, capsys):
    place = copy[1].checkpoint(8)
    (place / "optimizer.pt").unlink()  # of no use to a sample
    command = ["sample", str(place), "--num", "1", "--steps", "2"]
    assert main(command) == 0
    os.truncate(place / "tokenizer.json", 10)
    capsys.readouterr()
    assert main(command) == 2
    assert "checkpoint-8 is damaged (tokenizer.json has 10 bytes instead of" in capsys.readouterr().err


def test_a_plan_saved_with_a_checkpoint_is_no_damage(copy, capsys):
    place = copy[1].checkpoint(8)
    command = ["plan-steps", str(place), "--steps", "4", "--num-examples", "6", "--split", "train"]
    assert main(command) == 0, capsys.readouterr().err
    assert json.loads((place / "config.json").read_text())["plans"]
    assert damage(place) is None


# A full disk


@contextmanager
def small_files(most):
    """No file can grow beyond ``most`` bytes: writing fails in the middle, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))  # Python ignores the signal
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(capsys, *argv):
    """The one line of an error, after whatever a bar wrote."""
    capsys.readouterr()
    assert train(*argv) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("d3pm train: error: ")
    return line


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize("torn", ["model.safetensors", RAW_WEIGHTS, "optimizer.pt"])
def test_a_write_that_really_fails_leaves_the_old_checkpoint(copy, capsys, torn):
    """Each library has its own word for it: safetensors, PyTorch's archive, and a Python file."""
    config, folder = copy
    most = sizes(folder.checkpoint(8))[torn] - 100
    if torn == "optimizer.pt":
        assert most > sizes(folder.checkpoint(8))[RAW_WEIGHTS]
    with small_files(most):
        line = refused(capsys, config, folder.path, "--resume", "--training.max_steps", "9")
    assert "checkpoint-9 could not be written" in line
    assert "checkpoint-8 is the newest whole one: see that files of 2 MB can be written there" in line
    assert line.endswith(f"`{folder.resume_command}`")
    assert folder.checkpoint_steps() == [4, 8]
    assert not any(folder.staging.iterdir())
    assert train(config, folder.path, "--resume", "--training.max_steps", "9") == 0


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")


PLACES = {
    "weights": (torch, "save"),
    "manifest": (checkpoint, "write_manifest"),
    "flushing": (os, "fsync"),
    "renaming": (os, "replace"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_leaves_the_old_checkpoint(copy, capsys, monkeypatch, place):
    config, folder = copy
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], full)
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
        if place == "renaming":  # the config was renamed before
            patch.setattr(RunFolder, "write_config", lambda *args: None)
        line = refused(capsys, config, folder.path, "--resume", "--training.max_steps", "9")
    assert "checkpoint-9 could not be written" in line
    assert "model.safetensors: No space left on device" in line
    assert "checkpoint-8 is the newest whole one: free 2 MB or lower training.keep_checkpoints, now 2" in line
    assert folder.checkpoint_steps() == [4, 8]
    assert not any(folder.staging.iterdir())


def test_a_disk_too_small_for_the_first_checkpoint(run, tmp_path, capsys):
    with small_files(20_000):
        line = refused(capsys, run[0], tmp_path / "run")
    assert "checkpoint-4 could not be written" in line
    assert "there is no whole one yet" in line
    assert RunFolder(tmp_path / "run").checkpoint_steps() == []


def test_a_disk_too_small_for_the_finished_model(copy, capsys, monkeypatch):
    config, folder = copy
    before = (folder.path / "model.safetensors").read_bytes()
    folder.unpublish()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", full)
        line = refused(capsys, config, folder.path, "--resume", "--training.max_steps", "8")
    assert "the finished model could not be written" in line
    assert "checkpoint-8 is the newest whole one" in line
    assert not folder.finished
    assert train(config, folder.path, "--resume", "--training.max_steps", "8") == 0
    assert (folder.path / "model.safetensors").read_bytes() == before


def test_errors_that_are_not_the_disks_keep_their_traceback(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path).writing("checkpoint-1", keep=2):
        raise KeyError("a defect")


def test_a_folder_without_a_list_of_its_files_is_whole_only_if_nothing_is_missing(tmp_path):
    """As one that was copied halfway; and the one before is kept, however few were to be."""
    folder = RunFolder(tmp_path)
    good = folder.staging / "checkpoint-500"
    good.mkdir(parents=True)
    (good / "raw_weights.pt").write_text("weights")
    folder.commit(500, keep=1)
    folder.checkpoint(600).mkdir()
    (folder.checkpoint(600) / "config.json").write_text("{}")
    again = RunFolder(tmp_path)
    assert again.damage(600) == f"raw_weights.pt is missing, and so is {MANIFEST}"
    assert again.recover(keep=1) == 500
    assert again.checkpoint_steps() == [500]


def test_a_folder_without_a_list_that_seems_whole_takes_no_other_with_it(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (500, 600):
        staged = folder.staging / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        for name in checkpoint.ESSENTIAL:
            (staged / name).write_text(name)
        folder.commit(step, keep=2)
    (folder.checkpoint(600) / MANIFEST).unlink()
    assert RunFolder(tmp_path).recover(keep=1) == 600
    assert folder.checkpoint_steps() == [500, 600]


def test_a_model_with_a_flipped_bit_is_not_used(tmp_path, capsys):
    """Neither as it is nor without a word; the optimizer beside it is no matter then."""
    config = write_config(tmp_path, max_steps=2, save_every=2)
    assert train(config, tmp_path / "run") == 0
    kept = RunFolder(tmp_path / "run").checkpoint(2)
    flip(kept / "optimizer.pt")
    assert main(["evaluate", str(kept), "--num-examples", "4", "--num-times", "1"]) == 0
    flip(kept / "model.safetensors")
    capsys.readouterr()
    assert main(["evaluate", str(kept), "--num-examples", "4", "--num-times", "1"]) == 2
    assert "is damaged (model.safetensors is not what was written" in capsys.readouterr().err


def test_a_finished_model_is_not_overwritten_where_nothing_is_left_to_go_on_from(tmp_path, capsys):
    config = write_config(tmp_path, max_steps=2, save_every=2)
    assert train(config, tmp_path / "run") == 0
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for resume in ("run", "auto"):
        assert train(config, tmp_path / "run", f"--resume={resume}") == 2
        assert "holds a finished model, but no checkpoint to go on from" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
