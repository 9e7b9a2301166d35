"""Stopping on a signal, where several processes must agree."""

from types import SimpleNamespace

import torch

from d3pm.training import callbacks
from d3pm.training.callbacks import ASK_EVERY, StopOnSignal


def test_processes_ask_each_other_at_the_same_few_steps(monkeypatch):
    """Steps of half a second here and of one in the other process, which is asked to stop in the meantime."""
    clock, asked_at, stopped_at = [0.0], [], []

    def all_reduce(heard, op):
        assert op == torch.distributed.ReduceOp.MAX
        asked_at.append(step)
        heard.copy_(torch.maximum(heard, torch.tensor([float(step > 4), 1.0])))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    stop, args = StopOnSignal(), SimpleNamespace(world_size=2, device="cpu")
    stop.on_train_begin(args, SimpleNamespace(global_step=0), None)
    try:
        for step in range(1, 8):
            clock[0] += 0.5
            control = SimpleNamespace(should_save=False, should_training_stop=False)
            stop.on_step_end(args, SimpleNamespace(global_step=step), control)
            if control.should_save and control.should_training_stop:
                stopped_at.append(step)
    finally:
        stop.restore()
    assert asked_at == [1, 1 + ASK_EVERY, 1 + 2 * ASK_EVERY]
    assert stopped_at == [1 + 2 * ASK_EVERY]


def test_one_process_stops_at_once():
    stop, args = StopOnSignal(), SimpleNamespace(world_size=1)
    stop.received = 2
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(args, SimpleNamespace(global_step=3), control)
    assert control.should_save
    assert control.should_training_stop
