"""What every schedule promises, then the published numbers of the named ones."""

import math

import pytest
import torch
from oracle import concrete_subclasses

from d3pm.errors import D3PMError
from d3pm.schedules import (
    CosineSchedule,
    LinearSchedule,
    MutualInformationSchedule,
    PolynomialSchedule,
    ReciprocalSchedule,
    Schedule,
    UnsquaredCosineSchedule,
)
from d3pm.transitions import AbsorbingTransition, MarginalTransition, UniformTransition

SCHEDULES = concrete_subclasses(Schedule)


def example(cls: type, num_steps: int) -> tuple:
    """An instance and its table; a schedule may refuse a short chain, but says so and never a long one."""
    schedule = cls.example()
    try:
        return schedule, schedule.alpha_bars(num_steps)
    except D3PMError as refusal:
        if num_steps >= 50:
            raise
        pytest.skip(str(refusal))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 1000])
@pytest.mark.parametrize("cls", SCHEDULES)
class TestEverySchedule:
    def test_signal_falls_from_one_and_stays_a_fraction(self, cls, num_steps):
        _, alpha_bars = example(cls, num_steps)
        assert alpha_bars.shape == (num_steps + 1,)
        assert alpha_bars.dtype == torch.float64
        assert alpha_bars[0] == 1
        assert (alpha_bars.diff() <= 0).all()
        assert (alpha_bars >= 0).all()

    def test_alpha_bars_are_the_running_product_of_one_minus_beta(self, cls, num_steps):
        schedule, alpha_bars = example(cls, num_steps)
        betas = schedule.betas(num_steps)
        assert betas.shape == (num_steps,)
        assert betas.dtype == torch.float64
        assert ((betas >= 0) & (betas <= 1)).all()
        torch.testing.assert_close(torch.cumprod(1 - betas, 0), alpha_bars[1:], rtol=1e-11, atol=1e-15)

    def test_continuous_signal_is_a_falling_fraction_in_float64(self, cls, num_steps):
        schedule = cls.example()
        u = torch.linspace(0, 1, 257)
        signal = schedule.alpha_bar(u)
        assert signal.dtype == torch.float64
        assert signal.shape == u.shape
        assert signal[0] == 1
        assert (signal.diff() <= 0).all()
        assert (signal >= 0).all()


@pytest.mark.parametrize("cls", SCHEDULES)
def test_tables_tend_to_the_continuous_signal(cls):
    """The gap to alpha_bar(t/T) is of order 1/T, whatever the discretization."""
    schedule, gaps = cls.example(), []
    for num_steps in (500, 1000, 2000):
        u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
        gaps.append(float((schedule.alpha_bars(num_steps) - schedule.alpha_bar(u)).abs().max()))
    assert gaps[1] < 2e-3
    assert gaps[2] <= 0.75 * gaps[1] + 1e-12 <= 0.75 * (0.75 * gaps[0] + 1e-12) + 1e-12


