"""The folder of a run: what may be written, and what counts as a checkpoint."""

import os
import shutil
from pathlib import Path

import pytest

from d3pm.errors import CheckpointError, ConfigError
from d3pm.training import RunFolder


def stage(folder: RunFolder, step: int) -> Path:
    staged = folder.staging / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_text("weights")
    return staged


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_a_checkpoint_exists_only_when_it_is_whole(folder):
    stage(folder, 10)
    folder.commit(10, keep=2)
    stage(folder, 20)  # killed here
    assert folder.last_checkpoint() == folder.checkpoint(10)
    folder.sweep()
    assert folder.checkpoint_steps() == [10]
    assert list(folder.staging.iterdir()) == []


def test_the_newest_checkpoints_stay(folder):
    for step in (5, 10, 100, 20):
        stage(folder, step)
        folder.commit(step, keep=2)
    assert folder.checkpoint_steps() == [20, 100]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        ".staging",
        "checkpoint-100",
        "checkpoint-20",
    ]


def test_a_checkpoint_can_be_written_again(folder):
    for text in ("old", "new"):
        (stage(folder, 7) / "model.safetensors").write_text(text)
        folder.commit(7, keep=2)
    assert (folder.checkpoint(7) / "model.safetensors").read_text() == "new"


def test_publishing_moves_the_config_last(folder, monkeypatch):
    moved = []
    replace = __import__("os").replace
    monkeypatch.setattr("os.replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))

    def save(path):
        path.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (path / name).write_text(name)

    folder.publish(save)
    assert moved[-1] == "config.json"
    assert folder.finished
    assert folder.require_model() == folder.path


@pytest.mark.parametrize("flags", [{}, {"resume": True, "overwrite": True}])
def test_a_used_folder_is_refused(folder, flags):
    folder.config_file.write_text("data: 1")
    with pytest.raises(ConfigError, match="--resume"):
        folder.check_may_write(**{"resume": False, "overwrite": False, **flags})


def test_a_run_to_resume_must_be_there(folder):
    folder.check_may_write(resume=False, overwrite=True)
    with pytest.raises(ConfigError, match=r"holds no run to resume.*--resume auto"):
        folder.check_may_write(resume=True, overwrite=False)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_folder_that_is_no_run_is_refused_even_so(folder, flag):
    (folder.path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(ConfigError, match="another folder"):
        folder.check_may_write(**{"resume": False, "overwrite": False, flag: True})


def test_clearing_leaves_files_of_others_alone(folder):
    for name in ("config.yaml", "config.json", "model.safetensors", "tokenizer.json", "notes.txt"):
        (folder.path / name).write_text("")
    (stage(folder, 3) / "tokenizer.json").write_text("")
    folder.commit(3, keep=1)
    folder.clear()
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "notes.txt"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("blow", range(8))
def test_a_run_killed_while_it_is_cleared_is_still_a_run(folder, monkeypatch, blow):
    folder.config_file.write_text("data: 1")
    for name in ("config.json", "tokenizer.json", "notes.txt"):
        (folder.path / name).write_text("")
    for step in (3, 6):
        (stage(folder, step) / "tokenizer.json").write_text("")
        folder.commit(step, keep=2)
    left = iter(range(blow))

    def until_killed(function):
        def call(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", until_killed(Path.unlink))
        patch.setattr("os.replace", until_killed(os.replace))
        patch.setattr("shutil.rmtree", until_killed(shutil.rmtree))
        with pytest.raises(Killed):
            folder.clear()
    folder.check_may_write(resume=True, overwrite=False)
    folder.check_may_write(resume=False, overwrite=True)
    assert all((folder.checkpoint(step) / "tokenizer.json").exists() for step in folder.checkpoint_steps())
    folder.clear()
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "notes.txt"]


def test_a_config_is_there_whole_or_not_at_all(folder, monkeypatch):
    def killed(*args):
        raise Killed

    for before in (None, "old"):
        if before:
            folder.write_config(before)
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", killed)
            with pytest.raises(Killed):
                folder.write_config("new")
        assert folder.used == bool(before)
        assert not before or folder.config_file.read_text() == before


def test_an_unchanged_config_is_left_alone(folder, monkeypatch):
    folder.write_config("data: 1")
    monkeypatch.setattr("os.replace", lambda *args: pytest.fail("written again"))
    folder.write_config("data: 1")


def test_a_missing_model_is_explained(folder):
    with pytest.raises(CheckpointError, match="does not exist"):
        RunFolder(folder.path / "nowhere").require_model()
    with pytest.raises(CheckpointError, match="holds no model"):
        folder.require_model()
    folder.config_file.write_text("data: 1")
    with pytest.raises(CheckpointError, match=r"no model yet.*--resume"):
        folder.require_model()
    stage(folder, 3)
    folder.commit(3, keep=1)
    with pytest.raises(CheckpointError, match=r"--resume.*checkpoint-3$"):
        folder.require_model()
