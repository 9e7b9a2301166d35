"""Losses taken from hidden states are those taken from logits: values, gradients, and what is never computed."""

import math
import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

from d3pm import AbsorbingTransition, DiscreteDiffusion, MarginalTransition, UniformTransition
from d3pm import deferred as module
from d3pm.deferred import capacity_for, piece_size
from d3pm.discrete.continuous import ContinuousTimeBound
from d3pm.draws import Share
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import (
    AuxiliaryBound,
    CrossEntropy,
    Hybrid,
    VariationalBound,
    stratified,
    vlb_estimate,
)
from d3pm.projection import project
from d3pm.time_sampling import ImportanceTimes, UniformTimes
from d3pm.transitions import MatrixTransition

K, T = 40, 20


def kernels():
    frequencies = torch.arange(1.0, K + 1).double()
    return [
        AbsorbingTransition(num_states=K, num_steps=T),
        AbsorbingTransition(num_states=K, num_steps=T, mask_index=3),
        UniformTransition(num_states=K, num_steps=T),
        MarginalTransition(frequencies / frequencies.sum(), num_steps=T),
        MatrixTransition.example(K, T),
    ]


def objectives():
    bound = VariationalBound()
    return [
        bound,
        CrossEntropy(),
        AuxiliaryBound(0.01),
        Hybrid(bound, CrossEntropy(), 0.1),
        UniformTimes(bound),
        ImportanceTimes(bound, T),
    ]


PROCESSES = [DiscreteDiffusion(kernel, form) for kernel in kernels() for form in ("d3pm", "mixture")]


def network_and_twin():
    """The same network twice in float64; the second one always multiplies out."""
    torch.manual_seed(0)
    network = TransformerDenoiser(num_states=K, dim=16, depth=1, heads=2).double()
    nn.init.normal_(network.head.weight, std=0.3)
    nn.init.normal_(network.head.bias, std=0.3)
    assert network.defers
    return network, lambda x_t, t, **cond: network(x_t, t, **cond)


def data(process, rows=6, length=7):
    x0 = torch.randint(K - 1, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = process.transition.absorbing_state
    return x0 if mask is None or mask == K - 1 else torch.where(x0 == mask, K - 1, x0)


def losses_and_gradients(objective, process, network, parameters, x0, **cond):
    losses = objective(process, network, x0, generator=torch.Generator().manual_seed(2), **cond)
    return losses, torch.autograd.grad((losses * torch.arange(1, len(x0) + 1)).sum(), parameters)


@pytest.fixture(params=[1, 200, 2**24], ids=["singly", "in pieces", "at once"])
def piece(request, monkeypatch):
    monkeypatch.setattr(module, "PIECE", request.param)
    monkeypatch.setattr(module, "piece_size", lambda k, dim, entries: max(1, request.param // k))


@pytest.mark.parametrize(
    "process", PROCESSES, ids=lambda p: f"{type(p.transition).__name__}-{p.reverse_form}"
)
@pytest.mark.parametrize("objective", objectives(), ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("padded", [False, True], ids=["whole rows", "padded rows"])
def test_the_loss_is_that_of_the_logits(process, objective, padded, monkeypatch):
    monkeypatch.setattr(module, "piece_size", lambda *_: 5)
    network, plain = network_and_twin()
    x0, parameters = data(process), list(network.parameters())
    cond = {"attention_mask": (torch.arange(7) < torch.arange(2, 8)[:, None]).long()} if padded else {}
    if isinstance(objective, nn.Module):
        objective.eval()  # it must not remember
    ours = losses_and_gradients(objective, process, network, parameters, x0, **cond)
    slow = losses_and_gradients(objective, process, plain, parameters, x0, **cond)
    torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)
    assert float(slow[0].detach().abs().sum()) > 0


@pytest.mark.parametrize("process", PROCESSES[::2][:2], ids=["last state", "another state"])
def test_pieces_of_any_size_give_the_same(process, piece):
    network, plain = network_and_twin()
    x0, parameters = data(process), list(network.parameters())
    for objective in (VariationalBound(), ContinuousTimeBound()):
        ours = losses_and_gradients(objective, process, network, parameters, x0)
        slow = losses_and_gradients(objective, process, plain, parameters, x0)
        torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES[::2], ids=lambda p: type(p.transition).__name__)
def test_fixed_shapes_give_the_same(process, monkeypatch):
    """What a device does, on the CPU: as many entries are taken as there may be, not as there are."""
    monkeypatch.setattr(module, "_fixed", lambda doubt: True)
    network, plain = network_and_twin()
    x0, parameters = data(process, rows=32), list(network.parameters())
    for objective in (AuxiliaryBound(), UniformTimes(VariationalBound())):
        ours = losses_and_gradients(objective, process, network, parameters, x0)
        slow = losses_and_gradients(objective, process, plain, parameters, x0)
        torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)


def test_more_in_doubt_than_fit_is_no_number_rather_than_a_wrong_one(monkeypatch):
    monkeypatch.setattr(module, "_fixed", lambda doubt: True)
    process, (network, _) = PROCESSES[0], network_and_twin()
    x0, t = data(process), torch.full((6,), T)
    loss = lambda output, x0, x_t, t: CrossEntropy().at(process, output, x0, x_t, t)  # noqa: E731
    x_t, output = process.q_sample(x0, t), network(x0, t, defer=True)
    whole = module.piecewise(loss, output, x0, x_t, t, x_t == K - 1, capacity=42)
    assert bool(whole.isfinite().all())
    assert bool(module.piecewise(loss, output, x0, x_t, t, x_t == K - 1, capacity=41).isnan().all())


def test_a_kernel_of_matrices_is_not_asked_entry_by_entry():
    """It would take a matrix (K, K) for each entry."""
    network, _ = network_and_twin()
    deferring = {type(p.transition).__name__: module.may_defer(p, network) for p in PROCESSES}
    assert deferring.pop("MatrixTransition") is False
    assert all(deferring.values())


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 30, 128])
def test_evenly_spread_times_never_need_more_than_the_capacity(batch):
    process = DiscreteDiffusion(AbsorbingTransition(num_states=5, num_steps=1000))
    assert process.doubt == pytest.approx(0.5, abs=1e-3)
    x0, generator = torch.zeros(batch, 64, dtype=torch.int64), torch.Generator().manual_seed(0)
    room = capacity_for(process.doubt, batch, x0.numel())
    counts = []
    for _ in range(300):
        t = 1 + (stratified(x0, generator) * 1000).long()
        counts.append(int((process.q_sample(x0, t, generator) == 4).sum()))
    assert max(counts) <= room <= x0.numel()
    if batch == 128:
        assert room <= 0.61 * x0.numel()


