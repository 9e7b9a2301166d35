"""What a training writes into its run's folder and reads back: everything needed to go on as if it had not stopped."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer
from transformers.trainer_pt_utils import nested_gather

from d3pm.data.feed import StepFeed
from d3pm.errors import CheckpointError, D3PMError
from d3pm.model import DiffusionModel
from d3pm.parallel import everyone
from d3pm.training.config import TrainingConfig
from d3pm.training.data_position import load_position, save_position
from d3pm.training.ema import EMA
from d3pm.training.run import RunFolder
from d3pm.training.sharded import gathered, load_optimizer, load_weights, whole_weights

R = TypeVar("R")
AVERAGES, RAW_WEIGHTS = "model*.safetensors", "raw_weights.pt"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
UNLOGGED = "unlogged_loss.json"


class KeepingTrainer(Trainer):
    """A Trainer whose checkpoints are whole and tell nothing of how many processes wrote them.

    Attributes:
        diffusion: What is trained.
        config: How.
        folder: Where the run keeps its things.
        ema: The averaged weights, as which a checkpoint loads.
        sharded: Whether weights are in parts.
        feed: What deals a stream, where the data is one.
    """

    diffusion: DiffusionModel
    config: TrainingConfig
    folder: RunFolder
    ema: EMA[DiffusionModel]
    sharded: bool
    feed: StepFeed | None = None

    def _save_checkpoint(self, model, trial) -> None:
        loss = nested_gather(self._tr_loss, self.args.parallel_mode).mean().item()
        unlogged = {"loss": loss, "since": self._globalstep_last_logged}
        self._kept = (
            self._whole_states()
        )  # before anything is written: nobody waits for one that cannot write
        name = f"checkpoint-{self.state.global_step}"
        self._write(name, lambda: self._stage(model, trial, unlogged))
        self._kept = {}
        self._write(name, self._commit)

    def _write(self, what: str, act: Callable[[], object]) -> None:
        """Have every process do its share of writing ``what``; where one cannot, all say why, and no half is left."""
        keep = self.config.keep_checkpoints

        def share() -> None:
            with self.folder.writing(what, keep):
                act()

        try:
            together(share)
        except CheckpointError:
            if self.args.should_save:
                self.folder.sweep()
            raise

    def _whole_states(self) -> dict[str, Any]:
        """The contents of files by name; whole in process 0, and all processes must call this."""
        assert self.optimizer is not None
        return {
            AVERAGES: whole_weights(self.ema.model),
            RAW_WEIGHTS: whole_weights(self.diffusion),
            OPTIMIZER: gathered(self.optimizer.state_dict()),
        }

    def _stage(self, model, trial, unlogged: dict[str, float]) -> None:
        """Write this process's share of a checkpoint into ``folder.staging``."""
        super()._save_checkpoint(model, trial)
        staged = self.folder.staging / f"checkpoint-{self.state.global_step}"
        if self.feed is not None:
            save_position(self.feed, staged)
        if self.args.should_save:
            (staged / UNLOGGED).write_text(json.dumps(unlogged))

    def _commit(self) -> None:
        """Make a checkpoint of what all processes have staged."""
        if self.args.should_save:
            self.folder.commit(self.state.global_step, self.config.keep_checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            self.ema.model.save_pretrained(folder, state_dict=self._kept[AVERAGES])
            torch.save(self._kept[RAW_WEIGHTS], folder / RAW_WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            assert self.lr_scheduler is not None
            torch.save(self._kept[OPTIMIZER], Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The last of what is loaded, after the loop has forgotten the losses since the last line in the log."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / UNLOGGED).is_file():
            unlogged = json.loads((Path(checkpoint) / UNLOGGED).read_text())
            self._tr_loss += unlogged["loss"]
            self._globalstep_last_logged = unlogged["since"]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        folder = Path(resume_from_checkpoint)
        with _readable(resume_from_checkpoint):
            averages: dict[str, Tensor] = {}
            for file in folder.glob(AVERAGES):
                averages |= load_file(file)
            load_weights(self.ema.model, averages)
            load_weights(self.diffusion, self._read(folder / RAW_WEIGHTS))

    def _read(self, file: Path) -> Any:
        """What ``torch.save`` wrote; a process that keeps parts leaves on disk what it does not look at."""
        return torch.load(file, map_location="cpu", mmap=self.sharded, weights_only=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        with _readable(checkpoint):
            load_optimizer(self.optimizer, self._read(Path(checkpoint) / OPTIMIZER))
            self.lr_scheduler.load_state_dict(self._read(Path(checkpoint) / SCHEDULER))
        if self.feed is not None:
            load_position(self.feed, Path(checkpoint))


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    try:
        yield
    except D3PMError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise CheckpointError(
            f"checkpoint {checkpoint} cannot be read ({type(error).__name__}: {reason}): move it away to resume "
            "from the one before"
        ) from error


def together(act: Callable[[], R]) -> list[R]:
    """``act`` in every process: what each one got; an error of one is raised in all."""
    return everyone().joined(act() for _ in range(1))
