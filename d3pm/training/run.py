"""The folder of a run: who may write into it, and which of its checkpoints are whole.

::

    RUN/config.yaml                    the full configuration, as run
    RUN/checkpoints/checkpoint-500/    a model, and everything needed to go on training it
    RUN/checkpoints/damaged-400/       what a checkpoint became that no longer is what was written
    RUN/checkpoints/.staging/          being written or being deleted: never read
    RUN/logs/                          curves
    RUN/config.json, model.safetensors, …   the finished model

A checkpoint is written in the staging folder, gets a manifest of its files, and is renamed once all of it is on
disk: a folder named ``checkpoint-N`` is whole whenever the process was killed or the power failed. What happens
to it later, to the disk or by a hand, the manifest tells.
"""

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from d3pm.errors import CheckpointError, ConfigError
from d3pm.training.checkpoint import MANIFEST, damage, seal, size, sync


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
        self._damage: dict[int, str | None] = {}  # by step, of checkpoints that were read through

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
        return f"{launcher()} train --config {self.config_file} --output {self.path} --resume"

    def check_may_write(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that is in use, unless told what to do with it; touches nothing.

        Raises:
            ConfigError: If the folder is used and neither flag is given, or the flags cannot be followed.
        """
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite contradict each other: give one of them")
        if not self.used:
            if resume:
                raise ConfigError(
                    f"--output {self.path} holds no run to resume: leave --resume out to start one, or give "
                    "--resume auto to go on only where there is something"
                )
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
        if resume and self.finished and not self.checkpoint_steps():
            raise ConfigError(
                f"--output {self.path} holds a finished model, but no checkpoint to go on from: start afresh with "
                "--overwrite, which deletes the model, or name another folder"
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

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, or None; its files are read through once."""
        if step not in self._damage:
            self._damage[step] = damage(self.checkpoint(step))
        return self._damage[step]

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is as it was written, or None if there is none of any kind.

        Raises:
            CheckpointError: If there are some, and all are damaged.
        """
        step = self.last_step()
        return self.checkpoint(step) if step else None

    def last_step(self) -> int:
        """The step of :meth:`last_checkpoint`; 0 if there is none of any kind."""
        steps = self.checkpoint_steps()
        whole = next((step for step in reversed(steps) if self.damage(step) is None), 0)
        if steps and not whole:
            found = ", ".join(f"checkpoint-{step}: {self.damage(step)}" for step in reversed(steps))
            raise CheckpointError(
                f"no checkpoint in {self.checkpoints} is whole ({found}): bring one back from a copy, or start "
                "afresh with --overwrite"
            )
        return whole

    def recover(self, keep: int) -> int:
        """Make ready to go on: the step of the newest whole checkpoint, 0 if there is none of any kind.

        What a killed process left half done is deleted. Damaged checkpoints newer than that one are set aside, and
        named on stderr. Then the oldest beyond ``keep`` go: who is short of room lowers it before he resumes.

        Raises:
            CheckpointError: If there are checkpoints, and all are damaged.
        """
        last = self.last_step()
        self.sweep()
        for step in [step for step in self.checkpoint_steps() if step > last]:
            aside = self._set_aside(step)
            print(
                f"{self.checkpoint(step)} is damaged ({self.damage(step)}): kept as {aside.name}, going on from "
                f"checkpoint-{last}",
                file=sys.stderr,
            )
        if (self.checkpoint(last) / MANIFEST).is_file():  # of another nobody knows before it is read
            self._rotate(keep)
        return last

    def sweep(self) -> None:
        """Delete what a killed process has left half done."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)

    def commit(self, step: int, keep: int) -> None:
        """Give the staged checkpoint, now complete, its name; let the oldest beyond ``keep`` go."""
        staged, target = self.staging / f"checkpoint-{step}", self.checkpoint(step)
        seal(staged)
        if target.exists():
            self._discard(target)
        os.replace(staged, target)
        sync(self.checkpoints)
        self._damage[step] = None
        self._rotate(keep)

    def _rotate(self, keep: int) -> None:
        for old in self.checkpoint_steps()[:-keep]:
            self._discard(self.checkpoint(old))

    def _set_aside(self, step: int) -> Path:
        names = (f"damaged-{step}{more}" for more in ("", *(f"-{again}" for again in range(2, 100))))
        aside = next(self.checkpoints / name for name in names if not (self.checkpoints / name).exists())
        os.replace(self.checkpoint(step), aside)
        return aside

    def _discard(self, folder: Path) -> None:
        """Delete a folder; half deleted, it no longer bears a checkpoint's name."""
        doomed = self.staging / f"old-{folder.name}"
        self.staging.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    @contextmanager
    def writing(self, what: str, keep: int) -> Iterator[None]:
        """Say in one line what came of it if ``what`` cannot be written; :meth:`sweep` takes the half of it away.

        Raises:
            CheckpointError: Names the reason, the newest whole checkpoint and the remedy.
        """
        try:
            yield
        except Exception as error:
            reason = not_written(error)
            if reason is None:
                raise
            last = self.last_checkpoint()
            raise CheckpointError(
                f"{what} could not be written in {self.checkpoints} ({reason}); "
                f"{f'{last.name} is the newest whole one' if last else 'there is no whole one yet'}: "
                f"{self._room(last)} or lower training.keep_checkpoints, now {keep}; then go on with "
                f"`{self.resume_command}`"
            ) from error

    def _room(self, last: Path | None) -> str:
        """What to do so that as much can be written as in the last checkpoint, or as was staged by now."""
        need = max(size(self.staging), size(last) if last else 0)
        missing = math.ceil((need - shutil.disk_usage(self.checkpoints).free) / 1e6)
        if missing > 0:
            return f"free {missing} MB"
        return f"see that files of {math.ceil(need / 1e6)} MB can be written there"

    def publish(self, save: Callable[[Path], object]) -> None:
        """Let ``save(folder)`` write the finished model aside, then move it here, ``config.json`` last."""
        staged = self.staging / "final"
        shutil.rmtree(staged, ignore_errors=True)
        save(staged)
        for path in staged.rglob("*"):
            sync(path)
        for file in sorted(staged.iterdir(), key=lambda file: file.name == "config.json"):
            sync(self.path)  # what was moved before
            os.replace(file, self.path / file.name)
        sync(self.path)
        shutil.rmtree(self.staging, ignore_errors=True)

    def require_model(self) -> Path:
        """The folder of the finished model.

        Raises:
            CheckpointError: If there is none; the message says how to get one.
        """
        if self.finished:
            # It may be a checkpoint, and somebody may have done without its optimizer.
            broken = damage(self.path, read=_loaded, all_there=False)
            if broken:
                raise CheckpointError(
                    f"{self.path} is damaged ({broken}): name another checkpoint of its run"
                )
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


def launcher() -> str:
    """What to type to start as many processes as this one is of."""
    here, all_of_them = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = f"--nnodes {all_of_them // here} " if all_of_them > here else ""
    return f"torchrun {nodes}--nproc-per-node {here} -m d3pm" if all_of_them > 1 else program()


def _loaded(name: str) -> bool:
    """Whether a file of a checkpoint is read where it serves as a model; the optimizer's, the largest, is not."""
    return not name.endswith(".pt")


def program() -> str:
    """What to type for ``d3pm``: the path it was called by where its folder is not on the PATH."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "d3pm" and shutil.which("d3pm") is None else "d3pm"


def not_written(error: Exception) -> str | None:
    """Why a file could not be written, if that is what went wrong: each library has its own way to say so.

    >>> not_written(OSError(28, "No space left on device", "model.safetensors"))
    'model.safetensors: No space left on device'
    >>> not_written(KeyError("weight"))
    """
    if isinstance(error, OSError):
        name = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
        return f"{name}{error.strerror or error}"
    text = str(error)
    if type(error).__name__ == "SafetensorError" and "I/O error" in text:
        return re.sub(r".*I/O error: | \(os error \d+\)", "", text)
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container|basic_ios", text):
        return "PyTorch could not write the whole file"
    return None
