"""The SDE view: moments that solve their equations, exact scores from one network, samplers that reach the law."""

import importlib
import math
import pkgutil
from itertools import pairwise

import pytest
import torch
from mixture import Mixture, tensor
from torch import Tensor

import d3pm.gaussian
from d3pm.errors import ConfigError
from d3pm.gaussian.euler_maruyama import euler_maruyama, euler_maruyama_step, time_grid
from d3pm.gaussian.predictor_corrector import langevin_step, predictor_corrector
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.score import Counted, denoised, score_of
from d3pm.gaussian.sde import SDE, VESDE, VPSDE, SubVPSDE
from d3pm.schedules import CosineSchedule, LinearSchedule, ReciprocalSchedule


def every_sde(base: type[SDE] = SDE) -> list[SDE]:
    """One of each kind in the wing, so that a newcomer is tested unasked."""
    for module in pkgutil.iter_modules(d3pm.gaussian.__path__, "d3pm.gaussian."):
        importlib.import_module(module.name)
    return [sde for kind in base.__subclasses__() for sde in (kind.example(), *every_sde(kind))]


SDES = [*every_sde(), VPSDE(CosineSchedule(), span=0.99)]
LINE = Mixture([[-0.6], [0.5]], [0.1, 0.2], [0.4, 0.6])
PLANE = Mixture([[-0.5, 0.4], [0.6, 0.3], [0.1, -0.7]], [[0.1, 0.3], [0.2, 0.1], [0.25, 0.25]], [1, 2, 2])
FAR = Mixture([[-3.0, 2.0], [4.0, 1.0]], [0.5, 0.8], [1, 1])  # data far outside [-1, 1]

each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


def process(prediction="eps", schedule=None, num_steps=1000) -> GaussianDiffusion:
    return GaussianDiffusion(schedule or LinearSchedule(), num_steps, prediction, levels=None)


def exact_score(law: Mixture, sde: SDE):
    """The score of the law noised as the SDE does, one time a batch."""

    def score(x: Tensor, u: Tensor) -> Tensor:
        scale, std = sde.moments(u[:1])
        return law.noised(scale, std).score(x, 1.0).to(x.dtype)

    return score


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(u: float, count: int = 1) -> Tensor:
    return torch.full((count,), u, dtype=torch.float64)


# ---- the equations


def test_the_linear_schedule_gives_the_published_vp_sde():
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(VPSDE().beta(u), 0.1 + 19.9 * u)
    assert f"{VPSDE().alpha_bar(at(1.0)).item():.3e}" == "4.319e-05"


def test_the_ve_sde_grows_geometrically():
    _, std = VESDE(0.01, 50.0).moments(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(std, torch.tensor([0.01, math.sqrt(0.5), 50.0], dtype=torch.float64))


@each_sde
def test_moments_solve_the_equations_of_the_sde(sde):
    u, h = torch.linspace(0.01, 0.98, 30, dtype=torch.float64), 1e-5
    (a_low, s_low), (a_high, s_high) = sde.moments(u - h), sde.moments(u + h)
    (a, s), f, g = sde.moments(u), sde.decay(u), sde.diffusion(u)
    torch.testing.assert_close((a_high - a_low) / (2 * h), f * a, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close((s_high**2 - s_low**2) / (2 * h), 2 * f * s**2 + g**2, rtol=1e-5, atol=1e-8)


@each_sde
def test_densities_solve_the_fokker_planck_equation(sde):
    """dp/du = -(f x p)' + g^2/2 p'', by differences in time and automatic differentiation in space."""
    h, x = 1e-5, torch.linspace(-1.0, 1.0, 41, dtype=torch.float64)
    for u in (0.2, 0.6, 0.9):
        scale, std = sde.moments(at(u))
        y = (x * (scale + std)).requires_grad_()

        def density(u, y=y):
            scale, std = sde.moments(at(u))
            return LINE.noised(scale, std).log_prob(y[:, None]).exp()

        p = density(u)
        (slope,) = torch.autograd.grad(p.sum(), y, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), y)
        f, g = sde.decay(at(u)), sde.diffusion(at(u))
        right = -f * (p + y * slope) + g**2 / 2 * bend
        left = (density(u + h) - density(u - h)) / (2 * h)
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * float(right.detach().abs().max()))


@each_sde
def test_a_rescaled_sde_is_variance_preserving(sde):
    u = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    (a, s), (scale, alpha_bar) = sde.moments(u), sde.level(u)
    torch.testing.assert_close(a / scale, alpha_bar.sqrt())
    torch.testing.assert_close(s / scale, (1 - alpha_bar).sqrt())


def test_what_cannot_be_an_sde_is_refused():
    for schedule in (CosineSchedule(), ReciprocalSchedule()):
        with pytest.raises(ConfigError, match=r"span=0\.995"):
            VPSDE(schedule)
        VPSDE(schedule, span=0.995)
    with pytest.raises(ConfigError, match="span is 0"):
        VPSDE(span=0.0)
    with pytest.raises(ConfigError, match="sigma_min is 2"):
        VESDE(2.0, 1.0)


# ---- the score


