"""The loop is that of ``transformers.Trainer``; here stands only what diffusion and honesty add to it.

* Evaluation is a report on held-out data under the averaged weights (the bound, an accuracy), not a loss.
* A checkpoint loads as a model (averaged weights), has the raw ones beside it, and appears only when whole.
* Everything random in a step comes from the seed, the number of the step and the place in its batch: a resumed run
  follows the curve of an uninterrupted one, and times, noise and data are the same in one process or several, in
  one piece or in micro-batches. What a network draws by itself (dropout, labels left out) is fixed, but not the same.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, default_collate
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import nested_gather
from transformers.utils import logging

from d3pm.data.feed import Portion, StepFeed, StreamedRows
from d3pm.draws import Share, mixed
from d3pm.errors import CheckpointError, ConfigError, D3PMError
from d3pm.model import DiffusionModel
from d3pm.parallel import everyone
from d3pm.training.callbacks import FollowWeights, Progress, Report, StopOnSignal
from d3pm.training.config import TrainingConfig
from d3pm.training.data_position import load_position, save_position
from d3pm.training.ema import EMA
from d3pm.training.layers import compile_layers, recompute
from d3pm.training.optimizers import muon_adamw
from d3pm.training.run import RunFolder
from d3pm.training.sharded import gathered, load_optimizer, load_weights, settle, shard, whole_weights

R = TypeVar("R")
AVERAGES, RAW_WEIGHTS = "model*.safetensors", "raw_weights.pt"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
UNLOGGED = "unlogged_loss.json"
LR_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


class DiffusionTrainer(Trainer):
    """Trains a :class:`~d3pm.model.DiffusionModel`.

    Args:
        model: The model; its ``forward`` returns the training loss in nats per dimension.
        config: How to train.
        folder: Where the run keeps its things.
        train: The training data, items ``{"x0": shape, ...}``.
        judge: Reports on a model by held-out data. It must not draw from torch's global generator.
        unit: What one dimension is called in the progress bar.
    """

    feed: StepFeed | None = None  # what deals a stream

    def __init__(
        self,
        model: DiffusionModel,
        config: TrainingConfig,
        folder: RunFolder,
        train: Dataset,
        judge: Callable[[DiffusionModel], Report],
        unit: str = "dim",
    ) -> None:
        self.diffusion, self.config, self.folder, self.judge = model, config, folder, judge
        self.stop, self.progress = StopOnSignal(), Progress(unit)
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # what it becomes is too new
        logging.disable_progress_bar()  # of writing files; callbacks.Progress is the bar
        args = training_arguments(config, folder)  # from here on processes know of each other
        self.ema = EMA(model, config.ema_decay)
        self.sharded = config.sharded and args.world_size > 1
        self._prepare_network(model.network, args.device)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=train,  # unused: `evaluate` below asks `judge`
            data_collator=default_collate,
            callbacks=[self.progress, self.stop],
        )
        self.model_accepts_loss_kwargs = True  # it divides by the count of a whole step, where there is one
        self.remove_callback(PrinterCallback)
        if "tensorboard" in config.report_to:
            curves = TensorBoardCallback()
            curves.logging_dir = str(folder.logs)
            self.add_callback(curves)
        self.ema.model.to(args.device)  # type: ignore[arg-type]
        self.add_callback(FollowWeights(self.ema))
        self._clock = (time.perf_counter(), 0)

    def _prepare_network(self, network: nn.Module, device: torch.device) -> None:
        """Have the network compute again, divide it and its averages, and compile it, as the config says."""
        if self.config.recompute:
            recompute(network)
        if self.sharded:
            shard(network, device)
            shard(self.ema.model.network, device)
        if self.config.compile:
            compile_layers(network) if self.sharded else network.compile()

    def _wrap_model(self, model, training: bool = True, dataloader=None):
        """What is sharded sums its gradients itself: it gets autocast, and no second wrapper for processes."""
        model = super()._wrap_model(model, training, dataloader)
        if self.sharded and training:
            model = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
            model._is_accelerate_prepared = True
        return model

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW, fused, or Muon and it together."""
        if self.optimizer is None and self.config.optimizer == "muon":
            model, config = model or self.model, self.config
            rates = config.learning_rate, config.muon_learning_rate
            decayed = self.get_decay_parameter_names(model)
            self.optimizer = muon_adamw(model, *rates, config.weight_decay, decayed)
        return super().create_optimizer(model)

    def fit(self) -> bool:
        """Train from the newest whole checkpoint to ``max_steps`` and leave the model in the run's folder.

        Returns:
            Whether the end was reached; False if a signal asked to stop before, and a checkpoint was saved.
        """
        keep = self.config.keep_checkpoints
        done, *_ = together(lambda: self.folder.recover(keep) if self.args.should_save else 0)
        last = str(self.folder.checkpoint(done)) if done else None
        if last is not None and done >= self.config.max_steps:
            self._load_from_checkpoint(last)
        else:
            self.folder.unpublish()
            try:
                self.train(resume_from_checkpoint=last)
            finally:
                self.stop.restore()
                self.progress.bar.close()
            if self.state.global_step < self.config.max_steps:
                return False
        save = partial(self.ema.model.save_pretrained, state_dict=whole_weights(self.ema.model))
        self._write(
            "the finished model", lambda: self.folder.publish(save) if self.args.should_save else None
        )
        return True

    def get_train_dataloader(self) -> Any:
        """Micro-batches of this process; those of a stream are dealt by the stream, which knows where it stands."""
        if not isinstance(self.train_dataset, StreamedRows):
            return super().get_train_dataloader()
        args = self.args
        args.ignore_data_skip = (
            True  # a stream goes on from its position, and nothing is read to be thrown away
        )
        portion = Portion(
            self.config.batch_size, args.per_device_train_batch_size, args.process_index, args.world_size
        )
        self.feed = StepFeed(self.train_dataset, portion, self.config.num_workers, args.device)
        return self.feed

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> RandomSampler:
        """Examples in random order, an epoch of whole batches: the last one is not cut short by micro-batches."""
        examples: Any = self.train_dataset if train_dataset is None else train_dataset
        size = self.config.batch_size
        return RandomSampler(examples, num_samples=len(examples) // size * size)

    def get_batch_samples(self, *args, **kwargs):
        """The micro-batches of a step, which begin to be counted."""
        self._micro_batch = 0
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model, inputs, *args, **kwargs) -> Tensor:
        """One micro-batch, under the noise of its place in the whole batch."""
        share = self._share()
        torch.default_generator.manual_seed(share.initial_seed())  # for what the network draws by itself
        if share.device.type == "cuda":
            torch.cuda.manual_seed(share.initial_seed())
        self._micro_batch += 1
        return super().training_step(model, {**inputs, "generator": share}, *args, **kwargs)

    def _share(self) -> Share:
        """The noise of the micro-batch at hand: the sampler deals micro-batches to the processes in turn."""
        rows = self.args.per_device_train_batch_size
        place = self._micro_batch * self.args.world_size + self.args.process_index
        seed = mixed(self.config.seed, self.state.global_step)
        return Share(seed, place * rows, rows, self.config.batch_size, self.args.device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """How many entries count in a whole step, in all processes; None where all do, and a mean will do."""
        if not any("attention_mask" in batch for batch in batch_samples):
            return None
        count = self.diffusion.objective.count
        counts = [count(batch["x0"], batch).sum() for batch in batch_samples]
        return self.accelerator.reduce(torch.stack(counts).sum().to(device))

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What the averaged weights are worth on held-out data."""
        started = time.perf_counter()
        with self.accelerator.autocast():
            report = self.judge(self.ema.model)
        settle(self.ema.model)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in report.as_dict().items()}
        self.progress.held_out(report, self.state)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._clock = (self._clock[0] + time.perf_counter() - started, self._clock[1])
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the speed, and bits where the loss is the bound, to a training log; stop where it is no number."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise ConfigError(
                    f"training.learning_rate is {self.config.learning_rate}: the loss was {logs['loss']} at "
                    f"step {self.state.global_step}; lower the rate or lengthen training.warmup_steps"
                )
            logs |= self._speed()
            if self.diffusion.objective.is_bound:
                logs["bits_per_dim"] = logs["loss"] / math.log(2)
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        """Examples seen by all devices a second since the last call, time spent evaluating apart; tokens of rows."""
        (then, step), self._clock = self._clock, (time.perf_counter(), self.state.global_step)
        examples = (self.state.global_step - step) * self.config.batch_size / (self._clock[0] - then)
        speed = {"examples_per_second": examples}
        if len(self.diffusion.shape) == 1:
            speed["tokens_per_second"] = examples * self.diffusion.shape[0]
        return speed

    def _init_training_state(self, max_steps, *args, **kwargs):
        state = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)  # a checkpoint's intervals must not outlive its config
        self._clock = (time.perf_counter(), self.state.global_step)
        return state

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


def training_arguments(config: TrainingConfig, folder: RunFolder) -> TrainingArguments:
    """Say :class:`TrainingConfig` in the words of ``transformers``."""
    here = config.here()
    args = TrainingArguments(
        output_dir=str(folder.staging),
        max_steps=config.max_steps,
        per_device_train_batch_size=here.micro_batch_size,
        gradient_accumulation_steps=here.accumulation,
        optim="adamw_torch_fused",
        learning_rate=config.learning_rate,
        lr_scheduler_type=LR_SCHEDULES[config.lr_schedule],
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not here.gpu,  # the tables are float64, which Apple's GPUs do not have
        bf16=here.bf16,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        report_to=[tracker for tracker in config.report_to if tracker != "tensorboard"] or "none",
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # tables are the same everywhere; so is what a loss remembers
        dataloader_num_workers=config.num_workers,
        dataloader_drop_last=True,
        dataloader_pin_memory=here.gpu,
        remove_unused_columns=False,
    )
    args._n_gpu = min(args.n_gpu, 1)  # one device a process; torchrun starts more
    return args
