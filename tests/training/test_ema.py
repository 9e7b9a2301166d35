"""The moving average against its definition."""

import torch
from torch import nn

from d3pm.training.ema import EMA


def test_it_follows_the_recursion():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.7)
    average = model.weight.detach().clone()
    for step in range(30):
        nn.init.normal_(model.weight)
        ema.update(model, step)
        decay = min(0.7, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.model.weight, average)


def test_decay_zero_is_the_model_itself():
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.0)
    nn.init.normal_(model.weight)
    ema.update(model, 5)
    assert torch.equal(ema.model.weight, model.weight)


def test_it_takes_no_gradient_and_is_never_in_training_mode():
    ema = EMA(nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train(), decay=0.9)
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not any(m.training for m in ema.model.modules())


def test_constants_are_left_alone():
    model = nn.Linear(3, 2)
    model.constants = nn.BatchNorm1d(2)
    ema = EMA(model, decay=0.9)
    before = ema.model.constants.running_mean._version
    ema.update(model, 0)
    assert ema.model.constants.running_mean._version == before


def test_buffers_are_copied():
    model = nn.BatchNorm1d(2)
    ema = EMA(model, decay=0.9)
    model(torch.randn(8, 2) + 5)
    ema.update(model, 0)
    assert torch.equal(ema.model.running_mean, model.running_mean)
