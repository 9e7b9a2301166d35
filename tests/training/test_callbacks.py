"""Stopping on a signal, where several processes must agree."""

from types import SimpleNamespace

import torch

from d3pm.training.callbacks import ASK_EVERY, StopOnSignal


def test_processes_ask_each_other_at_the_same_few_steps(monkeypatch):
    """Another process was asked to stop: this one hears of it at the next step they share."""
    asked = []

    def all_reduce(flag, op):
        asked.append(int(flag))
        flag.fill_(1)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    stop, args = StopOnSignal(), SimpleNamespace(world_size=2, device="cpu")
    for step in range(1, ASK_EVERY + 1):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        stop.on_step_end(args, SimpleNamespace(global_step=step), control)
        assert control.should_save == control.should_training_stop == (step == ASK_EVERY)
    assert asked == [0]


def test_one_process_stops_at_once():
    stop, args = StopOnSignal(), SimpleNamespace(world_size=1)
    stop.received = 2
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(args, SimpleNamespace(global_step=3), control)
    assert control.should_save
    assert control.should_training_stop
