"""Samplers driven by a perfect network: exact laws, the flow's closed form, and the order each method promises."""

import itertools
import math
from itertools import pairwise

import pytest
import torch
from mixture import Mixture
from torch import Tensor
from torch.testing import assert_close

from d3pm import AbsorbingTransition, GaussianDiffusion
from d3pm.errors import ConfigError
from d3pm.gaussian.ddim import DDIM, invert, reconstruct, slerp
from d3pm.gaussian.dpm_solver import DPMSolver
from d3pm.gaussian.heun import Heun
from d3pm.gaussian.levels import noise_levels
from d3pm.gaussian.threshold import Clip, DynamicThreshold
from d3pm.grids import quadratic_grid, uniform_grid
from d3pm.sampling import Ancestral, sample
from d3pm.schedules import CosineSchedule, LinearSchedule, ReciprocalSchedule

MEAN, STD = 0.3, 0.5
NORMAL = Mixture([[MEAN]], [STD], [1.0])
LAW = Mixture([[-0.6], [0.4]], [0.12, 0.2], [0.4, 0.6])
STEPS = 1000
SAMPLERS = [Ancestral(), DDIM(), DDIM(0.5), DDIM(1.0), DDIM(1.0, "hat"), Heun(), DPMSolver()]
FLOWS = [DDIM(), Heun(), DPMSolver()]
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def plain(**kwargs) -> GaussianDiffusion:
    kwargs = {"schedule": LinearSchedule(), "num_steps": STEPS, "threshold": None, "levels": None, **kwargs}
    return GaussianDiffusion(**kwargs)


def starts(*shape: int, seed: int = 0) -> Tensor:
    """Draws of the prior in float64, handed to ``sample`` as x_T."""
    return normals(*shape, seed=seed)


