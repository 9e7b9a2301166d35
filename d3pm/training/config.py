"""What a user may set about training, under names a user knows."""

import math
import os
from dataclasses import dataclass, field
from typing import Literal

import torch

from d3pm.errors import ConfigError

MAY_CHANGE_ON_RESUME = frozenset(
    {"max_steps", "eval_every", "eval_examples", "eval_times", "save_every", "keep_checkpoints", "log_every"}
    | {"micro_batch_size", "compile", "bf16", "sharded", "recompute", "num_workers", "report_to"}
)
"""Settings a resumed run may change: they say how long, how often and how fast, not what is learned."""

_POSITIVE = {
    "max_steps",
    "batch_size",
    "learning_rate",
    "eval_every",
    "eval_examples",
    "eval_times",
    "save_every",
}
_POSITIVE |= {"log_every", "keep_checkpoints"}
_NOT_NEGATIVE = ("seed", "warmup_steps", "weight_decay", "max_grad_norm", "num_workers")


@dataclass
class TrainingConfig:
    """How to train: length, step size, averaging, and how often to look.

    Attributes:
        max_steps: Optimizer steps in all.
        batch_size: Examples an optimizer step, over all devices.
        micro_batch_size: Examples a device sees at once; gradients are accumulated up to batch_size. null: no
            accumulation.
        optimizer: AdamW, or Muon for the matrices inside the network's blocks and AdamW for the rest.
        learning_rate: Peak learning rate of AdamW.
        muon_learning_rate: Peak learning rate of Muon, whose updates are as large as AdamW's at the same rate. null:
            that of AdamW.
        warmup_steps: Steps over which the learning rate rises linearly from 0.
        lr_schedule: What the learning rate does after the warm-up: stay, or fall to 0 at max_steps.
        weight_decay: Decoupled weight decay of matrices; biases and norms have none.
        max_grad_norm: Gradients are clipped to this norm; 0 turns clipping off.
        ema_decay: Decay of the moving average of the weights, which is what is evaluated and kept; 0 keeps
            the last weights instead.
        eval_every: Steps between evaluations on held-out data.
        eval_examples: Held-out examples, the same at every evaluation.
        eval_times: Times t drawn for each of them, the same at every evaluation.
        save_every: Steps between checkpoints.
        keep_checkpoints: How many of the newest checkpoints stay; 2 or more is wise.
        log_every: Steps between lines in the log.
        seed: Seeds the weights, the order of the data and the noise.
        compile: Compile the network with torch.compile: pays on GPUs, not on CPUs.
        bf16: Train in bfloat16 autocast. null: where the GPU has it. CPUs are always float32.
        sharded: Divide weights, gradients, optimizer state and averages among the processes (FSDP2), instead of
            keeping all of them in each.
        recompute: Compute what happens inside the network's layers again on the way back, instead of keeping it:
            less memory, a third more arithmetic.
        num_workers: Processes that load data; 0 loads it in the training process.
        report_to: Where the curves go, as transformers names them, e.g. [tensorboard] or [trackio].
    """

    max_steps: int = 1000
    batch_size: int = 64
    micro_batch_size: int | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float | None = None
    warmup_steps: int = 100
    lr_schedule: Literal["constant", "cosine", "linear"] = "cosine"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    eval_every: int = 500
    eval_examples: int = 128
    eval_times: int = 8
    save_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    seed: int = 0
    compile: bool = False
    bf16: bool | None = None
    sharded: bool = False
    recompute: bool = False
    num_workers: int = 0
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"training.{name} is {getattr(self, name)}: give a number above 0")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"training.{name} is {getattr(self, name)}: give 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay is {self.ema_decay}: give 0 <= ema_decay < 1")
        self._check_muon()
        micro = self.micro_batch_size
        if micro is not None and (micro < 1 or self.batch_size % micro):
            raise ConfigError(
                f"training.micro_batch_size is {micro}: give a divisor of batch_size, {self.batch_size}"
            )

    def _check_muon(self) -> None:
        rate, muon = self.muon_learning_rate, self.optimizer == "muon"
        if rate is not None and not (muon and rate > 0):
            remedy = "give a number above 0" if muon else f"leave it null, optimizer is {self.optimizer}"
            raise ConfigError(f"training.muon_learning_rate is {rate}: {remedy}")
        if muon and self.sharded:
            raise ConfigError(
                "training.optimizer is muon, which needs whole matrices, but training.sharded is true: take adamw"
            )

    def here(self) -> "Here":
        """What this machine makes of the settings.

        Raises:
            ConfigError: If a CPU is asked for bfloat16, the batch does not divide among the processes, or a
                tracker is unknown or not installed.
        """
        _check_trackers(self.report_to)
        gpu = torch.cuda.is_available()
        if self.bf16 and not gpu:
            raise ConfigError("training.bf16 is true but there is no GPU: leave it null, CPUs crawl in it")
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        micro = self.micro_batch_size or max(self.batch_size // processes, 1)
        self._check_divides(processes, self.micro_batch_size or 1)
        bf16 = gpu and torch.cuda.is_bf16_supported() if self.bf16 is None else self.bf16
        return Here(gpu, bf16, micro, accumulation=self.batch_size // (micro * processes))

    def _check_divides(self, processes: int, micro: int) -> None:
        """Refuse a batch of which processes, or micro-batches of them, would get unequal parts."""
        at_once = processes * micro
        if self.batch_size % at_once:
            micros = f", {micro} examples at once (training.micro_batch_size)" if micro > 1 else ""
            remedy = f"give {-(-self.batch_size // at_once) * at_once}, or another multiple of {at_once}"
            each, left = divmod(self.batch_size, processes)
            if not left:  # a run that is resumed may change how many at once, not how many in all
                fits = math.gcd(each, micro)
                remedy = f"set training.micro_batch_size to {fits}, or another divisor of {each}"
            raise ConfigError(
                f"training.batch_size is {self.batch_size}, which {processes} processes{micros} cannot share evenly: "
                f"{remedy}"
            )


def _check_trackers(names: list[str]) -> None:
    from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    here = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(
                f"training.report_to names {name}: choose from {', '.join(INTEGRATION_TO_CALLBACK)}"
            )
        if name not in here:
            raise ConfigError(
                f"training.report_to names {name}, which is not installed: install it, or give []"
            )


@dataclass(frozen=True)
class Here:
    """Settings as one process of this machine carries them out.

    Attributes:
        gpu: Whether there is one.
        bf16: Whether to train in bfloat16 autocast.
        micro_batch_size: Examples at once.
        accumulation: Micro-batches a step.
    """

    gpu: bool
    bf16: bool
    micro_batch_size: int
    accumulation: int
