"""GaussianDiffusion against Bayes' rule on normal densities, written out here in float64."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d3pm import GaussianDiffusion
from d3pm.distributions import Normal
from d3pm.errors import D3PMError
from d3pm.gaussian.threshold import Clip, DynamicThreshold
from d3pm.schedules import CosineSchedule, LinearSchedule, ReciprocalSchedule

PREDICTIONS = ["eps", "x0", "v", "mean"]
FIXED = ["fixed_large", "fixed_small"]
SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule()}
STEPS = 40
EXACT = {"rtol": 1e-11, "atol": 1e-12}
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def column(values: Tensor) -> Tensor:
    return values.double()[:, None]


def pairs(num_steps: int = STEPS, first: int = 0) -> tuple[Tensor, Tensor]:
    """Every first <= s < t <= T."""
    both = torch.tensor(list(itertools.combinations(range(first, num_steps + 1), 2)))
    return both[:, 0], both[:, 1]


def plain(schedule=None, **kwargs) -> GaussianDiffusion:
    """No levels and no threshold: densities and affine maps all the way."""
    kwargs = {"num_steps": STEPS, "threshold": None, "levels": None, **kwargs}
    return GaussianDiffusion(schedule or LinearSchedule(), **kwargs)


@pytest.fixture(params=SCHEDULES, ids=str)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture
def alpha_bars(schedule) -> Tensor:
    return schedule.alpha_bars(STEPS)


@pytest.fixture
def process(schedule) -> GaussianDiffusion:
    return plain(schedule)


class TestSignal:
    def test_it_is_the_schedules_table_in_float64(self, process, alpha_bars):
        found = process.alpha_bar(torch.arange(STEPS + 1))
        assert found.dtype == torch.float64
        assert found[0] == 1
        assert_close(found, alpha_bars, rtol=1e-14, atol=0)

    def test_whole_times_are_the_same_in_float(self, process, alpha_bars):
        found = process.alpha_bar(torch.arange(STEPS + 1, dtype=torch.float64))
        assert_close(found, alpha_bars, rtol=1e-10, atol=0)

    def test_between_whole_times_it_falls_strictly_from_one_to_the_next(self, process, alpha_bars):
        whole = torch.arange(STEPS, dtype=torch.float64)
        inside = torch.stack([process.alpha_bar(whole + part) for part in (0.0, 0.1, 0.5, 0.9)])
        assert (inside.diff(dim=0) < 0).all()
        assert (inside[-1] > alpha_bars[1:]).all()

    def test_time_is_its_inverse(self, process, alpha_bars):
        t = STEPS * torch.rand(500, generator=seeded(1), dtype=torch.float64)
        assert_close(process.time(process.alpha_bar(t)), t, rtol=1e-8, atol=1e-8)
        whole = torch.arange(STEPS + 1, dtype=torch.float64)
        assert_close(process.time(alpha_bars), whole, rtol=1e-9, atol=1e-9)


class TestForward:
    def test_the_prior_is_standard_normal(self, process):
        prior = process.prior((3, 2))
        assert_close(prior.mean.double(), torch.zeros(3, 2, dtype=torch.float64))
        assert_close(prior.std.double(), torch.ones(3, 2, dtype=torch.float64))

    def test_marginal(self, process, alpha_bars):
        x0, t = normals(STEPS + 1, 3), torch.arange(STEPS + 1)
        law = process.marginal(x0, t)
        assert_close(law.mean, alpha_bars.sqrt()[:, None] * x0, **EXACT)
        assert_close(law.std, (1 - alpha_bars).sqrt()[:, None].expand(-1, 3), **EXACT)

    def test_steps_compose(self, process, alpha_bars):
        """q(x_s | x_0), then x_t = sqrt(a) x_s + sqrt(1 - a) noise with a the ratio of signals, is q(x_t | x_0)."""
        s, t = pairs()
        x0 = normals(len(s), 2)
        ratio = column(alpha_bars[t] / alpha_bars[s])
        before, after = process.marginal(x0, s), process.marginal(x0, t)
        assert_close(ratio.sqrt() * before.mean, after.mean, **EXACT)
        assert_close(ratio * before.std**2 + 1 - ratio, after.std**2, **EXACT)

    def test_noise_is_what_was_added(self, process, alpha_bars):
        x0, eps = normals(STEPS, 2), normals(STEPS, 2, seed=1)
        t = torch.arange(1, STEPS + 1)
        x_t = column(alpha_bars[t].sqrt()) * x0 + column((1 - alpha_bars[t]).sqrt()) * eps
        assert_close(process.noise(x0, x_t, t), eps, **CLOSE)

    def test_images_keep_their_shape_and_each_its_own_time(self, process, alpha_bars):
        x0, t = normals(4, 3, 5, 2), torch.tensor([1, 7, 30, STEPS])
        law = process.marginal(x0, t)
        assert_close(law.mean, alpha_bars[t].sqrt()[:, None, None, None] * x0, **EXACT)
        together = process.posterior(x0, normals(4, 3, 5, 2, seed=2), t - 1, t)
        for i in range(4):
            one = slice(i, i + 1)
            alone = process.posterior(x0[one], normals(4, 3, 5, 2, seed=2)[one], t[one] - 1, t[one])
            assert_close(together.mean[one], alone.mean, **EXACT)
            assert_close(together.std[one], alone.std, **EXACT)

    def test_float32_data_meets_float64_tables(self):
        """A float32 product of signals would put 1 - alpha_bar_1 off by 2e-4."""
        process = plain(num_steps=1000)
        x0, t = torch.zeros(1, 1), torch.tensor([1])
        assert float(process.marginal(x0, t).std[0, 0]) ** 2 == pytest.approx(1e-4, rel=1e-6)
        assert process.marginal(x0, t).mean.dtype == torch.float32


class TestPosterior:
    def test_it_is_bayes_rule_point_by_point(self, process, alpha_bars):
        """That is log q(x_s|x_t,x_0) = log q(x_s|x_0) + log q(x_t|x_s) - log q(x_t|x_0), densities written out."""
        s, t = pairs(first=1)
        x0, x_t, x_s = normals(len(s), 2), normals(len(s), 2, seed=1), normals(len(s), 2, seed=2)
        ratio, at_s, at_t = (column(v) for v in (alpha_bars[t] / alpha_bars[s], alpha_bars[s], alpha_bars[t]))

        def density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
            return -0.5 * (x - mean) ** 2 / variance - 0.5 * (2 * math.pi * variance).log()

        expected = (
            density(x_s, at_s.sqrt() * x0, 1 - at_s)
            + density(x_t, ratio.sqrt() * x_s, 1 - ratio)
            - density(x_t, at_t.sqrt() * x0, 1 - at_t)
        )
        assert_close(process.posterior(x0, x_t, s, t).log_prob(x_s), expected, rtol=1e-7, atol=1e-7)

    def test_at_no_time_it_is_a_point_at_the_data(self, process):
        t = torch.arange(1, STEPS + 1)
        x0 = normals(STEPS, 2)
        law = process.posterior(x0, normals(STEPS, 2, seed=1), torch.zeros_like(t), t)
        assert_close(law.mean, x0, rtol=0, atol=1e-13)
        assert (law.std == 0).all()

    def test_it_averages_to_the_marginal(self, process, alpha_bars):
        """Its mean is affine in x_t, so the average over q(x_t | x_0) is exact."""
        s, t = pairs()
        x0 = normals(len(s), 1)
        zero, one = torch.zeros_like(x0), torch.ones_like(x0)
        law = process.posterior(x0, zero, s, t)
        slope = process.posterior(x0, one, s, t).mean - law.mean
        at_s, at_t = column(alpha_bars[s]), column(alpha_bars[t])
        assert_close(law.mean + slope * at_t.sqrt() * x0, at_s.sqrt() * x0, **CLOSE)
        assert_close(slope**2 * (1 - at_t) + law.std**2, 1 - at_s, **CLOSE)

    def test_fractional_times_are_times(self, process):
        s, t = pairs()
        x0, x_t = normals(len(s), 2), normals(len(s), 2, seed=1)
        whole = process.posterior(x0, x_t, s, t)
        fraction = process.posterior(x0, x_t, s.double(), t.double())
        assert_close(whole.mean, fraction.mean, **CLOSE)
        assert_close(whole.std, fraction.std, **CLOSE)

    def test_steps_between_whole_times_compose_too(self, process):
        """Down from t to r to s, with x_0 known, is down from t to s."""
        s, r, t = (torch.tensor([v], dtype=torch.float64) for v in (3.25, 7.5, 20.75))
        x0, x_t = normals(1, 1), normals(1, 1, seed=1)
        first = process.posterior(x0, x_t, r, t)
        second = process.posterior(x0, torch.zeros_like(x_t), s, r)
        slope = process.posterior(x0, torch.ones_like(x_t), s, r).mean - second.mean
        direct = process.posterior(x0, x_t, s, t)
        assert_close(second.mean + slope * first.mean, direct.mean, **CLOSE)
        assert_close((slope**2 * first.std**2 + second.std**2).sqrt(), direct.std, **CLOSE)


class TestPredictions:
    @pytest.mark.parametrize("prediction", PREDICTIONS)
    def test_denoise_undoes_target(self, schedule, prediction):
        process, t = plain(schedule, prediction=prediction), torch.arange(1, STEPS + 1)
        x0, x_t = 3 * normals(STEPS, 2), normals(STEPS, 2, seed=1)
        assert_close(process.denoise(process.target(x0, x_t, t), x_t, t), x0, rtol=1e-7, atol=1e-7)

    def test_targets_are_the_papers(self, schedule, alpha_bars):
        t = torch.arange(1, STEPS + 1)
        x0, eps = normals(STEPS, 2), normals(STEPS, 2, seed=1)
        keep, lose = column(alpha_bars[t].sqrt()), column((1 - alpha_bars[t]).sqrt())
        x_t = keep * x0 + lose * eps
        ours = {p: plain(schedule, prediction=p).target(x0, x_t, t) for p in PREDICTIONS}
        assert_close(ours["eps"], eps, **CLOSE)
        assert_close(ours["x0"], x0, **CLOSE)
        assert_close(ours["v"], keep * eps - lose * x0, **CLOSE)
        assert_close(ours["mean"], plain(schedule).posterior(x0, x_t, t - 1, t).mean, **CLOSE)

    @pytest.mark.parametrize("threshold", [None, Clip(), DynamicThreshold(0.8)], ids=repr)
    @pytest.mark.parametrize("variance", [*FIXED, "learned_range"])
    def test_what_says_the_same_gives_the_same_law(self, schedule, variance, threshold):
        s, t = pairs()
        x0, x_t = 1.5 * normals(len(s), 3), normals(len(s), 3, seed=1)
        spread = [normals(len(s), 3, seed=2)] if variance == "learned_range" else []
        laws = []
        for prediction in PREDICTIONS:
            process = plain(schedule, prediction=prediction, variance=variance, threshold=threshold)
            laws.append(process.reverse(torch.cat([process.target(x0, x_t, t), *spread], 1), x_t, s, t))
        for law in laws[1:]:
            assert_close(law.mean, laws[0].mean, rtol=1e-6, atol=1e-6)
            assert_close(law.std, laws[0].std, **EXACT)

    @pytest.mark.parametrize("variance", FIXED)
    def test_being_right_about_the_data_gives_the_posterior_mean(self, schedule, variance):
        process = plain(schedule, prediction="x0", variance=variance)
        s, t = pairs()
        x0, x_t = normals(len(s), 2), normals(len(s), 2, seed=1)
        law = process.reverse(x0, x_t, s, t)
        assert_close(law.mean, process.posterior(x0, x_t, s, t).mean, **CLOSE)

    @pytest.mark.parametrize("variance", [*FIXED, "learned_range"])
    @pytest.mark.parametrize("levels", [None, 256])
    def test_predict_is_the_step_to_the_data(self, schedule, variance, levels):
        process = plain(schedule, variance=variance, levels=levels, threshold=Clip())
        t = torch.arange(1, STEPS + 1)
        x_t, x0 = normals(STEPS, 2, seed=1), normals(STEPS, 2, seed=3).clamp(-1, 1)
        output = normals(STEPS, 4 if variance == "learned_range" else 2, seed=2)
        belief, step = process.predict(output, x_t, t), process.reverse(output, x_t, torch.zeros_like(t), t)
        assert_close(belief.mean, step.mean, **EXACT)
        assert_close(belief.std, step.std, **EXACT)
        assert_close(belief.log_prob(x0), step.log_prob(x0), **EXACT)
        assert_close(step.mean, process.denoise(output, x_t, t), **EXACT)


class TestVariance:
    def bounds(self, alpha_bars: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's variance and the forward step's."""
        beta = 1 - alpha_bars[t] / alpha_bars[s]
        return beta * (1 - alpha_bars[s]) / (1 - alpha_bars[t]), beta

    def std(self, process: GaussianDiffusion, s: Tensor, t: Tensor, *spread: float) -> Tensor:
        x = torch.zeros(len(t), 1, dtype=torch.float64)
        channels = [torch.full_like(x, f) for f in spread]
        return process.reverse(torch.cat([x, *channels], 1), x, s, t).std[:, 0]

    def test_fixed_ones_are_the_two_bounds(self, schedule, alpha_bars):
        s, t = pairs(first=1)
        small, large = self.bounds(alpha_bars, s, t)
        assert_close(self.std(plain(schedule, variance="fixed_small"), s, t), small.sqrt(), **CLOSE)
        assert_close(self.std(plain(schedule, variance="fixed_large"), s, t), large.sqrt(), **CLOSE)

    @pytest.mark.parametrize("value", [-1.0, -0.3, 0.0, 0.7, 1.0, 1.4])
    def test_the_learned_one_is_a_geometric_mean_of_them(self, schedule, alpha_bars, value):
        s, t = pairs(first=1)
        small, large = self.bounds(alpha_bars, s, t)
        share = (value + 1) / 2
        expected = large ** (share / 2) * small ** ((1 - share) / 2)
        found = self.std(plain(schedule, variance="learned_range"), s, t, value)
        assert_close(found, expected, **CLOSE)

    @pytest.mark.parametrize("variance", FIXED)
    def test_at_the_first_step_it_is_that_of_the_second(self, schedule, alpha_bars, variance):
        small, _ = self.bounds(alpha_bars, torch.tensor([1]), torch.tensor([2]))
        found = self.std(plain(schedule, variance=variance), torch.tensor([0]), torch.tensor([1]))
        assert_close(found, small.sqrt(), **CLOSE)

    @pytest.mark.parametrize("variance", FIXED)
    def test_long_last_steps_look_as_far_ahead_and_find_nothing_beyond_the_end(
        self, schedule, alpha_bars, variance
    ):
        extended = torch.cat([alpha_bars, torch.zeros(STEPS, dtype=torch.float64)])
        t = torch.arange(1, STEPS + 1)
        small, _ = self.bounds(extended, t, 2 * t)
        found = self.std(plain(schedule, variance=variance), torch.zeros_like(t), t)
        assert_close(found, small.sqrt(), **CLOSE)

    def test_the_learned_one_of_the_first_step_lies_between_beta_1_and_the_posterior_of_the_second(
        self, schedule, alpha_bars
    ):
        small, _ = self.bounds(alpha_bars, torch.tensor([1]), torch.tensor([2]))
        large = 1 - alpha_bars[1:2]
        process, s, t = plain(schedule, variance="learned_range"), torch.tensor([0]), torch.tensor([1])
        assert_close(self.std(process, s, t, -1.0), small.sqrt(), **CLOSE)
        assert_close(self.std(process, s, t, 1.0), large.sqrt(), **CLOSE)

    @pytest.mark.parametrize("variance", [*FIXED, "learned_range"])
    def test_no_chain_is_too_short_and_no_variance_is_zero(self, variance):
        process = plain(CosineSchedule(), num_steps=1, variance=variance)
        spread = [0.0] if variance == "learned_range" else []
        assert self.std(process, torch.tensor([0]), torch.tensor([1]), *spread).isfinite().all()
        assert (self.std(process, torch.tensor([0]), torch.tensor([1]), *spread) > 0).all()

    def test_split(self):
        x_t, output = normals(2, 3, 4, 4), normals(2, 6, 4, 4)
        prediction, spread = plain(variance="learned_range").split(output, x_t)
        assert torch.equal(prediction, output[:, :3])
        assert torch.equal(spread, output[:, 3:])
        prediction, spread = plain().split(output[:, :3], x_t)
        assert torch.equal(prediction, output[:, :3])
        assert spread is None