@pytest.mark.parametrize(("batch", "rows"), [(128, 8), (96, 32), (30, 10), (1552, 16), (1675, 25)])
def test_nor_do_the_times_of_a_part_of_a_batch(batch, rows):
    process = DiscreteDiffusion(AbsorbingTransition(num_states=5, num_steps=1000))
    x0, room = torch.zeros(rows, 64, dtype=torch.int64), capacity_for(process.doubt, rows, rows * 64)
    for seed in range(40):
        for first in range(0, batch, rows)[:8]:
            share = Share(seed, first, rows, batch)
            t = 1 + (stratified(x0, share) * 1000).long()
            assert int((process.q_sample(x0, t, share) == 4).sum()) <= room


def test_only_masked_entries_reach_the_vocabulary(monkeypatch):
    process, (network, _) = PROCESSES[0], network_and_twin()
    multiplied = []
    logits = module.Projection.logits

    def counting(self):
        multiplied.append(len(self.hidden))
        return logits(self)

    monkeypatch.setattr(module.Projection, "logits", counting)
    monkeypatch.setattr(network.head, "forward", lambda *_: pytest.fail("all entries were multiplied out"))
    x0 = data(process)
    VariationalBound()(process, network, x0, generator=torch.Generator().manual_seed(2))
    _, x_t = VariationalBound().draw(process, x0, torch.Generator().manual_seed(2))
    assert sum(multiplied) == int((x_t == K - 1).sum()) < x0.numel()


def test_the_held_out_bound_is_the_same():
    for process in PROCESSES[::2]:
        network, plain = network_and_twin()
        x0 = data(process)
        bounds = [
            vlb_estimate(process, each, x0, num_times=4, generator=torch.Generator().manual_seed(3)).total
            for each in (network, plain)
        ]
        torch.testing.assert_close(*bounds, rtol=1e-10, atol=1e-12)


def test_a_head_is_rounded_as_autocast_would_have():
    head, hidden = nn.Linear(8, 50), torch.randn(2, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        later, now = project(hidden, head), head(hidden)
    assert now.dtype == torch.bfloat16
    torch.testing.assert_close(later.logits(), now, rtol=0, atol=0)
    assert torch.equal(project(hidden, head).logits(), head(hidden))


def test_pieces_are_as_large_as_the_hidden_states_allow():
    assert piece_size(50257, 768, 16384) == max(2**24 // 50257, 16384 * 768 // 50257)
    assert piece_size(2**30, 8, 10) == 1


MEASURE = """
import resource, sys, torch
from d3pm import {kernel}, DiscreteDiffusion
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import VariationalBound
torch.manual_seed(0)
process = DiscreteDiffusion({kernel}(num_states=50257, num_steps=1000))
network = TransformerDenoiser(num_states=50257, dim=16, depth=1, heads=2, time_conditioned=False)
torch.nn.init.normal_(network.head.weight, std=0.3)
x0 = torch.randint(50256, ({batch}, 1024))
ask = network if sys.argv[1] == "deferred" else lambda x_t, t, **cond: network(x_t, t, **cond)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss = VariationalBound()(process, ask, x0, generator=torch.Generator().manual_seed(0)).sum() / x0.numel()
loss.backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, loss.item(), network.head.weight.grad.norm().item())
"""


@pytest.mark.parametrize("kernel", ["AbsorbingTransition", "UniformTransition"])
def test_peak_memory_is_a_quarter_at_most(kernel):
    """At K = 50,257 and rows of 1,024: what a loss and its gradient need beyond what was there, in a process each."""

    def measured(which):
        program = MEASURE.format(kernel=kernel, batch=2)
        made = subprocess.run(
            [sys.executable, "-c", program, which], capture_output=True, text=True, check=True
        )
        peak, loss, gradient = made.stdout.split()
        return int(peak), float(loss), float(gradient)

    ours, plain = measured("deferred"), measured("plain")
    assert ours[1:] == pytest.approx(plain[1:], rel=1e-5)
    assert math.isfinite(ours[1])
    assert 4 * ours[0] <= plain[0], (ours, plain, resource.getpagesize())


def test_a_row_in_which_nothing_counts_leaves_no_gap_in_what_is_remembered():
    process, (network, _) = PROCESSES[0], network_and_twin()
    objective, mask = ImportanceTimes(VariationalBound(), T), torch.ones(6, 7, dtype=torch.int64)
    mask[2] = 0
    objective(process, network, data(process), attention_mask=mask)
    assert bool(objective.losses.isfinite().all())
