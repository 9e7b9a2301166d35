"""The loop is that of ``transformers.Trainer``; here stands only what diffusion and honesty add to it.

* Evaluation is a report on held-out data under the averaged weights (the bound, an accuracy), not a loss.
* A checkpoint loads as a model (averaged weights), has the raw ones beside it, and appears only when whole.
* Everything random in a step comes from torch's global generator, which a checkpoint restores: a resumed run
  follows the curve of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.data import Dataset, default_collate
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from d3pm.errors import CheckpointError, ConfigError
from d3pm.model import DiffusionModel
from d3pm.training.callbacks import FollowWeights, Progress, Report, StopOnSignal
from d3pm.training.config import TrainingConfig
from d3pm.training.ema import EMA
from d3pm.training.run import RunFolder

RAW_WEIGHTS = "raw_weights.pt"
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
        logging.disable_progress_bar()  # of writing files; callbacks.Progress is the bar
        super().__init__(
            model=model,
            args=training_arguments(config, folder),
            train_dataset=train,
            eval_dataset=train,  # unused: `evaluate` below asks `judge`
            data_collator=default_collate,
            callbacks=[self.progress, self.stop],
        )
        self.model_accepts_loss_kwargs = (
            False  # our loss is a mean: where there are `labels`, they are not counted
        )
        self.remove_callback(PrinterCallback)
        if "tensorboard" in config.report_to:
            curves = TensorBoardCallback()
            curves.logging_dir = str(folder.logs)
            self.add_callback(curves)
        self.ema = EMA(model, config.ema_decay)
        self.add_callback(FollowWeights(self.ema))
        if config.compile:
            model.network.compile()
        self._clock = (time.perf_counter(), 0)

    def fit(self) -> bool:
        """Train from the newest whole checkpoint to ``max_steps`` and leave the model in the run's folder.

        Returns:
            Whether the end was reached; False if a signal asked to stop before, and a checkpoint was saved.
        """
        if self.args.should_save:
            self.folder.sweep()
        self.accelerator.wait_for_everyone()
        torch.manual_seed(self.config.seed + self.args.process_index)  # processes must not share their noise
        done = max(self.folder.checkpoint_steps(), default=0)
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
        if self.args.should_save:
            self.folder.publish(self.ema.model.save_pretrained)
        return True

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What the averaged weights are worth on held-out data."""
        started = time.perf_counter()
        with self.accelerator.autocast():
            report = self.judge(self.ema.model)
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
        super()._save_checkpoint(model, trial)  # into folder.staging
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.folder.commit(self.state.global_step, keep=self.config.keep_checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            self.ema.model.save_pretrained(folder)
            torch.save(self.diffusion.state_dict(), folder / RAW_WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        with _readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model=self.ema.model)
            raw = torch.load(
                Path(resume_from_checkpoint) / RAW_WEIGHTS, map_location="cpu", weights_only=True
            )
            self.diffusion.load_state_dict(raw)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise CheckpointError(
            f"checkpoint {checkpoint} cannot be read ({type(error).__name__}: {reason}): delete it and "
            "resume from the one before"
        ) from error


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
        dataloader_num_workers=config.num_workers,
        dataloader_drop_last=True,
        dataloader_pin_memory=here.gpu,
        remove_unused_columns=False,
    )
    args._n_gpu = min(args.n_gpu, 1)  # one device a process; torchrun starts more
    return args