def batch(value: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def run(sampler, process, network, x: Tensor, times, generator=None) -> Tensor:
    """Down the given times, which need not end at 0."""
    stepper = sampler.begin()
    for t, s in pairwise(times):
        x = stepper.step(process, network, x, batch(s, x), batch(t, x), generator)
    return x


def moments(process: GaussianDiffusion, times: list[float], eta: float | None) -> tuple[float, float]:
    """Mean and variance of x_0 when a perfect network walks down the times from N(0, 1), by recursion.

    Every step is x_s = a x0_hat + b x_t + noise, with x0_hat linear in x_t: DDIM's with ``eta``, or for None the
    ancestral step of the process's fixed variance.
    """
    levels = process.alpha_bar(torch.tensor(times)).tolist()
    mean, variance = 0.0, 1.0
    for at_t, at_s in pairwise(levels):
        beta = 1 - at_t / at_s
        small = beta * (1 - at_s) / (1 - at_t)
        direction = small if eta is None else eta**2 * small
        noise = (
            {None: beta if process.variance == "fixed_large" else small}.get(eta, direction)
            if at_s < 1
            else 0.0
        )
        b = math.sqrt((1 - at_s - direction) / (1 - at_t))
        a = math.sqrt(at_s) - b * math.sqrt(at_t)
        gain = math.sqrt(at_t) * STD**2 / (at_t * STD**2 + 1 - at_t)
        slope, shift = a * gain + b, a * MEAN * (1 - gain * math.sqrt(at_t))
        mean, variance = slope * mean + shift, slope**2 * variance + noise
    return mean, variance


class TestLawOfSamples:
    @pytest.mark.parametrize("steps", [3, 25])
    @pytest.mark.parametrize(
        ("sampler", "eta", "variance"),
        [
            (Ancestral(), None, "fixed_small"),
            (Ancestral(), None, "fixed_large"),
            (DDIM(), 0.0, "fixed_large"),
            (DDIM(0.4), 0.4, "fixed_small"),
            (DDIM(1.0), 1.0, "fixed_large"),
        ],
        ids=repr,
    )
    def test_for_normal_data_it_is_known_at_any_number_of_steps(self, sampler, eta, variance, steps):
        process = plain(variance=variance)
        mean, spread = moments(process, uniform_grid(STEPS, steps), eta)
        x = sample(
            process,
            NORMAL.network(process),
            (8000, 1),
            steps=steps,
            sampler=sampler,
            x_T=starts(8000, 1),
            generator=seeded(1),
        )
        reached = Mixture([[mean]], [math.sqrt(spread)], [1.0])
        assert reached.ks(x) > 1e-3
        # A wrong variance of 5 % would be seen: 8000 draws know it to 1.6 %.
        assert float(x.var()) == pytest.approx(spread, rel=0.065)

    @pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
    def test_the_chain_of_reverse_laws_has_these_moments_exactly(self, variance):
        process = plain(variance=variance)
        network, times = NORMAL.network(process), uniform_grid(STEPS, 10)
        mean, spread = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        for t, s in pairwise(times):
            at_t, at_s = torch.tensor([t]), torch.tensor([s])
            zero, one = torch.zeros_like(mean), torch.ones_like(mean)
            base = process.reverse(network(zero, at_t), zero, at_s, at_t)
            slope = process.reverse(network(one, at_t), one, at_s, at_t).mean - base.mean
            mean, spread = base.mean + slope * mean, slope**2 * spread + (base.std**2 if s else 0)
        expected = moments(process, times, None)
        assert (float(mean), float(spread)) == pytest.approx(expected, rel=1e-10)

    def test_they_tend_to_those_of_the_data(self):
        gaps = []
        for steps in (50, 100, 200):
            mean, spread = moments(plain(), uniform_grid(STEPS, steps), 0.0)
            gaps.append(abs(spread - STD**2) + abs(mean - MEAN))
        assert gaps[0] > 1.7 * gaps[1] > 1.7 * 1.7 * gaps[2]

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_a_mixture_is_met(self, sampler):
        steps = 30 if isinstance(sampler, (Heun, DPMSolver)) else 120
        process = plain(schedule=CosineSchedule())
        network = LAW.network(process)
        x = sample(
            process,
            network,
            (3000, 1),
            steps=steps,
            sampler=sampler,
            x_T=starts(3000, 1),
            generator=seeded(2),
        )
        assert LAW.ks(x) > 1e-3

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_small_images_of_four_entries_too(self, sampler):
        law = Mixture([[-0.6, 0.1, 0.3, 0.0], [0.4, 0.5, -0.3, 0.2]], [0.15, 0.25], [0.4, 0.6])
        process = plain(schedule=CosineSchedule(), prediction="v", variance="fixed_large")
        steps = 30 if isinstance(sampler, (Heun, DPMSolver)) else 80
        x = sample(
            process,
            law.network(process),
            (2000, 1, 2, 2),
            steps=steps,
            sampler=sampler,
            x_T=starts(2000, 1, 2, 2),
            generator=seeded(3),
        )
        assert x.shape == (2000, 1, 2, 2)
        for direction in ([1, 0, 0, 0], [0, 1, 0, -1], [1, 1, -1, 0.5]):
            assert law.ks(x, direction) > 1e-3

    @pytest.mark.parametrize("kind", ["linear", "quadratic"])
    @pytest.mark.parametrize(("sampler", "eta"), [(Ancestral(), None), (DDIM(), 0.0)], ids=repr)
    def test_variable_noise_levels_are_a_chain_like_any_other(self, sampler, eta, kind):
        process = plain()
        times = noise_levels(process, 8, kind)
        mean, spread = moments(process, times, eta)
        x = sample(
            process,
            NORMAL.network(process),
            (8000, 1),
            steps=times,
            sampler=sampler,
            x_T=starts(8000, 1),
            generator=seeded(4),
        )
        assert Mixture([[mean]], [math.sqrt(spread)], [1.0]).ks(x) > 1e-3


class TestDDIM:
    def case(self, process: GaussianDiffusion, first: int = 0):
        times = torch.tensor(list(itertools.combinations([0, 1, 2, 30, 400, 990, STEPS], 2)))
        s, t = (column[times[:, 0] >= first] for column in times.unbind(1))
        x_t, output = normals(len(s), 2), normals(len(s), 2, seed=1)
        if process.variance == "learned_range":
            output = torch.cat([output, output], 1)
        return x_t, output, s, t

    def step(self, sampler, process, case, seed: int = 7) -> Tensor:
        x_t, output, s, t = case
        return sampler.begin().step(process, lambda x, t: output, x_t, s, t, seeded(seed))

    def mean_and_sigma(self, process, case, eta: float) -> tuple[Tensor, Tensor]:
        """Eq. 12 and 16 of the paper, where alpha is our alpha-bar."""
        x_t, output, s, t = case
        table = process.schedule.alpha_bars(STEPS)
        at_s, at_t = table[s][:, None], table[t][:, None]
        sigma = eta * ((1 - at_s) / (1 - at_t)).sqrt() * (1 - at_t / at_s).sqrt()
        x0 = process.denoise(output, x_t, t)
        eps = (x_t - at_t.sqrt() * x0) / (1 - at_t).sqrt()
        return at_s.sqrt() * x0 + (1 - at_s - sigma**2).clamp(min=0).sqrt() * eps, sigma

    @pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
    @pytest.mark.parametrize("threshold", [None, Clip(), DynamicThreshold(0.6)], ids=repr)
    def test_with_full_noise_it_is_the_ancestral_step(self, prediction, threshold):
        """Equal seeds, equal steps: means and spreads agree, thresholded or not."""
        process = plain(prediction=prediction, threshold=threshold)
        case = self.case(process)
        assert_close(
            self.step(DDIM(1.0), process, case), self.step(Ancestral(), process, case), rtol=1e-6, atol=1e-7
        )

    def test_whole_runs_agree_too(self):
        process = plain(threshold=Clip())
        x, y = (
            sample(
                process,
                LAW.network(process),
                (50, 1),
                steps=20,
                sampler=sampler,
                x_T=starts(50, 1),
                generator=seeded(5),
            )
            for sampler in (DDIM(1.0), Ancestral())
        )
        assert_close(x, y, **CLOSE)

    @pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
    def test_it_does_not_read_the_variance(self, variance):
        """Eta decides; with learned channels the first half is the prediction."""
        process, twin = plain(variance=variance), plain()
        case, plain_case = self.case(process), self.case(twin)
        for eta in (0.0, 0.7):
            assert_close(self.step(DDIM(eta), process, case), self.step(DDIM(eta), twin, plain_case))

    @pytest.mark.parametrize("threshold", [None, Clip()], ids=repr)
    @pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
    def test_one_step_is_the_papers_formula(self, eta, threshold):
        """What is left after the formula's mean, over its sigma, is the noise: the same for every eta."""
        process = plain(threshold=threshold)
        case = self.case(process, first=1)
        mean, sigma = self.mean_and_sigma(process, case, eta)
        found = self.step(DDIM(eta), process, case)
        if eta == 0:
            assert_close(found, mean, **CLOSE)
            return
        z = (found - mean) / sigma
        mean, sigma = self.mean_and_sigma(process, case, 0.6)
        assert_close(z, (self.step(DDIM(0.6), process, case) - mean) / sigma, rtol=1e-6, atol=1e-6)
        assert 0.4 < float(z.std()) < 1.7

    def test_sigma_hat_is_in_the_noise_only(self):
        process = plain()
        case = self.case(process, first=1)
        mean, sigma = self.mean_and_sigma(process, case, 1.0)
        table = process.schedule.alpha_bars(STEPS)
        hat = (1 - table[case[3]] / table[case[2]]).sqrt()[:, None]
        assert (hat > sigma).all()
        z = (self.step(DDIM(1.0), process, case) - mean) / sigma
        assert_close(self.step(DDIM(1.0, "hat"), process, case), mean + hat * z, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize(
        "sampler", [DDIM(), DDIM(0.5), DDIM(1.0), DDIM(1.0, "hat"), Ancestral()], ids=repr
    )
    def test_the_last_step_is_the_estimate_itself(self, sampler):
        process = plain(threshold=Clip())
        x_t, output, s, t = self.case(process)
        last = s == 0
        found = self.step(sampler, process, (x_t, output, s, t))
        assert_close(found[last], process.denoise(output, x_t, t)[last], **CLOSE)

    def test_sigma_of_a_strided_chain(self):
        """Eta = 1 on a strided chain has the strided posterior's variance: 50 steps of 20, linear, T = 1000."""
        process = plain()
        betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
        kept = [math.prod(1 - b for b in betas[:t]) for t in (480, 500)]
        sigma = math.sqrt((1 - kept[0]) / (1 - kept[1]) * (1 - kept[1] / kept[0]))
        assert sigma == pytest.approx(0.4198, abs=5e-5)
        x = torch.zeros(20_000, 1).double()
        s, t = batch(480, x), batch(500, x)
        found = DDIM(1.0).step(process, lambda x, t: x, x, s, t, seeded(8))
        assert float(found.std()) == pytest.approx(sigma, rel=0.02)

    @pytest.mark.parametrize(
        ("eta", "noise"), [(-0.1, "eta"), (1.1, "eta"), (math.nan, "eta"), (1.0, "other")]
    )
    def test_what_cannot_be(self, eta, noise):
        with pytest.raises(ConfigError) as caught:
            DDIM(eta, noise)
        assert "\n" not in str(caught.value)


def exact_flow(x: Tensor, at_t: float, at_s: float) -> Tensor:
    """Normal data: the probability flow keeps (x - mean) / std."""
    std_t, std_s = (math.sqrt(a * STD**2 + 1 - a) for a in (at_t, at_s))
    return math.sqrt(at_s) * MEAN + std_s / std_t * (x - math.sqrt(at_t) * MEAN)


def solved_flow(law: Mixture, x: Tensor, at_t: float, at_s: float) -> Tensor:
    """Dy / dz = eps in y = x / sqrt(abar), z = sqrt(1 / abar - 1), by an adaptive method of order 8."""
    from scipy.integrate import solve_ivp

    def slope(z: float, y):
        at = 1 / (1 + z * z)
        return law.eps(math.sqrt(at) * torch.as_tensor(y)[:, None], at)[:, 0].numpy()

    ends = [math.sqrt(1 / at - 1) for at in (at_t, at_s)]
    y = solve_ivp(slope, ends, x[:, 0].numpy() / math.sqrt(at_t), method="DOP853", rtol=1e-10, atol=1e-11).y[
        :, -1
    ]
    return math.sqrt(at_s) * torch.as_tensor(y)[:, None]


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


class TestOrder:
    """Halving the steps divides the error by 2 (DDIM) or 4 (Heun, DPM-Solver++)."""

    ORDERS = pytest.mark.parametrize(("sampler", "order"), list(zip(FLOWS, [1, 2, 2], strict=True)), ids=repr)

    def levels(self, process: GaussianDiffusion, first: int, last: int, steps: int) -> list[float]:
        """Times whose log signal-to-noise ratios are evenly spaced."""
        ends = process.alpha_bar(torch.tensor([first, last]))
        grid = torch.linspace(*torch.logit(ends).tolist(), steps + 1, dtype=torch.float64)
        return process.time(torch.sigmoid(grid)).tolist()

    def angles(self, process: GaussianDiffusion, steps: int) -> list[float]:
        """Times from T to 0, even in the angle whose tangent is the noise-to-signal ratio."""
        first = math.acos(math.sqrt(float(process.alpha_bar(torch.tensor([STEPS])))))
        levels = torch.linspace(first, 0, steps + 1, dtype=torch.float64).cos() ** 2
        return [float(STEPS), *process.time(levels).tolist()[1:-1], 0.0]

    @ORDERS
    @pytest.mark.parametrize("prediction", ["eps", "v"])
    def test_on_the_flow_of_normal_data(self, sampler, order, prediction):
        process, x = plain(prediction=prediction), starts(20, 1)
        network, errors = NORMAL.network(process), []
        for steps in (32, 64, 128):
            times = self.levels(process, 950, 20, steps)
            ends = process.alpha_bar(torch.tensor([times[0], times[-1]], dtype=torch.float64)).tolist()
            found = run(sampler, process, network, x, times)
            errors.append(float((found - exact_flow(x, *ends)).abs().max()))
        assert slopes(errors)[-1] == pytest.approx(order, abs=0.2)
        assert errors[-1] < {1: 0.05, 2: 2e-3}[order]

    @ORDERS
    def test_on_the_flow_of_a_mixture(self, sampler, order):
        process, x = plain(), starts(20, 1)
        network, errors = LAW.network(process), []
        for steps in (64, 128):
            times = self.levels(process, 900, 100, steps)
            ends = process.alpha_bar(torch.tensor([times[0], times[-1]], dtype=torch.float64)).tolist()
            found = run(sampler, process, network, x, times)
            errors.append(float((found - solved_flow(LAW, x, *ends)).abs().mean()))
        assert slopes(errors)[-1] == pytest.approx(order, abs=0.2)

    @ORDERS
    def test_uneven_steps_keep_it(self, sampler, order):
        """A multistep method must weigh the step before by its length."""
        process, x = plain(), starts(20, 1)
        network, errors = NORMAL.network(process), []
        for steps in (32, 64, 128):
            fine = self.levels(process, 950, 20, 3 * steps)
            times = [t for i, t in enumerate(fine) if i % 3 != 1]
            ends = process.alpha_bar(torch.tensor([times[0], times[-1]], dtype=torch.float64)).tolist()
            found = run(sampler, process, network, x, times)
            errors.append(float((found - exact_flow(x, *ends)).abs().max()))
        assert slopes(errors)[-1] == pytest.approx(order, abs=0.25)

    @ORDERS
    def test_down_to_the_data_with_steps_that_shrink(self, sampler, order):
        process, x = plain(), starts(20, 1)
        network, errors = NORMAL.network(process), []
        start = float(process.alpha_bar(torch.tensor([STEPS])))
        for steps in (128, 512):
            found = sample(
                process, network, (20, 1), steps=self.angles(process, steps), sampler=sampler, x_T=x
            )
            errors.append(float((found - exact_flow(x, start, 1.0)).abs().max()))
        # A multistep method has a logarithm more: its last steps double the signal-to-noise ratio.
        assert slopes(errors)[0] / 2 == pytest.approx(order, abs=0.4)

    @pytest.mark.parametrize("sampler", FLOWS[1:], ids=repr)
    @pytest.mark.parametrize("steps", [5, 10, 20])
    def test_few_steps_of_the_second_order_are_no_worse_than_the_first(self, sampler, steps):
        """Also where almost nothing of the data is left at T: the noise-to-signal ratio is 20,000 there."""
        process, x = plain(schedule=CosineSchedule()), starts(200, 1)
        exact = exact_flow(x, float(process.alpha_bar(torch.tensor([STEPS]))), 1.0)
        first, second = (
            sample(process, NORMAL.network(process), (200, 1), steps=steps, sampler=each, x_T=x)
            for each in (DDIM(), sampler)
        )
        assert float((second - exact).abs().mean()) < float((first - exact).abs().mean())

    def test_fifty_calls_of_the_second_order_beat_two_hundred_of_the_first(self):
        process, x = plain(), starts(50, 1)
        start = float(process.alpha_bar(torch.tensor([STEPS])))
        exact, network, errors = exact_flow(x, start, 1.0), NORMAL.network(process), {}
        for sampler, steps in ((DDIM(), 200), (Heun(), 25), (DPMSolver(), 50)):
            found = sample(
                process, network, (50, 1), steps=self.angles(process, steps), sampler=sampler, x_T=x
            )
            errors[type(sampler)] = float((found - exact).abs().max())
        assert errors[Heun] < errors[DDIM]
        assert errors[DPMSolver] < errors[DDIM]


class TestMultistep:
    """DPM-Solver++(2M) step by step: its order alone would not tell a wrong weight of the step before."""

    def test_two_steps_are_algorithm_2(self):
        process, times = plain(), [940, 700, 130]
        x = normals(5, 2)
        outputs = {t: normals(5, 2, seed=t) for t in times}
        table = process.schedule.alpha_bars(STEPS).tolist()
        alpha, sigma = ({t: f(table[t]) for t in times} for f in (math.sqrt, lambda a: math.sqrt(1 - a)))
        lam = {t: math.log(alpha[t] / sigma[t]) for t in times}
        estimate = {}
        before, first, second = times
        estimate[before] = (x - sigma[before] * outputs[before]) / alpha[before]
        h_1, h_2 = lam[first] - lam[before], lam[second] - lam[first]
        y = sigma[first] / sigma[before] * x - alpha[first] * math.expm1(-h_1) * estimate[before]
        estimate[first] = (y - sigma[first] * outputs[first]) / alpha[first]
        r = h_1 / h_2
        mix = (1 + 1 / (2 * r)) * estimate[first] - 1 / (2 * r) * estimate[before]
        z = sigma[second] / sigma[first] * y - alpha[second] * math.expm1(-h_2) * mix

        def network(x_t, t):
            return outputs[int(t[0])]

        assert_close(run(DPMSolver(), process, network, x, times), z, **CLOSE)

    @pytest.mark.parametrize("sampler", [DDIM(), DPMSolver()], ids=repr)
    def test_where_the_data_are_known_one_step_is_as_good_as_many(self, sampler):
        """A constant estimate: the flow is a line in (alpha, sigma), which both follow exactly."""
        process, x = plain(prediction="x0"), normals(5, 1)

        def network(x_t, t):
            return torch.full_like(x_t, 0.4)

        start, end = process.alpha_bar(torch.tensor([900, 50])).tolist()
        exact = math.sqrt(end) * 0.4 + math.sqrt((1 - end) / (1 - start)) * (x - math.sqrt(start) * 0.4)
        for times in ([900, 50], [900, 500, 50], [900, 850, 300, 51, 50]):
            found = run(sampler, process, network, x, times)
            assert_close(found, exact, **CLOSE)

    def test_a_fresh_run_forgets_the_last(self):
        process, x, used = plain(), normals(4, 1), DPMSolver()
        network, s, t = LAW.network(process), batch(300, x), batch(500, x)
        used.step(process, network, x, t, batch(900, x), None)
        found = used.begin().step(process, network, x, s, t, None)
        assert_close(found, DDIM().step(process, network, x, s, t, None), **CLOSE)


class TestCalls:
    def watched(self, sampler, steps: int):
        process, calls = plain(), []

        def network(x_t, t):
            calls.append((float(t[0]), x_t.clone()))
            return LAW.network(process)(x_t, t)

        x = sample(
            process, network, (4, 1), steps=steps, sampler=sampler, x_T=starts(4, 1), generator=seeded()
        )
        return calls, x

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_how_many_and_never_at_no_time(self, sampler):
        calls, _ = self.watched(sampler, 10)
        assert len(calls) == (19 if isinstance(sampler, Heun) else 10)
        assert all(t >= 1 for t, _ in calls)
        assert calls[0][0] == STEPS

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_the_first_sees_the_latent_it_is_given(self, sampler):
        assert torch.equal(self.watched(sampler, 3)[0][0][1], starts(4, 1))

    @pytest.mark.parametrize("sampler", FLOWS, ids=repr)
    def test_flows_do_not_read_the_generator(self, sampler):
        process, network = plain(), LAW.network(plain())
        x, y = (
            sample(
                process, network, (4, 1), steps=5, sampler=sampler, x_T=starts(4, 1), generator=seeded(seed)
            )
            for seed in (1, 2)
        )
        assert torch.equal(x, y)

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_one_sampler_serves_many_runs(self, sampler):
        assert torch.equal(self.watched(sampler, 6)[1], self.watched(sampler, 6)[1])

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_pictures_end_in_their_range_whatever_the_network_says(self, sampler):
        process = GaussianDiffusion(LinearSchedule(), STEPS, prediction="x0")
        x = sample(
            process,
            lambda x_t, t: 30 * x_t.sin() + 3,
            (3, 1, 4, 4),
            steps=8,
            sampler=sampler,
            generator=seeded(),
        )
        assert float(x.abs().max()) <= 1 + 1e-6
        assert x.dtype == torch.float32

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    @pytest.mark.parametrize("prediction", ["v", "x0", "mean"])
    def test_a_start_without_any_signal_is_a_start(self, sampler, prediction):
        process = plain(schedule=ReciprocalSchedule(), num_steps=100, prediction=prediction)
        x = sample(
            process,
            LAW.network(process),
            (2000, 1),
            steps=50,
            sampler=sampler,
            x_T=starts(2000, 1),
            generator=seeded(),
        )
        assert x.isfinite().all()
        assert float(x.mean()) == pytest.approx(float(LAW.mean), abs=0.08)
        assert float(x.std()) == pytest.approx(float(LAW.std), rel=0.15)

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_float32_runs_stay_near_float64(self, sampler):
        process = plain()
        wide, narrow = (
            sample(
                process,
                LAW.network(process),
                (20, 1),
                steps=10,
                sampler=sampler if isinstance(sampler, (Heun, DPMSolver)) else DDIM(),
                x_T=starts(20, 1).to(dtype),
            )
            for dtype in (torch.float64, torch.float32)
        )
        assert narrow.dtype == torch.float32
        assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
    def test_each_example_has_its_own_step(self, sampler):
        process = plain()
        s, t = torch.tensor([0, 100, 480]), torch.tensor([7, 300, 500])
        x, network = normals(3, 1), LAW.network(process)
        together = sampler.begin().step(process, network, x, s, t, seeded(1))
        if sampler in FLOWS:
            for i in range(3):
                one = slice(i, i + 1)
                alone = sampler.begin().step(process, network, x[one], s[one], t[one], None)
                assert_close(together[one], alone, **CLOSE)
        assert_close(together[0], process.denoise(network(x, t), x, t)[0], **CLOSE)

    @pytest.mark.parametrize("sampler", SAMPLERS[1:], ids=repr)
    def test_the_other_wing_is_refused_in_one_line(self, sampler):
        other = pytest.importorskip("d3pm.discrete.process", reason="the other wing is not here")
        process = other.DiscreteDiffusion(AbsorbingTransition(num_states=4, num_steps=5))
        with pytest.raises(ConfigError) as caught:
            sample(process, lambda x, t: torch.zeros(*x.shape, 4), (2, 3), sampler=sampler)
        assert "\n" not in str(caught.value)


class TestInversion:
    def test_it_climbs_the_flow(self):
        """The latent of normal data is known, and so is the order."""
        process, x0 = plain(), NORMAL.sample(30, seeded(1))
        end, errors = float(process.alpha_bar(torch.tensor([STEPS]))), []
        for steps in (50, 100, 200):
            latent = invert(process, NORMAL.network(process), x0, uniform_grid(STEPS, steps))
            errors.append(float((latent - exact_flow(x0, 1.0, end)).abs().max()))
        assert slopes(errors)[-1] == pytest.approx(1, abs=0.25)
        assert errors[-1] < 0.05

    @pytest.mark.parametrize(("grid", "prediction"), [(uniform_grid, "eps"), (quadratic_grid, "v")])
    def test_and_ddim_comes_back_within_its_error(self, grid, prediction):
        process, x0 = plain(prediction=prediction), LAW.sample(30, seeded(2))
        errors, network = [], LAW.network(process)
        for steps in (50, 100, 200):
            times = grid(STEPS, steps)
            latent = invert(process, network, x0, times)
            back = sample(process, network, x0.shape, steps=times, sampler=DDIM(), x_T=latent)
            assert torch.equal(reconstruct(process, network, x0, times), back)
            errors.append(float((back - x0).abs().mean()))
        assert slopes(errors)[-1] > 0.7
        assert errors[-1] < 0.02

    def test_latents_of_data_are_normal(self):
        process, x0 = plain(schedule=CosineSchedule()), LAW.sample(3000, seeded(3))
        latent = invert(process, LAW.network(process), x0, uniform_grid(STEPS, 200))
        assert Mixture([[0.0]], [1.0], [1.0]).ks(latent) > 1e-3

    def test_conditions_are_passed_on(self):
        process, x0 = plain(), LAW.sample(10, seeded(4))
        times, labels = uniform_grid(STEPS, 20), torch.ones(10, dtype=torch.int64)
        with_label = invert(process, LAW.network(process), x0, times, labels=labels)
        alone = invert(process, LAW.component(1).network(process), x0, times)
        assert_close(with_label, alone, **CLOSE)

    @pytest.mark.parametrize("times", [[0, 5, 10], [10, 5], [10, 10, 0], [0]])
    def test_times_that_do_not_fall_to_zero(self, times):
        process = plain()
        with pytest.raises(ConfigError) as caught:
            invert(process, LAW.network(process), LAW.sample(2, seeded()), times)
        assert "\n" not in str(caught.value)


class TestSlerp:
    def angle(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.flatten(1), b.flatten(1)
        return torch.acos(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1))

    def test_it_walks_the_great_circle_at_even_pace(self):
        a, b = normals(5, 3, 4, 4), normals(5, 3, 4, 4, seed=1)
        norm = a.flatten(1).norm(dim=1)
        b = b * (norm / b.flatten(1).norm(dim=1))[:, None, None, None]
        share = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0]).double()
        found = slerp(a, b, share)
        assert_close(found.flatten(1).norm(dim=1), norm, rtol=1e-12, atol=0)
        assert_close(self.angle(a, found), share * self.angle(a, b), rtol=0, atol=1e-6)
        assert_close(self.angle(found, b), (1 - share) * self.angle(a, b), rtol=0, atol=1e-6)

    def test_ends_are_the_latents(self):
        a, b = normals(2, 6), normals(2, 6, seed=1)
        assert_close(slerp(a, b, torch.zeros(2).double()), a)
        assert_close(slerp(a, b, torch.ones(2).double()), b)

    def test_what_it_gives_is_what_the_prior_draws(self):
        """Of independent latents in high dimension it keeps the law; a straight line shrinks it by sqrt 2."""
        a, b = normals(200, 4000), normals(200, 4000, seed=1)
        half = torch.full((200,), 0.5).double()
        assert float(slerp(a, b, half).std()) == pytest.approx(1, abs=0.01)
        assert float(torch.lerp(a, b, 0.5).std()) == pytest.approx(math.sqrt(0.5), abs=0.01)

    def test_equal_latents_stay(self):
        a = normals(3, 5)
        assert_close(slerp(a, a.clone(), torch.tensor([0.0, 0.3, 1.0]).double()), a)
        near = a + 1e-12
        assert_close(slerp(a, near, torch.full((3,), 0.4).double()), a, rtol=1e-6, atol=1e-6)


