"""What watches a training: the moving average, the progress bar, and signals that ask it to stop."""

import os
import signal
import sys
import threading
import time
from typing import Any, Protocol

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerState

from d3pm.training.ema import EMA

ASK_EVERY = 3.0
"""Seconds between two times that several processes ask each other whether to stop: ``torchrun`` waits for 30."""
MOST_STEPS = 100
"""As many steps at most: later ones may take longer."""
PASSED_ON = 2.0
"""Seconds in which a signal is taken for the first one, passed on by ``torchrun``."""


class Report(Protocol):
    """What a model is worth on held-out data, as :class:`d3pm.evaluation.Report` says it."""

    def as_dict(self) -> dict[str, float]:
        """Name to number."""

    def headline(self, unit: str) -> str:
        """The one number to look at, in words."""


class FollowWeights(TrainerCallback):
    """Update the moving average after every optimizer step."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        """Called between the optimizer's step and the count of it."""
        self.ema.update(model, state.global_step)


class Progress(TrainerCallback):
    """One bar: the training loss, the last report on held-out data, the speed, time left."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.bar = tqdm(disable=True)
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Open the bar where a resumed run stands."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.3 if sys.stderr.isatty() else 30,  # a log file needs no moving picture
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """One step more."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Show the loss and the speed beside the bar."""
        logs = logs or {}
        if "loss" in logs:
            bits = logs.get("bits_per_dim")
            self.shown["loss"] = f"{logs['loss']:.3f}" if bits is None else f"{bits:.3f} bits/{self.unit}"
            self.shown["speed"] = speed(logs)
        self.bar.set_postfix(self.shown, refresh=False)

    def held_out(self, report: Report, state: TrainerState) -> None:
        """Show the report's headline beside the bar, and on a line of its own."""
        self.shown["held-out"] = report.headline(self.unit)
        if state.is_world_process_zero:
            self.bar.write(f"step {state.global_step}: held-out {self.shown['held-out']}", file=sys.stderr)


def speed(logs: dict[str, Any]) -> str:
    """Tokens a second for rows of them, else examples.

    >>> speed({"examples_per_second": 12.5})
    '12.5 examples/s'
    """
    if "tokens_per_second" in logs:
        return f"{logs['tokens_per_second'] / 1000:.1f}k tokens/s"
    return f"{logs['examples_per_second']:.1f} examples/s"


class StopOnSignal(TrainerCallback):
    """On the first Ctrl-C or SIGTERM finish the step, save a checkpoint and stop; a second one stops at once.

    ``torchrun`` passes on what the terminal has told all processes already: what comes with the first signal is part of
    it. Several processes ask each other every few seconds, and stop at the same step.

    ``received`` is the number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._since, self._last_asked, self._ask_at = 0.0, (time.monotonic(), 0), 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Listen (Python lets only the main thread do so)."""
        self._last_asked, self._ask_at = (time.monotonic(), state.global_step), state.global_step + 1
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
            }

    def _note(self, number: int, frame: object) -> None:
        now, passed_on = time.monotonic(), PASSED_ON if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        if self.received is None:
            self.received, self._since = number, now
        elif now - self._since >= passed_on:
            self.restore()
            signal.raise_signal(number)

    def _asked(self, args, step: int) -> bool:
        """Whether any process was asked to stop: all have to stop, and to ask again, at the same step."""
        asked = self.received is not None
        if args.world_size == 1 or step < self._ask_at:
            return asked and args.world_size == 1
        (then, before), self._last_asked = self._last_asked, (time.monotonic(), step)
        pace = (self._last_asked[0] - then) / max(step - before, 1)
        heard = torch.tensor([float(asked), pace], device=args.device)
        torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX)
        asked, pace = heard.tolist()
        self._ask_at = step + max(1, min(int(ASK_EVERY / pace), MOST_STEPS))
        return bool(asked)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Between two steps everything is consistent: a good place to stop."""
        if self._asked(args, state.global_step):
            control.should_save = control.should_training_stop = True
