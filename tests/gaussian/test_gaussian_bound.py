"""The bound of a perfect network on a known law: each term by quadrature, and the entropy in the limit."""

import math

import pytest
import torch
from mixture import Mixture
from torch import Tensor

from d3pm import GaussianDiffusion
from d3pm.gaussian.rate_distortion import rate_distortion
from d3pm.objectives import prior_term, step_term, vlb_estimate, vlb_terms
from d3pm.schedules import CosineSchedule, LinearSchedule

LAW = Mixture([[-0.5], [0.45]], [0.15, 0.25], [0.35, 0.65])
COINS = Mixture([[-1.0], [1.0]], [0.0, 0.0], [0.3, 0.7])
STEPS = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(**kwargs) -> GaussianDiffusion:
    kwargs = {"schedule": CosineSchedule(), "num_steps": STEPS, "threshold": None, "levels": None, **kwargs}
    return GaussianDiffusion(**kwargs)


def conditional_variance(law: Mixture, x_t: Tensor, signal: float) -> Tensor:
    """Var(x_0 | x_t), (N,), of a mixture in one dimension."""
    noise = 1 - signal
    total = signal * law.stds[:, 0] ** 2 + noise
    log_weight = law.weights.log() - 0.5 * (x_t - math.sqrt(signal) * law.means[:, 0]) ** 2 / total
    weight = (log_weight - 0.5 * total.log()).softmax(-1)
    gain = math.sqrt(signal) * law.stds[:, 0] ** 2 / total
    mean = law.means[:, 0] + gain * (x_t - math.sqrt(signal) * law.means[:, 0])
    second = mean**2 + law.stds[:, 0] ** 2 * noise / total
    return (weight * second).sum(-1) - (weight * mean).sum(-1) ** 2


def least_error(law: Mixture, signal: float) -> float:
    """E (x_0 - E[x_0 | x_t])^2, by the trapezoidal rule over x_t."""
    x = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    density = law.diffused(signal).log_prob(x[:, None]).exp()
    return float(torch.trapezoid(density * conditional_variance(law, x[:, None], signal), x))


def step_variances(table: Tensor, t: int) -> tuple[float, float]:
    """The variances beta and beta~ from t to t - 1."""
    beta = 1 - table[t] / table[t - 1]
    return float(beta), float(beta * (1 - table[t - 1]) / (1 - table[t]))


def variance_of(name: str, table: Tensor, t: int, share: float) -> float:
    beta, small = step_variances(table, t)
    if t == 1:
        small = step_variances(table, 2)[1]
        beta = small if name != "learned_range" else beta
    return {"fixed_large": beta, "fixed_small": small, "learned_range": beta**share * small ** (1 - share)}[
        name
    ]


def expected_terms(process: GaussianDiffusion, law: Mixture, share: float = 0.3) -> list[float]:
    """L_0, L_1, …, L_{T-1} of the perfect network, from the one number a level has: its least squared error."""
    table = process.schedule.alpha_bars(process.num_steps)
    terms = []
    for t in range(1, process.num_steps + 1):
        error = least_error(law, float(table[t]))
        variance = variance_of(process.variance, table, t, share)
        if t == 1:
            terms.append(0.5 * math.log(2 * math.pi * variance) + error / (2 * variance))
            continue
        beta, small = step_variances(table, t)
        of_x0 = float(table[t - 1].sqrt()) * beta / (1 - float(table[t]))
        rest = 0.5 * (small / variance - 1 - math.log(small / variance))
        terms.append(rest + of_x0**2 * error / (2 * variance))
    return terms


def expected_prior(process: GaussianDiffusion, law: Mixture) -> float:
    signal = float(process.schedule.alpha_bars(process.num_steps)[-1])
    second = float(law.covariance + law.mean**2)
    return 0.5 * (signal * second - signal - math.log(1 - signal))


def with_variance(network, process: GaussianDiffusion, share: float = 0.3):
    """Give the oracle a constant second half of channels."""
    if process.variance != "learned_range":
        return network
    return lambda x_t, t: torch.cat([network(x_t, t), torch.full_like(x_t, 2 * share - 1)], 1)


