"""The shared files serve a Gaussian process as they stand: the bound, its estimate, the training loss, the loop."""

import math

import pytest
import torch
from torch import Tensor

from d3pm.distributions import Normal
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.objectives import VariationalBound, vlb_estimate, vlb_terms
from d3pm.process import Process
from d3pm.sampling import sample
from d3pm.schedules import CosineSchedule

STEPS = 12
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


class StandardGaussian(Process):
    """Standard normal data under Gaussian noise, with the exact reverse step: every marginal is N(0, 1)."""

    def __init__(self) -> None:
        self.num_steps = STEPS
        self.alpha_bars = CosineSchedule().alpha_bars(STEPS)

    @classmethod
    def example(cls):
        return [cls()]

    def _abar(self, t: Tensor, like: Tensor) -> Tensor:
        return self.alpha_bars[t].view(-1, *[1] * (like.dim() - 1))

    def prior(self, shape, device="cpu"):
        return Normal(torch.zeros(shape, dtype=torch.float64), torch.ones(()))

    def marginal(self, x0, t):
        kept = self._abar(t, x0)
        return Normal(kept.sqrt() * x0, (1 - kept).sqrt())

    def _bridge(self, x0, x_t, s, t):
        at_s, at_t = self._abar(s, x_t), self._abar(t, x_t)
        alpha = at_t / at_s
        of_x0 = at_s.sqrt() * (1 - alpha) / (1 - at_t)
        mean = of_x0 * x0 + alpha.sqrt() * (1 - at_s) / (1 - at_t) * x_t
        return mean, (1 - alpha) * (1 - at_s) / (1 - at_t), of_x0

    def posterior(self, x0, x_t, s, t):
        mean, variance, _ = self._bridge(x0, x_t, s, t)
        return Normal(mean, variance.sqrt())

    def predict(self, output, x_t, t):
        return Normal(output, (1 - self._abar(t, x_t)).sqrt())

    def reverse(self, output, x_t, s, t):
        mean, variance, of_x0 = self._bridge(output, x_t, s, t)
        return Normal(mean, (variance + of_x0**2 * (1 - self._abar(t, x_t))).sqrt())


PROCESS = StandardGaussian()


def oracle(x_t: Tensor, t: Tensor, **cond) -> Tensor:
    """E[x_0 | x_t]."""
    return PROCESS._abar(t, x_t).sqrt() * x_t


@pytest.fixture
def x0():
    return torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("bound", [vlb_terms, vlb_estimate])
def test_the_bound_of_an_exact_model_is_the_entropy(bound, x0):
    extra = {"num_times": 4} if bound is vlb_estimate else {}
    found = bound(PROCESS, oracle, x0, generator=torch.Generator().manual_seed(1), **extra)
    per_entry = found.total / 3
    error = float(per_entry.std()) / math.sqrt(len(x0))
    assert float(per_entry.mean()) == pytest.approx(ENTROPY, abs=5 * error)
    assert error < 0.03


def test_the_training_loss_is_the_bound_without_the_prior(x0):
    generator = torch.Generator().manual_seed(2)
    losses = VariationalBound()(PROCESS, oracle, x0, generator=generator)
    prior = float(vlb_terms(PROCESS, oracle, x0, generator=generator).prior.mean())
    error = float(losses.std()) / math.sqrt(len(x0))
    assert float(losses.mean()) + prior == pytest.approx(3 * ENTROPY, abs=5 * error)


@pytest.mark.parametrize("steps", [None, 3])
def test_samples_are_standard_normal(steps):
    x = sample(PROCESS, oracle, (20_000,), steps=steps, generator=torch.Generator().manual_seed(3))
    from scipy.stats import kstest

    assert kstest(x.numpy(), "norm").pvalue > 1e-3


def test_known_entries_are_noised_on_the_way_and_exact_at_the_end():
    x0, known = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([[True, False]])
    seen = []
    x = sample(PROCESS, oracle, (1, 2), known=known, x0=x0, watch=lambda s, x: seen.append(x[0, 0].item()))
    assert x[0, 0] == 2.0
    assert len(set(seen)) == STEPS


def test_guidance_is_affine_in_the_output():
    def network(x_t, t, shift):
        return x_t + shift

    x, t = torch.zeros(2, 3), torch.ones(2, dtype=torch.int64)
    guided = {s: ClassifierFreeGuidance(network, s, {"shift": 0.0})(x, t, shift=1.0) for s in (0, 1, 3)}
    assert [float(guided[s].mean()) for s in (0, 1, 3)] == [0.0, 1.0, 3.0]
