"""Muon beside AdamW: who takes which step, one state for both, and runs that go on as if never stopped."""

import copy
import math

import pytest
import torch
from tiny import train, write_config
from torch import nn

from d3pm.errors import ConfigError
from d3pm.networks import TransformerDenoiser, UNetDenoiser
from d3pm.training import RunFolder, TrainingConfig
from d3pm.training.keeping import RAW_WEIGHTS
from d3pm.training.optimizers import hidden_matrices, muon_adamw

MUON = ("--training.optimizer", "muon")


def small():
    torch.manual_seed(0)
    return TransformerDenoiser(num_states=9, dim=8, depth=2, heads=2, time_conditioned=False)


def with_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def test_hidden_matrices_are_those_of_blocks():
    parts = ("attention.qkv", "attention.out", "mlp.hidden", "mlp.out")
    assert hidden_matrices(small()) == {f"blocks.{i}.{part}.weight" for i in range(2) for part in parts}
    unet = UNetDenoiser(size=8, in_channels=1, channels=(8, 16), attention_at=(4,), layers=1)
    found = hidden_matrices(unet)
    assert found
    assert all(parameter.dim() == 2 for name, parameter in unet.named_parameters() if name in found)
    assert not any("conv" in name or "norm" in name for name in found)


def test_each_takes_the_steps_it_would_take_alone():
    together, apart = with_gradients(small()), with_gradients(small())
    hidden = hidden_matrices(together)
    decayed = {name for name, parameter in together.named_parameters() if parameter.dim() == 2}
    optimizer = muon_adamw(together, 0.01, 0.03, 0.1, decayed)
    split = {True: [], False: [], None: []}
    for name, parameter in apart.named_parameters():
        split[None if name in hidden else name in decayed].append(parameter)
    muon = torch.optim.Muon(split[None], lr=0.03, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [
            {"params": split[True], "weight_decay": 0.1},
            {"params": split[False], "weight_decay": 0.0},
        ],
        lr=0.01,
        fused=True,
    )
    for step in range(3):
        for each in (together, apart):
            with_gradients(each, step)
        for each in (optimizer, muon, adamw):
            each.step()
    torch.testing.assert_close(
        dict(together.named_parameters()), dict(apart.named_parameters()), rtol=0, atol=0
    )


def test_an_update_of_muon_is_as_large_as_one_of_adamw_and_alike_in_all_directions():
    model = with_gradients(small())
    before = copy.deepcopy(model)
    muon_adamw(model, 0.01, None, 0.0, ()).step()
    old, new = dict(before.named_parameters()), dict(model.named_parameters())
    for name in hidden_matrices(model):
        update = (new[name] - old[name]).double()
        assert (
            0.1 < update.square().mean().sqrt() / 0.01 < 0.35
        )  # 0.2 of AdamW's first step, as its later steps are
        sizes = torch.linalg.svdvals(update)
        assert sizes[0] / sizes[-1] < 2.5
        before_it = torch.linalg.svdvals(model.get_parameter(name).grad.double())
        assert before_it[0] / before_it[-1] > sizes[0] / sizes[-1]


def test_a_schedule_scales_both_rates():
    model = with_gradients(small())
    optimizer = muon_adamw(model, 0.01, 0.04, 0.0, ())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert {(group["by"], group["lr"]) for group in optimizer.param_groups} == {
        ("adamw", 0.005),
        ("muon", 0.02),
    }
    assert schedule.get_last_lr()[0] == 0.005  # the one that logs show


def test_its_state_goes_on_bit_by_bit(tmp_path):
    def steps(model, optimizer, numbers):
        for number in numbers:
            with_gradients(model, number)
            optimizer.step()

    def made(model):
        return muon_adamw(model, 0.01, 0.02, 0.1, hidden_matrices(model))

    straight, stopped = small(), small()
    whole, first = made(straight), made(stopped)
    steps(straight, whole, range(4))
    steps(stopped, first, range(2))
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    second = made(stopped)
    second.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    steps(stopped, second, range(2, 4))
    torch.testing.assert_close(straight.state_dict(), stopped.state_dict(), rtol=0, atol=0)
    assert len(second.state) == len(list(stopped.parameters()))


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="no matrices inside a list of blocks: take adamw"):
        muon_adamw(nn.Linear(3, 3), 0.01, None, 0.0, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"muon_learning_rate": 0.01}, "leave it null, optimizer is adamw"),
        (
            {"muon_learning_rate": 0.0, "optimizer": "muon"},
            "muon_learning_rate is 0.0: give a number above 0",
        ),
        (
            {"optimizer": "muon", "sharded": True},
            "needs whole matrices, but training.sharded is true: take adamw",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TrainingConfig(**options)
    assert "\n" not in str(caught.value)


def test_a_run_with_it_learns_and_resumes_bit_by_bit(tmp_path):
    config = write_config(tmp_path, max_steps=6, save_every=3, eval_every=6, keep_checkpoints=3)
    whole, halves = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "halves")
    assert train(config, whole.path, *MUON) == 0
    assert train(config, halves.path, *MUON) == 0
    halves.unpublish()
    for leaving in halves.checkpoints.glob("checkpoint-6*"):
        leaving.rename(tmp_path / leaving.name)
    assert halves.checkpoint_steps() == [3]
    assert train(config, halves.path, *MUON, "--resume") == 0
    one, other = (
        torch.load(folder.checkpoint(6) / RAW_WEIGHTS, weights_only=True) for folder in (whole, halves)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    saved = torch.load(whole.checkpoint(6) / "optimizer.pt", weights_only=True)
    assert {group["by"] for group in saved["param_groups"]} == {"adamw", "muon"}
    assert all(math.isfinite(value.double().sum()) for value in one.values())