def nodes(law: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """x0, eps and weights (N,) that integrate over both: trapezoids, spectrally accurate on normal laws."""
    z = torch.linspace(-7, 7, 61, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2)
    weight = weight / weight.sum()
    x0 = (law.means + law.stds * z).flatten()
    mass = (law.weights[:, None] * weight).flatten()
    grid = torch.cartesian_prod(torch.arange(len(x0)), torch.arange(len(z)))
    return x0[grid[:, 0]], z[grid[:, 1]], mass[grid[:, 0]] * weight[grid[:, 1]]


def quadrature(process: GaussianDiffusion, network, law: Mixture) -> tuple[float, list[float]]:
    """What the package computes, integrated over x_0 and x_t instead of drawn: L_T, then L_0 … L_{T-1}."""
    x0, eps, weight = nodes(law)
    x0, eps = x0[:, None], eps[:, None]
    prior = float((weight * prior_term(process, x0)[:, 0]).sum())
    terms = []
    for t in range(1, process.num_steps + 1):
        time = torch.full((len(x0),), t)
        law_t = process.marginal(x0, time)
        x_t = law_t.mean + law_t.std * eps
        term = step_term(process, network(x_t, time), x0, x_t, time - 1, time)
        terms.append(float((weight * term[:, 0]).sum()))
    return prior, terms


VARIANCES = pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])


@VARIANCES
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
def test_every_term_is_its_integral(prediction, variance):
    process = plain(prediction=prediction, variance=variance)
    prior, terms = quadrature(process, with_variance(LAW.network(plain(prediction=prediction)), process), LAW)
    assert prior == pytest.approx(expected_prior(process, LAW), abs=1e-9)
    assert terms == pytest.approx(expected_terms(process, LAW), rel=1e-5, abs=1e-6)


@VARIANCES
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()], ids=["linear", "cosine"])
def test_it_is_a_bound(schedule, variance):
    """No network, the perfect one included, codes below the entropy."""
    for num_steps in (25, 60):
        process = plain(schedule=schedule, num_steps=num_steps, variance=variance)
        oracle = LAW.network(plain(schedule=schedule, num_steps=num_steps))
        prior, terms = quadrature(process, with_variance(oracle, process), LAW)
        assert prior + sum(terms) > LAW.entropy()


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_draws_estimate_it(variance):
    process = plain(variance=variance)
    oracle = with_variance(LAW.network(plain()), process)
    x0 = LAW.sample(20_000, seeded())
    bound = vlb_terms(process, oracle, x0, generator=seeded(1))
    found = torch.cat([bound.reconstruction[:, None], bound.diffusion], 1)
    error = found.std(0) / math.sqrt(len(x0))
    away = (found.mean(0) - torch.tensor(expected_terms(process, LAW), dtype=torch.float64)) / error
    assert float(away.abs().max()) < 4.5
    prior_error = float(bound.prior.std()) / math.sqrt(len(x0))
    assert float(bound.prior.mean()) == pytest.approx(expected_prior(process, LAW), abs=5 * prior_error)


def test_the_estimate_has_the_same_mean():
    process = plain(variance="fixed_large")
    x0 = LAW.sample(20_000, seeded(2))
    bound = vlb_estimate(process, LAW.network(process), x0, num_times=5, generator=seeded(3))
    total = expected_prior(process, LAW) + sum(expected_terms(process, LAW))
    error = float(bound.total.std()) / math.sqrt(len(x0))
    assert float(bound.total.mean()) == pytest.approx(total, abs=5 * error)


def best_bound(num_steps: int) -> float:
    """With the mean and the variance of q(x_s | x_t) in every step: what a Gaussian step can do at best."""
    process = plain(schedule=LinearSchedule(), num_steps=num_steps, variance="learned_range", prediction="x0")
    table = LinearSchedule().alpha_bars(num_steps)
    x0, eps, weight = nodes(LAW)
    total = float((weight * prior_term(process, x0[:, None])[:, 0]).sum())
    for t in range(1, num_steps + 1):
        signal = float(table[t])
        x_t = math.sqrt(signal) * x0 + math.sqrt(1 - signal) * eps
        spread = conditional_variance(LAW, x_t[:, None], signal)
        beta, small = step_variances(table, t)
        of_x0 = float(table[t - 1].sqrt()) * beta / (1 - signal)
        wanted = small + of_x0**2 * spread
        low = step_variances(table, 2)[1] if t == 1 else small
        share = (wanted / low).log() / math.log(beta / low)
        output = torch.stack([LAW.x0(x_t[:, None], signal)[:, 0], 2 * share - 1], 1)
        time = torch.full((len(x0),), t)
        term = step_term(process, output, x0[:, None], x_t[:, None], time - 1, time)[:, 0]
        total += float((weight * term).sum())
    return total


