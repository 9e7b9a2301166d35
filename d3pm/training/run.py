"""The folder of a run: who may write into it, and which of its checkpoints are whole.

::

    RUN/config.yaml                    the full configuration, as run
    RUN/checkpoints/checkpoint-500/    a model, and everything needed to go on training it
    RUN/checkpoints/.staging/          being written or being deleted: never read
    RUN/logs/                          curves
    RUN/config.json, model.safetensors, …   the finished model

A checkpoint is written in the staging folder and renamed when it is complete, so a folder named
``checkpoint-N`` is whole whenever the process was killed.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from d3pm.errors import CheckpointError, ConfigError


class RunFolder:
    """Where a run keeps its things.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self._new_config = self.path / "config.yaml.new"
        self.checkpoints = self.path / "checkpoints"
        self.staging = self.checkpoints / ".staging"
        self.logs = self.path / "logs"

    @property
    def used(self) -> bool:
        """Whether anything is in the folder but a config half written."""
        if not self.path.is_dir():
            return self.path.exists()
        return any(file.name != self._new_config.name for file in self.path.iterdir())

    @property
    def finished(self) -> bool:
        """Whether training came to its end and left its model here."""
        return (self.path / "config.json").is_file()

    @property
    def resume_command(self) -> str:
        """What to type to go on with this run."""
        return f"{program()} train --config {self.config_file} --output {self.path} --resume"

    def check_may_write(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that is in use, unless told what to do with it; touches nothing.

        Raises:
            ConfigError: If the folder is used and neither flag is given, or the flags cannot be followed.
        """
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite contradict each other: give one of them")
        if not self.used:
            return
        if not self.path.is_dir():
            raise ConfigError(f"--output {self.path} is a file: name a folder")
        if not resume and not overwrite:
            raise ConfigError(
                f"--output {self.path} is in use: go on with --resume, start afresh with --overwrite, "
                "or name another folder"
            )
        if not self.config_file.is_file():
            raise ConfigError(
                f"--output {self.path} holds files but no config.yaml of a run: name another folder"
            )

    def clear(self) -> None:
        """Delete the run that is here, and leave every other file alone.

        Its config stays until :meth:`write_config` replaces it: whenever this is killed, the folder still is
        that of a run, to be resumed or overwritten.
        """
        self.unpublish()
        kept = [self.checkpoint(step) for step in self.checkpoint_steps()]
        for name in {file.name for checkpoint in kept for file in checkpoint.iterdir()}:
            if (self.path / name).is_file():  # the codec's: a model's files stand in its checkpoints too
                (self.path / name).unlink()
        for checkpoint in kept:
            self._discard(checkpoint)
        for folder in (self.checkpoints, self.logs):
            shutil.rmtree(folder, ignore_errors=True)

    def write_config(self, text: str) -> None:
        """Make the folder and put the run's configuration there, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config_file.is_file() or self.config_file.read_text() != text:
            self._new_config.write_text(text)
            os.replace(self._new_config, self.config_file)

    def unpublish(self) -> None:
        """Take the finished model away: training goes on, and its last checkpoint holds the same weights."""
        for file in [self.path / "config.json", *self.path.glob("model*.safetensors*")]:
            file.unlink(missing_ok=True)

    def checkpoint_steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        names = (folder.name.removeprefix("checkpoint-") for folder in self.checkpoints.glob("checkpoint-*"))
        return sorted(int(name) for name in names if name.isdigit())

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint at ``step``."""
        return self.checkpoints / f"checkpoint-{step}"

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        steps = self.checkpoint_steps()
        return self.checkpoint(steps[-1]) if steps else None

    def sweep(self) -> None:
        """Delete what a killed process has left half done."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)

    def commit(self, step: int, keep: int) -> None:
        """Give the staged checkpoint, now complete, its name; let the oldest beyond ``keep`` go."""
        staged, target = self.staging / f"checkpoint-{step}", self.checkpoint(step)
        if target.exists():
            self._discard(target)
        _flush(staged)
        os.replace(staged, target)
        for old in self.checkpoint_steps()[:-keep]:
            self._discard(self.checkpoint(old))

    def _discard(self, folder: Path) -> None:
        """Delete a folder; half deleted, it no longer bears a checkpoint's name."""
        doomed = self.staging / f"old-{folder.name}"
        self.staging.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def publish(self, save: Callable[[Path], object]) -> None:
        """Let ``save(folder)`` write the finished model aside, then move it here, ``config.json`` last."""
        staged = self.staging / "final"
        shutil.rmtree(staged, ignore_errors=True)
        save(staged)
        _flush(staged)
        for file in sorted(staged.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, self.path / file.name)
        shutil.rmtree(self.staging, ignore_errors=True)

    def require_model(self) -> Path:
        """The folder of the finished model.

        Raises:
            CheckpointError: If there is none; the message says how to get one.
        """
        if self.finished:
            return self.path
        if not self.path.exists():
            raise CheckpointError(
                f"{self.path} does not exist: name a run's folder, or one of its checkpoints"
            )
        last = self.last_checkpoint()
        if last is not None:
            raise CheckpointError(
                f"{self.path} has no finished model: finish it with `{self.resume_command}`, or use {last}"
            )
        if self.config_file.is_file():
            raise CheckpointError(f"{self.path} has no model yet: train it with `{self.resume_command}`")
        raise CheckpointError(
            f"{self.path} holds no model: name the folder of a run, or one of its checkpoints"
        )


def program() -> str:
    """What to type for ``d3pm``: the path it was called by where its folder is not on the PATH."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "d3pm" and shutil.which("d3pm") is None else "d3pm"


def _flush(folder: Path) -> None:
    """Have the files on disk before their folder gets its name: a power cut must not leave empty ones."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
