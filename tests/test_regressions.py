"""Defects that were there once, each with the case that showed it."""

import math
from dataclasses import dataclass

import pytest
import torch

from d3pm import DiscreteDiffusion, MatrixTransition
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.objectives import VLB
from d3pm.process import Process
from d3pm.schedules import CosineSchedule, MutualInformationSchedule, Schedule


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
def test_probabilities_below_float32_are_not_zero(form):
    """A dense likelihood was cast to float32 before its logarithm."""
    tiny = 1e-46
    stack = torch.tensor([[[1 - tiny, tiny], [tiny, 1 - tiny]]] * 3, dtype=torch.float64)
    process = DiscreteDiffusion(MatrixTransition(stack, law=torch.tensor([0.5, 0.5])), form)
    x_t, s, t = torch.tensor([[0, 1]]), torch.tensor([1]), torch.tensor([3])
    logits = torch.tensor([[[-3.0, 3.0], [2.0, -1.0]]])
    exact = process.reverse(logits.double(), x_t, s, t)
    single = logits.clone().requires_grad_()
    found = process.reverse(single, x_t, s, t)
    assert torch.allclose(found.probs.double(), exact.probs, atol=1e-6)
    found.log_probs.exp().sum().backward()
    assert torch.isfinite(single.grad).all()


@dataclass(frozen=True)
class Wavy(Schedule):
    """Rises in the middle."""

    def alpha_bar(self, u):
        return 1 - u + 0.3 * torch.sin(2 * math.pi * u)


@dataclass(frozen=True)
class Late(Schedule):
    """Has lost something before it starts."""

    def alpha_bar(self, u):
        return 0.9 * (1 - u)


def test_schedules_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="beta at t="):
        Wavy().alpha_bars(20)
    with pytest.raises(ConfigError, match=r"alpha_bar\(0\) is 0\.9"):
        Late().alpha_bars(20)
    with pytest.raises(ConfigError, match=r"max_beta is 1\.5"):
        CosineSchedule(max_beta=1.5).alpha_bars(20)
    with pytest.raises(ConfigError, match="MatrixTransition cannot say"):
        MutualInformationSchedule([0.5, 0.5], MatrixTransition.example(2, 1))


def test_a_law_given_with_matrices_must_fit_and_does_not_make_a_state_absorbing():
    with pytest.raises(ConfigError, match="law has 3 entries"):
        MatrixTransition(torch.eye(2).expand(2, 2, 2), law=torch.ones(3) / 3)
    lazy = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).expand(2, 2, 2)
    assert MatrixTransition(lazy, law=torch.tensor([0.0, 1.0])).absorbing_state is None


def test_a_process_needs_only_what_the_contract_names():
    names = ("prior", "marginal", "posterior", "predict", "reverse")
    assert Process.__abstractmethods__ == frozenset(names)


def test_variance_channels_are_not_guided():
    def network(x_t, t, shift):
        return x_t + shift

    x, t = torch.zeros(2, 4, 3, 3), torch.ones(2, dtype=torch.int64)
    for scale in (0.0, 3.0):
        out = ClassifierFreeGuidance(network, scale, {"shift": 0.0}, channels=2)(x, t, shift=1.0)
        assert bool((out[:, :2] == scale).all())
        assert bool((out[:, 2:] == 1).all())


def test_the_standard_error_is_that_of_the_mean():
    total = torch.tensor([1.0, 2.0, 4.0, 5.0])
    bound = VLB(total, torch.zeros(4, 2), torch.zeros(4), torch.full((4,), 2.0))
    assert bound.standard_error() == pytest.approx(float(bound.bits_per_dim().std()) / 2)
    assert math.isnan(VLB(total[:1], torch.zeros(1, 2), torch.zeros(1), torch.ones(1)).standard_error())