class TestStep:
    def test_the_last_one_shows_the_mean(self, schedule):
        process = plain(schedule)
        s, t = torch.tensor([0, 0, 2]), torch.tensor([1, 7, 7])
        output, x_t = normals(3, 2), normals(3, 2, seed=1)
        law = process.reverse(output, x_t, s, t)
        found = process.step(output, x_t, s, t, seeded(5))
        assert_close(found[:2], law.mean[:2], **EXACT)
        assert not torch.allclose(found[2], law.mean[2])

    def test_the_others_draw_from_the_law(self, schedule):
        from scipy.stats import kstest

        process = plain(schedule)
        s, t = torch.full((20_000,), 5), torch.full((20_000,), 9)
        output, x_t = normals(20_000, 1), normals(20_000, 1, seed=1)
        law = process.reverse(output, x_t, s, t)
        z = (process.step(output, x_t, s, t, seeded(6)) - law.mean) / law.std
        assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
        assert torch.equal(
            process.step(output, x_t, s, t, seeded(6)), process.step(output, x_t, s, t, seeded(6))
        )


class TestThreshold:
    def test_clip(self):
        x = torch.tensor([[-3.0, -1.0, 0.2, 1.5]])
        assert_close(Clip()(x), torch.tensor([[-1.0, -1.0, 0.2, 1.0]]))

    def test_dynamic_is_imagens(self):
        """With s = max(1, quantile of |x|) of each example by itself; clamp to s, divide by s."""
        x = 2 * normals(5, 3, 4, 4)
        x[0] *= 0.1  # within [-1, 1]: left alone
        found = DynamicThreshold(0.9)(x)
        for one, image in zip(found, x, strict=True):
            scale = max(1.0, float(image.abs().flatten().quantile(0.9)))
            assert_close(one, image.clamp(-scale, scale) / scale, **EXACT)
        assert_close(found[0], x[0], **EXACT)
        assert float(found.abs().max()) <= 1

    def test_default_quantile_is_the_papers(self):
        assert DynamicThreshold().quantile == 0.995

    @pytest.mark.parametrize("threshold", [Clip(), DynamicThreshold(0.7)], ids=repr)
    def test_denoise_applies_it_unless_told_not_to(self, schedule, threshold):
        process, t = plain(schedule, prediction="x0", threshold=threshold), torch.tensor([3, 9])
        output, x_t = 4 * normals(2, 3, 4, 4), normals(2, 3, 4, 4, seed=1)
        assert_close(process.denoise(output, x_t, t), threshold(output), **EXACT)
        assert_close(process.denoise(output, x_t, t, threshold=False), output, **EXACT)
        s = t - 1
        law = process.reverse(output, x_t, s, t)
        assert_close(law.mean, process.posterior(threshold(output), x_t, s, t).mean, **CLOSE)

    def test_the_gradient_passes_straight_through(self, schedule):
        """Forward the clipped value, backward as if it had not been clipped: no entry stops learning."""
        process, t = plain(schedule, threshold=Clip()), torch.tensor([20, 30])
        output = (3 * normals(2, 4)).requires_grad_()
        x_t = normals(2, 4, seed=1)
        clipped = process.denoise(output, x_t, t)
        assert (clipped.abs() <= 1).all()
        assert (process.denoise(output, x_t, t, threshold=False).abs() > 1).any()
        (straight,) = torch.autograd.grad(clipped.sum(), output)
        (raw,) = torch.autograd.grad(process.denoise(output, x_t, t, threshold=False).sum(), output)
        assert_close(straight, raw, **EXACT)