def test_with_the_best_variance_it_tends_to_the_entropy():
    gaps = [best_bound(num_steps) - LAW.entropy() for num_steps in (25, 50, 100)]
    assert all(gap > 0 for gap in gaps)
    assert gaps[0] > 1.5 * gaps[1] > 2.25 * gaps[2]
    assert gaps[2] < 0.01


class TestPictures:
    """Data on levels: masses, so the bound is above the entropy of a coin, and close to it for many steps."""

    def coins(self, num_steps: int) -> float:
        process = GaussianDiffusion(CosineSchedule(), num_steps, variance="fixed_small", levels=2)
        x0 = COINS.sample(4000, seeded(4))
        bound = vlb_terms(process, COINS.network(process), x0, generator=seeded(5))
        # The same draws of data on both sides: their share of heads is not what is tested.
        return float((bound.total + self.surprise(x0)).mean())

    def surprise(self, x0: Tensor) -> Tensor:
        return torch.where(x0[:, 0] > 0, 0.7, 0.3).double().log()

    def test_bound_and_limit(self):
        gaps = [self.coins(num_steps) for num_steps in (6, 24, 96)]
        assert gaps[0] > gaps[1] > gaps[2] > -0.01
        assert gaps[2] < 0.1

    def test_thresholds_do_not_hurt_an_estimate_within_the_range(self):
        x0 = COINS.sample(500, seeded(4))
        totals = []
        for kwargs in ({}, {"threshold": None}):
            process = GaussianDiffusion(CosineSchedule(), 10, levels=2, **kwargs)
            totals.append(vlb_terms(process, COINS.network(process), x0, generator=seeded(5)).total)
        torch.testing.assert_close(*totals)

    def test_the_bound_of_an_image_is_the_sum_over_its_entries(self):
        process = GaussianDiffusion(CosineSchedule(), 6)
        x0 = torch.linspace(-1, 1, 256, dtype=torch.float64)[
            torch.randint(256, (3, 2, 2, 2), generator=seeded())
        ]

        def network(x_t, t):
            return 0.5 * x_t

        bound = vlb_terms(process, network, x0, generator=seeded(1))
        assert bound.diffusion.shape == (3, 5)
        assert (bound.num_dims == 8).all()
        terms = torch.zeros(3, dtype=torch.float64)
        generator = seeded(1)
        for t in range(1, 7):
            time = torch.full((3,), t)
            x_t = process.q_sample(x0, time, generator)
            terms += step_term(process, network(x_t, time), x0, x_t, time - 1, time).flatten(1).sum(1)
        prior = prior_term(process, x0).flatten(1).sum(1)
        torch.testing.assert_close(bound.total, terms + prior)
        torch.testing.assert_close(bound.bits_per_dim(), bound.total / 8 / math.log(2))


class TestRateDistortion:
    def test_it_is_the_bound_read_as_a_code(self):
        process = plain(variance="fixed_large")
        x0 = LAW.sample(20_000, seeded(6))
        found = rate_distortion(process, LAW.network(process), x0, generator=seeded(7))
        terms = torch.tensor(expected_terms(process, LAW), dtype=torch.float64) / math.log(2)
        prior = expected_prior(process, LAW) / math.log(2)
        assert found.rate.shape == found.rmse.shape == found.terms.shape == (STEPS,)
        # Before x_{t-1} is sent, the terms of all later times have been: L_{t-1} itself is not in its rate.
        after = torch.stack([terms[t:].sum() for t in range(1, STEPS + 1)])
        torch.testing.assert_close(found.rate.double(), after + prior, rtol=0.05, atol=2e-3)
        torch.testing.assert_close(found.rate[:-1] - found.rate[1:], found.terms[1:], rtol=1e-6, atol=1e-9)
        assert float(found.rate[0] + found.terms[0]) == pytest.approx(
            float(found.bound.bits_per_dim().mean()), rel=1e-9
        )

    def test_distortion_is_the_least_error_on_the_scale_of_bytes(self):
        process = plain()
        x0 = LAW.sample(20_000, seeded(6))
        found = rate_distortion(process, LAW.network(process), x0, generator=seeded(7))
        table = process.schedule.alpha_bars(STEPS)
        least = torch.tensor([least_error(LAW, float(a)) for a in table[1:]], dtype=torch.float64)
        torch.testing.assert_close(found.rmse.double(), 127.5 * least.sqrt(), rtol=0.03, atol=0)
        # With nothing sent, the best guess is the mean.
        assert float(found.rmse[-1]) == pytest.approx(127.5 * float(LAW.std), rel=0.03)
