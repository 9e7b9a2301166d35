"""The loop is that of ``transformers.Trainer``; here stands only what diffusion and honesty add to it.

* Evaluation is a report on held-out data under the averaged weights (the bound, an accuracy), not a loss.
* A checkpoint loads as a model (averaged weights), has the raw ones beside it, and appears only when whole.
* Everything random in a step comes from the seed, the number of the step and the place in its batch: a resumed run
  follows the curve of an uninterrupted one, and times, noise and data are the same in one process or several, in
  one piece or in micro-batches. What a network draws by itself (dropout, labels left out) is fixed, but not the same.
"""

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, default_collate
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from d3pm.data.feed import Portion, StepFeed, StreamedRows
from d3pm.draws import Share, mixed
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.training.arguments import training_arguments
from d3pm.training.callbacks import FollowWeights, Progress, Report, StopOnSignal
from d3pm.training.config import TrainingConfig
from d3pm.training.ema import EMA
from d3pm.training.keeping import KeepingTrainer, together
from d3pm.training.layers import compile_layers, recompute
from d3pm.training.optimizers import muon_adamw
from d3pm.training.run import RunFolder
from d3pm.training.sharded import settle, shard, whole_weights


class DiffusionTrainer(KeepingTrainer):
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
        if self.accelerator.ddp_handler is not None:  # gradients lie where they are summed, and nowhere else
            self.accelerator.ddp_handler.gradient_as_bucket_view = True
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