@each_sde
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
def test_one_network_serves_every_sde(sde, prediction):
    for law in (PLANE, FAR):  # thresholding plays no part
        base = process(prediction)
        score = score_of(base, law.network(base), sde, first=0.0)
        for u in (0.05, 0.3, 0.7, 0.99):
            scale, std = sde.moments(at(u))
            x = law.noised(scale, std).sample(20, seeded())
            torch.testing.assert_close(
                score(x, at(u, 20)), exact_score(law, sde)(x, at(u)), rtol=1e-6, atol=1e-7
            )


def test_every_example_has_its_own_time():
    base = process()
    score = score_of(base, PLANE.network(base), VESDE())
    x, u = PLANE.sample(3, seeded()), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(score(x, u), torch.cat([score(x[i : i + 1], u[i : i + 1]) for i in range(3)]))


def test_time_is_matched_by_noise_and_kept_where_the_network_knows_it():
    asked = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t.item())
        return torch.zeros_like(x)

    base = process()
    for u in (1e-5, 0.5, 1.0):
        score_of(base, network, VPSDE())(torch.zeros(1, 1), at(u))
    assert asked[0] == 1.0  # below the first level of the chain
    assert abs(asked[1] - 500) < 1
    assert round(asked[2], 1) == 996.6
    score_of(base, network, VPSDE(), first=0.0)(torch.zeros(1, 1), at(1e-5))
    assert 0 < asked[3] < 1
    score_of(base, network, VESDE(sigma_max=1e4))(torch.zeros(1, 1), at(1.0))
    assert asked[4] == 1000.0


def test_below_the_first_level_its_score_is_kept():
    base = process()
    x = PLANE.sample(20, seeded())
    kept = score_of(base, PLANE.network(base), VPSDE())(x, at(1e-5, 20))
    torch.testing.assert_close(kept, PLANE.score(x, base.alpha_bar(torch.tensor([1]))), rtol=1e-6, atol=1e-6)


@each_sde
def test_tweedie_gives_the_denoised_mean(sde):
    scale, std = sde.moments(at(0.4))
    x = PLANE.noised(scale, std).sample(20, seeded())
    total, alpha_bar = sde.level(at(0.4))
    torch.testing.assert_close(
        denoised(sde, exact_score(PLANE, sde), x, at(0.4, 20)), PLANE.x0(x / total, alpha_bar)
    )


def test_conditions_reach_the_network():
    base, labels = process(), torch.full((20,), 1)
    score = score_of(base, PLANE.network(base), VPSDE(), labels=labels)
    x = PLANE.sample(20, seeded())
    wanted = exact_score(PLANE.component(1), VPSDE())(x, at(0.3))
    torch.testing.assert_close(score(x, at(0.3, 20)), wanted, rtol=1e-6, atol=1e-7)


def test_a_time_the_process_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="first is 1001"):
        score_of(process(), LINE.network(process()), VPSDE(), first=1001.0)


# ---- the reverse-time equation


def reverse_moments(sde: SDE, score, steps: int, end: float) -> tuple[float, float]:
    """Mean and variance after Euler–Maruyama steps on a Gaussian, where a step is affine in x and in its noise."""
    mean, variance, times = 0.0, sde.prior_std**2, time_grid(steps, end).tolist()
    corners = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    noise = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    for u, s in pairwise(times):
        moved = euler_maruyama_step(sde, score, corners, at(s, 3), at(u, 3), noise)
        origin, by_x, by_noise = moved.flatten().tolist()
        mean = origin + (by_x - origin) * mean
        variance = (by_x - origin) ** 2 * variance + (by_noise - origin) ** 2
    return mean, variance


@each_sde
def test_euler_maruyama_converges_with_weak_order_one(sde):
    """Without sampling noise: errors halve with the step, down to what the prior does not know of the data."""
    mean, std, end = 0.4, 0.2, 0.5

    def score(x: Tensor, u: Tensor) -> Tensor:
        a, s = (float(m[0]) for m in sde.moments(u[:1]))
        return (a * mean - x) / ((a * std) ** 2 + s**2)

    a, s = (float(m) for m in sde.moments(at(end)))
    exact = torch.tensor([a * mean, (a * std) ** 2 + s**2])
    runs = (reverse_moments(sde, score, n, end) for n in (150, 300, 600))
    coarse, middle, fine = (torch.tensor(run, dtype=torch.float64) - exact for run in runs)
    ratio = (coarse - middle) / (middle - fine)  # free of the prior's error
    assert ((ratio > 1.85) & (ratio < 2.15)).all(), ratio
    assert (2 * fine - middle).abs().max() < 2e-4  # extrapolated


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_euler_maruyama_samples_have_the_law(sde):
    score = exact_score(PLANE, sde)
    x = euler_maruyama(sde, score, (2000, 2), steps=300, generator=seeded(), dtype=torch.float64)
    assert min(PLANE.ks(x, u) for u in ([1, 0], [0, 1], [0.6, -0.8])) > 1e-3
    torch.testing.assert_close(x.mean(0), PLANE.mean, atol=4 * float(PLANE.std.max()) / 2000**0.5, rtol=0)