@pytest.mark.parametrize(
    "schedule",
    [ReciprocalSchedule(), CosineSchedule(), UnsquaredCosineSchedule(), PolynomialSchedule.example()],
)
@pytest.mark.parametrize("num_steps", [1, 2, 10, 1000])
def test_tables_are_the_continuous_signal_up_to_the_first_clipped_beta(schedule, num_steps):
    betas = schedule.betas(num_steps)
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    clipped = (betas == 0.999).nonzero().flatten().tolist()
    end = clipped[0] + 1 if clipped else num_steps + 1
    torch.testing.assert_close(
        schedule.alpha_bars(num_steps)[:end], schedule.alpha_bar(u)[:end], rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("num_steps", [1, 2, 20, 256, 1000])
def test_reciprocal_betas_are_one_over_what_remains(num_steps):
    schedule = ReciprocalSchedule()
    t = torch.arange(1, num_steps + 1, dtype=torch.float64)
    torch.testing.assert_close(schedule.betas(num_steps), 1 / (num_steps - t + 1), rtol=1e-12, atol=0)
    assert schedule.betas(num_steps)[-1] == 1
    assert schedule.alpha_bars(num_steps)[-1] == 0


def shifted_cosine(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2)


@pytest.mark.parametrize("u", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_one_cosine_is_squared_and_the_other_is_not(u):
    cosine = shifted_cosine(u) / shifted_cosine(0)
    at = torch.tensor([u], dtype=torch.float64)
    assert float(UnsquaredCosineSchedule().alpha_bar(at)) == pytest.approx(cosine, rel=1e-12)
    assert float(CosineSchedule().alpha_bar(at)) == pytest.approx(cosine**2, rel=1e-12)


@pytest.mark.parametrize(("schedule", "power"), [(CosineSchedule(), 2), (UnsquaredCosineSchedule(), 1)])
def test_cosines_clip_exactly_the_last_beta(schedule, power):
    betas, alpha_bars = schedule.betas(1000), schedule.alpha_bars(1000)
    assert (betas == 0.999).nonzero().flatten().tolist() == [999]
    before = (shifted_cosine(0.999) / shifted_cosine(0)) ** power
    assert float(alpha_bars[-1]) == pytest.approx(0.001 * before, rel=1e-9)


def test_published_last_signals():
    assert float(CosineSchedule().alpha_bars(1000)[-1]) == pytest.approx(2.4e-9, rel=0.02)
    assert float(LinearSchedule().alpha_bars(1000)[-1]) == pytest.approx(4.036e-5, rel=2e-4)


@pytest.mark.parametrize("num_steps", [50, 100, 1000, 4000])
def test_linear_betas_are_a_line_scaled_to_the_length_of_the_chain(num_steps):
    line = torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64) * 1000 / num_steps
    torch.testing.assert_close(LinearSchedule().betas(num_steps), line, rtol=1e-10, atol=0)


def test_linear_refuses_chains_too_short_for_its_betas():
    with pytest.raises(D3PMError, match="beta"):
        LinearSchedule().alpha_bars(10)


def zipf(num_symbols: int) -> torch.Tensor:
    weights = 1 / torch.arange(1, num_symbols + 1, dtype=torch.float64)
    return weights / weights.sum()


@pytest.mark.parametrize("num_steps", [1, 8, 100])
def test_mutual_information_of_the_absorbing_kernel_is_the_reciprocal_schedule(num_steps):
    transition = AbsorbingTransition(num_states=28, num_steps=num_steps)
    schedule = MutualInformationSchedule(law_for(transition, zipf(27)), transition)
    reciprocal = 1 / torch.arange(num_steps, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(schedule.betas(num_steps), reciprocal, rtol=0, atol=1e-6)


def law_for(transition, law: torch.Tensor) -> torch.Tensor:
    """The unigram law over all states: the mask never occurs in data."""
    return torch.cat([law, law.new_zeros(transition.num_states - len(law))])


@pytest.mark.parametrize("num_steps", [1, 8, 40])
@pytest.mark.parametrize("kernel", ["absorbing", "uniform", "marginal"])
def test_mutual_information_falls_on_a_line(kernel, num_steps):
    """I(x_t; x_0) / H(x_0) = 1 - t/T, from dense joint tables."""
    law = zipf(12)
    transition = {
        "absorbing": AbsorbingTransition(num_states=13, num_steps=num_steps),
        "uniform": UniformTransition(num_states=12, num_steps=num_steps),
        "marginal": MarginalTransition(law, num_steps=num_steps),
    }[kernel]
    law, noise = law_for(transition, law), transition.stationary()
    schedule = MutualInformationSchedule(law, transition)
    information = []
    for signal in schedule.alpha_bars(num_steps):
        joint = law[:, None] * (signal * torch.eye(len(law)) + (1 - signal) * noise)
        independent = law[:, None] * joint.sum(0)
        information.append(torch.special.xlogy(joint, joint / independent.clamp_min(1e-300)).sum())
    fraction = torch.stack(information) / torch.special.entr(law).sum()
    line = 1 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    torch.testing.assert_close(fraction, line, rtol=0, atol=1e-6)


def test_mutual_information_is_affordable_at_fifty_thousand_states():
    law = zipf(50_257)
    schedule = MutualInformationSchedule(law, UniformTransition(num_states=50_257, num_steps=10))
    alpha_bars = schedule.alpha_bars(10)
    assert alpha_bars[0] == 1
    assert (alpha_bars.diff() < 0).all()