class TestNoiseLevels:
    @pytest.mark.parametrize("kind", ["linear", "quadratic"])
    @pytest.mark.parametrize("steps", [2, 10, 50, 200])
    def test_they_fall_from_the_process_to_the_data(self, kind, steps):
        process = plain()
        times = noise_levels(process, steps, kind)
        assert len(times) == steps + 1
        assert times[-1] == 0
        assert all(a > b for a, b in pairwise(times))
        assert times[0] <= STEPS
        level = process.alpha_bar(torch.tensor(times[:1], dtype=torch.float64))
        assert_close(level, process.alpha_bar(torch.tensor([STEPS])), rtol=1e-8, atol=0)

    @pytest.mark.parametrize(("kind", "power"), [("linear", 1), ("quadratic", 2)])
    def test_variances_grow_as_named(self, kind, power):
        process, steps = plain(), 30
        times = torch.tensor(noise_levels(process, steps, kind), dtype=torch.float64)
        levels = process.alpha_bar(times).flip(0)  # from 1 down to alpha_bar_T
        eta = 1 - levels[1:] / levels[:-1]
        assert (eta > 0).all()
        assert (eta < 1).all()
        first = float(1 - process.alpha_bar(torch.tensor([1])))
        assert_close(eta[0], torch.tensor(first, dtype=torch.float64), rtol=1e-6, atol=0)
        growth = (eta / first) ** (1 / power) - 1  # proportional to the place, 0 … S - 1
        assert_close(growth / growth[-1], torch.linspace(0, 1, steps, dtype=torch.float64), rtol=0, atol=1e-6)

    def test_all_the_steps_of_the_linear_schedule_are_its_whole_times(self):
        times = noise_levels(plain(), STEPS, "linear")
        assert times == pytest.approx(list(range(STEPS, -1, -1)), abs=1e-4)

    @pytest.mark.parametrize(("steps", "kind"), [(0, "linear"), (-2, "linear"), (10, "cubic")])
    def test_what_cannot_be(self, steps, kind):
        with pytest.raises(ConfigError) as caught:
            noise_levels(plain(), steps, kind)
        assert "\n" not in str(caught.value)

    def test_no_variances_below_one_reach_nothing(self):
        with pytest.raises(ConfigError):
            noise_levels(plain(schedule=ReciprocalSchedule(), prediction="v"), 10)