def test_without_denoising_samples_keep_the_last_noise():
    end, score = 0.2, exact_score(LINE, VPSDE())
    x = euler_maruyama(
        VPSDE(), score, (2000, 1), steps=200, end=end, denoise=False, generator=seeded(), dtype=torch.float64
    )
    assert LINE.diffused(VPSDE().alpha_bar(at(end))).ks(x) > 1e-3
    assert LINE.ks(x) < 1e-3


def test_sampling_is_deterministic_and_can_be_watched():
    base = process()
    score, seen = Counted(score_of(base, LINE.network(base), VPSDE())), []
    draw = [
        predictor_corrector(VPSDE(), score, (4, 1), steps=5, generator=seeded(seed), watch=watch)
        for seed, watch in ((7, lambda u, x: seen.append((u, x))), (7, None), (8, None))
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert draw[0].dtype == torch.float32
    assert score.calls == 3 * (5 * 2 + 1)
    assert [u for u, _ in seen] == time_grid(5, 1e-3)[1:].tolist()
    torch.testing.assert_close(denoised(VPSDE(), score, seen[-1][1], at(1e-3, 4)), draw[0])


def test_a_given_start_is_taken():
    x_1 = torch.ones(2, 1, dtype=torch.float64)
    score = exact_score(LINE, VPSDE())
    a, b = (euler_maruyama(VPSDE(), score, (2, 1), steps=3, x_1=x_1, generator=seeded()) for _ in range(2))
    assert a.dtype == torch.float64
    assert torch.equal(a, b)
    with pytest.raises(ConfigError, match="x_1 has shape"):
        euler_maruyama(VPSDE(), score, (3, 1), x_1=x_1)


def test_bad_grids_are_refused():
    for options, message in (
        ({"steps": 0}, "steps is 0"),
        ({"end": 0.0}, "end is 0"),
        ({"end": 1.5}, "end is 1.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            euler_maruyama(VPSDE(), exact_score(LINE, VPSDE()), (1, 1), **options)


# ---- the corrector


def test_langevin_keeps_the_law():
    for sde in (VPSDE(), VESDE()):
        scale, std = sde.moments(at(0.15))
        law, score, generator = LINE.noised(scale, std), exact_score(LINE, sde), seeded(3)
        start = law.sample(3000, generator)
        x = start
        for _ in range(200):
            x = langevin_step(score, x, at(0.15, 3000), snr=0.05, generator=generator)
        assert law.ks(x) > 1e-3
        assert abs(torch.corrcoef(torch.stack([x, start])[..., 0])[0, 1]) < 0.97  # it has moved


def test_langevin_steps_are_of_the_published_size():
    """On N(0, 1) in many dimensions the step is 2 r^2 / var(x), so the variance that stays is 1 + r^2."""
    law, snr, generator = Mixture([[0.0] * 64], [1.0], [1.0]), 0.5, seeded(5)
    score, x = exact_score(law, VPSDE()), law.sample(2000, generator)
    step = 2 * snr**2
    moved = langevin_step(score, x, at(0.5, 2000), snr=snr, generator=generator) - x
    torch.testing.assert_close(moved.var(), tensor(step**2 + 2 * step), rtol=0.04, atol=0)
    half = langevin_step(score, x, at(0.5, 2000), snr=snr, alpha=0.5, generator=generator) - x
    torch.testing.assert_close(half.var(), tensor(step**2 / 4 + step), rtol=0.04, atol=0)
    for _ in range(12):
        x = langevin_step(score, x, at(0.5, 2000), snr=snr, generator=generator)
    torch.testing.assert_close(x.var(), tensor(1 + snr**2), rtol=0.04, atol=0)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=lambda sde: type(sde).__name__)
def test_predictor_corrector_samples_have_the_law(sde):
    x = predictor_corrector(
        sde, exact_score(PLANE, sde), (1500, 2), steps=200, snr=0.05, generator=seeded(), dtype=torch.float64
    )
    assert min(PLANE.ks(x, u) for u in ([1, 0], [0, 1], [0.6, -0.8])) > 1e-3


def test_the_corrector_mends_a_coarse_predictor():
    """With few steps Euler–Maruyama misses the law; corrections at the same times bring it nearer."""
    end, count = 0.05, 2000
    law, score = LINE.diffused(VPSDE().alpha_bar(at(end))), exact_score(LINE, VPSDE())
    options = {"steps": 20, "end": end, "snr": 0.2, "denoise": False, "dtype": torch.float64}

    def distance(corrections: int) -> float:
        x = predictor_corrector(
            VPSDE(), score, (count, 1), corrections=corrections, generator=seeded(), **options
        )
        return float((law.cdf(x[:, 0]).sort().values - torch.linspace(0, 1, count)).abs().max())

    assert distance(20) < 0.5 * distance(0)


def test_bad_corrections_are_refused():
    for options, message in (({"corrections": -1}, "corrections is -1"), ({"snr": 0.0}, "snr is 0")):
        with pytest.raises(ConfigError, match=message):
            predictor_corrector(VPSDE(), exact_score(LINE, VPSDE()), (1, 1), **options)
