"""Nothing in a training step makes the host wait for the device.

On the device ``meta`` a tensor has a shape and no values, so whatever would have to look at one raises: ``.item()``, a
branch on a tensor, indexing by booleans, a copy back to the CPU. Shapes, devices and dtypes are propagated as they are
on a GPU, so the same code runs as there: this holds the whole step to account where there is no GPU. Where there is
one, CUDA's own check does.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d3pm.discrete import DiscreteDiffusion
from d3pm.discrete.continuous import ContinuousTimeBound
from d3pm.gaussian import GaussianDiffusion, LearnedVarianceHybrid, SimpleError
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser, UNetDenoiser
from d3pm.objectives import AuxiliaryBound, CrossEntropy, Hybrid, VariationalBound
from d3pm.schedules import CosineSchedule
from d3pm.time_sampling import ImportanceTimes, UniformTimes
from d3pm.training.ema import EMA
from d3pm.transitions import (
    AbsorbingTransition,
    DiscretizedGaussianTransition,
    HierarchicalTransition,
    HybridTransition,
    MarginalTransition,
    UniformTransition,
)

K, T = 6, 12
FREQUENCIES = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], dtype=torch.float64)
KERNELS = {
    "absorbing": AbsorbingTransition(K, T),
    "uniform": UniformTransition(K, T),
    "marginal": MarginalTransition(FREQUENCIES, T),
    "hierarchical": HierarchicalTransition.example(K, T),
    "hybrid": HybridTransition.example(K, T),
    "dense": DiscretizedGaussianTransition.example(K, T),
}


class Still(TorchDispatchMode):
    """Refuses copies from one device to another; a number that is an operand is none."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = operation(*args, **kwargs)
        copies = operation.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if copies and isinstance(out, torch.Tensor):
            source = args[1] if operation.overloadpacket is torch.ops.aten.copy_ else args[0]
            assert source.device == out.device, f"a copy from {source.device} to {out.device}"
        return out


class Step:
    """One step of training as the trainer takes it: loss, gradients, clipping, optimizer, average."""

    def __init__(self, process, network, objective, shape, device):
        fused = device.type == "cuda"
        self.model = DiffusionModel(process=process, network=network, objective=objective, shape=shape).to(
            device
        )
        self.average = EMA(self.model, 0.99)
        self.average.model.to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=fused, foreach=not fused)

    def __call__(self, x0, number, **cond):
        loss = self.model(x0, **cond).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, number)
        return loss


@pytest.fixture
def nowhere(monkeypatch):
    """``meta``, of which autocast knows nothing."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)
    return torch.device("meta")


def hold_still(process, network, objective, x0, device, **cond):
    """The first step puts tables on the device; those after it must not touch the host."""
    step = Step(process, network, objective, x0.shape[1:], device)
    x0 = x0.to(device)
    cond = {name: value.to(device) for name, value in cond.items()}
    step(x0, 0, **cond)
    with waiting_is_an_error(device):
        for number in (1, 2):
            step(x0, number, **cond)


@contextlib.contextmanager
def waiting_is_an_error(device):
    if device.type != "cuda":
        with Still():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def text(**more):
    return TransformerDenoiser(num_states=K, dim=16, depth=1, heads=2, **more)


def pictures(out_channels=1):
    return UNetDenoiser(
        size=8, in_channels=1, out_channels=out_channels, channels=(8, 16), attention_at=(4,), layers=1
    )


CASES = {
    **{
        f"{name} {form}": (DiscreteDiffusion(kernel, form), AuxiliaryBound())
        for name, kernel in KERNELS.items()
        for form in ("d3pm", "mixture")
    },
    "cross-entropy": (DiscreteDiffusion(KERNELS["absorbing"]), CrossEntropy()),
    "continuous, masks": (DiscreteDiffusion(KERNELS["absorbing"]), ContinuousTimeBound()),
    "continuous, uniform": (DiscreteDiffusion(KERNELS["uniform"]), ContinuousTimeBound()),
    "sum of losses": (DiscreteDiffusion(KERNELS["uniform"]), Hybrid(VariationalBound(), CrossEntropy(), 0.1)),
    "independent times": (DiscreteDiffusion(KERNELS["uniform"]), UniformTimes(VariationalBound())),
    "importance of times": (DiscreteDiffusion(KERNELS["uniform"]), ImportanceTimes(VariationalBound(), T)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_over_states_never_waits(nowhere, case):
    process, objective = CASES[case]
    hold_still(process, text(), objective, torch.zeros(4, 7, dtype=torch.int64), nowhere)


def test_nor_does_one_on_padded_rows_with_labels(nowhere):
    process, x0 = DiscreteDiffusion(KERNELS["absorbing"]), torch.zeros(4, 7, dtype=torch.int64)
    hold_still(process, text(), AuxiliaryBound(), x0, nowhere, attention_mask=torch.ones(4, 7))
    hold_still(
        process, text(num_classes=3), AuxiliaryBound(), x0, nowhere, labels=torch.zeros(4, dtype=torch.int64)
    )


def test_nor_does_one_whose_head_is_left_to_the_loss(nowhere):
    network = TransformerDenoiser(num_states=K, dim=4, depth=1, heads=2)
    process = DiscreteDiffusion(KERNELS["absorbing"])
    hold_still(process, network, AuxiliaryBound(), torch.zeros(4, 7, dtype=torch.int64), nowhere)


@pytest.mark.parametrize(
    ("variance", "objective"),
    [
        ("fixed_small", SimpleError()),
        ("fixed_large", VariationalBound()),
        ("learned_range", LearnedVarianceHybrid()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_gaussian_step_never_waits(nowhere, variance, objective):
    process = GaussianDiffusion(CosineSchedule(), T, "eps", variance)
    network = pictures(2 if variance == "learned_range" else 1)
    hold_still(process, network, objective, torch.zeros(4, 1, 8, 8), nowhere)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand: CUDA's own check needs one")
@pytest.mark.parametrize("case", CASES)
def test_cuda_agrees(case):
    process, objective = CASES[case]
    x0 = torch.randint(4, (4, 7), generator=torch.Generator().manual_seed(0))
    hold_still(process, text(), objective, x0, torch.device("cuda"))


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: x + torch.zeros(3).to(x.device),
    ],
    ids=["item", "boolean index", "branch", "copy back", "copy there"],
)
def test_a_wait_would_be_seen(nowhere, waits):
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), Still():
        waits(torch.ones(3, device=nowhere))