class TestPrecision:
    @pytest.mark.parametrize("prediction", PREDICTIONS)
    def test_float32_is_float64_rounded(self, prediction):
        wide = plain(prediction=prediction, num_steps=1000)
        t = torch.tensor([1, 2, 10, 500, 1000])
        x0, x_t = normals(5, 2).float(), normals(5, 2, seed=1).float()
        output = wide.target(x0.double(), x_t.double(), t)
        double = wide.reverse(output, x_t.double(), t - 1, t)
        single = wide.reverse(output.float(), x_t, t - 1, t)
        assert single.mean.dtype == torch.float32
        assert double.mean.dtype == torch.float64
        assert_close(single.mean.double(), double.mean, rtol=1e-5, atol=1e-5)
        assert_close(single.std.double(), double.std, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_outputs_are_computed_in_float32(self, dtype):
        process = plain(num_steps=1000)
        t, output = torch.tensor([1, 2]), normals(2, 3, seed=1).to(dtype)
        for x_t in (normals(2, 3).float(), normals(2, 3).to(dtype)):
            law = process.reverse(output, x_t, t - 1, t)
            assert law.mean.dtype == torch.float32
            assert law.std.dtype == torch.float32
            assert (law.std > 0).all()
            wide = process.reverse(output.float(), x_t.float(), t - 1, t)
            assert_close(law.mean, wide.mean, rtol=1e-6, atol=1e-6)
            assert_close(law.std, wide.std, rtol=1e-6, atol=0)
            # 1 - alpha_bar_1 = 1e-4: in bfloat16 alpha_bar would round to 1.
            noised = process.marginal(x_t.clamp(-1, 1), t)
            assert float(noised.std[0, 0]) == pytest.approx(0.01, rel=1e-5)


class TestMistakes:
    """Each gives one line with the remedy."""

    def refuses(self, *words: str):
        return pytest.raises(D3PMError, match="(?s)^(?!.*\n)" + "".join(f"(?=.*{word})" for word in words))

    @pytest.mark.parametrize("field", ["prediction", "variance", "decoder"])
    def test_unknown_choices_are_named_with_the_known_ones(self, field):
        with self.refuses(field, "wrong"):
            plain(**{field: "wrong"})

    @pytest.mark.parametrize("num_steps", [1, 10, 20])
    def test_too_few_steps_for_the_linear_schedule(self, num_steps):
        with self.refuses("beta|num_steps"):
            plain(num_steps=num_steps)

    def test_noise_cannot_be_predicted_where_nothing_else_is_left(self):
        with self.refuses("eps", "v"):
            plain(ReciprocalSchedule(), prediction="eps")

    @pytest.mark.parametrize("prediction", ["v", "x0", "mean"])
    def test_the_others_can(self, prediction):
        process = plain(ReciprocalSchedule(), prediction=prediction)
        x0, x_t, t = normals(2, 3), normals(2, 3, seed=1), torch.tensor([STEPS, 1])
        assert_close(process.denoise(process.target(x0, x_t, t), x_t, t), x0, **CLOSE)
        law = process.reverse(process.target(x0, x_t, t), x_t, t - 1, t)
        assert_close(law.mean, process.posterior(x0, x_t, t - 1, t).mean, **CLOSE)
        assert law.mean.isfinite().all()
        assert (law.std > 0).all()

    def test_channels_that_do_not_fit(self):
        x_t, t = normals(2, 3, 4, 4), torch.tensor([1, 2])
        with self.refuses("channels", "6", "3"):
            plain(variance="learned_range").reverse(normals(2, 3, 4, 4), x_t, t - 1, t)
        with self.refuses("channels", "3", "6"):
            plain().reverse(normals(2, 6, 4, 4), x_t, t - 1, t)

    @pytest.mark.parametrize(
        ("field", "value"), [("in_channels", 1), ("out_channels", 3), ("size", 16)], ids=lambda v: str(v)
    )
    def test_networks_that_do_not_fit_the_data(self, field, value):
        """The second half of the output's channels is the variance."""
        network = torch.nn.Identity()
        network.in_channels, network.out_channels, network.size = 3, 6, 8
        process = plain(variance="learned_range")
        process.check_network(network, (3, 8, 8))
        setattr(network, field, value)
        with self.refuses(field, str(value)):
            process.check_network(network, (3, 8, 8))

    def test_whole_numbers_are_not_pictures(self):
        process = GaussianDiffusion(LinearSchedule(), num_steps=STEPS)
        with self.refuses("x0", "float"):
            process.q_sample(torch.zeros(1, 1, 2, 2, dtype=torch.int64), torch.tensor([1]), seeded())

    @pytest.mark.parametrize("value", [1.01, -255.0, math.nan])
    def test_images_outside_the_range(self, value):
        process = GaussianDiffusion(LinearSchedule(), num_steps=STEPS)
        x0 = torch.zeros(2, 1, 2, 2)
        x0[1, 0, 1, 1] = value
        with self.refuses(r"-1"):
            process.q_sample(x0, torch.tensor([1, 2]), seeded())

    def test_continuous_data_may_be_anything(self):
        x0 = 7 * normals(2, 1, 2, 2)
        assert plain().q_sample(x0, torch.tensor([1, 2]), seeded()).isfinite().all()

    @pytest.mark.parametrize("quantile", [0.0, -1.0, 1.5])
    def test_quantiles_are_shares(self, quantile):
        with self.refuses("quantile"):
            DynamicThreshold(quantile)

    @pytest.mark.parametrize("levels", [1, 0, -3])
    def test_levels_are_two_or_more(self, levels):
        with self.refuses("levels"):
            plain(levels=levels)


def test_all_of_it_is_a_normal_law():
    process = plain()
    x, t = normals(2, 1), torch.tensor([2, 3])
    for law in (
        process.prior((2, 1)),
        process.marginal(x, t),
        process.posterior(x, x, t - 1, t),
        process.predict(x, x, t),
        process.reverse(x, x, t - 1, t),
    ):
        assert isinstance(law, Normal)
