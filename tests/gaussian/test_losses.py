"""Every loss of this wing against the bound's term, which is a divergence of two normal laws, for arbitrary outputs."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d3pm import AbsorbingTransition, GaussianDiffusion
from d3pm.errors import ConfigError
from d3pm.gaussian.objectives import (
    ContinuousSimpleError,
    LearnedVarianceHybrid,
    MeanError,
    NoiseError,
    SimpleError,
)
from d3pm.gaussian.threshold import Clip
from d3pm.objectives import VariationalBound, vlb_terms
from d3pm.schedules import CosineSchedule, LinearSchedule, ReciprocalSchedule

PREDICTIONS = ["eps", "x0", "v", "mean"]
STEPS = 50
CLOSE = {"rtol": 1e-7, "atol": 1e-8}


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(**kwargs) -> GaussianDiffusion:
    kwargs = {"schedule": LinearSchedule(), "num_steps": STEPS, "threshold": None, "levels": None, **kwargs}
    return GaussianDiffusion(**kwargs)


def variances(process: GaussianDiffusion, t: Tensor) -> tuple[Tensor, Tensor]:
    """The variances beta and beta~ of the step from t to t - 1, (B, 1)."""
    table = process.schedule.alpha_bars(process.num_steps)
    beta = 1 - table[t] / table[t - 1]
    return beta[:, None], (beta * (1 - table[t - 1]) / (1 - table[t]))[:, None]


def situation(process: GaussianDiffusion, first: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An arbitrary network at every t: output, x0, x_t, t."""
    t = torch.arange(first, process.num_steps + 1)
    x0 = normals(len(t), 3).clamp(-1, 1)
    x_t = process.q_sample(x0, t, torch.Generator().manual_seed(1))
    output = process.target(x0, x_t, t) + 0.3 * normals(len(t), 3, seed=2)
    if process.variance == "learned_range":
        output = torch.cat([output, normals(len(t), 3, seed=3)], 1)
    return output, x0, x_t, t


@pytest.fixture(params=PREDICTIONS)
def prediction(request) -> str:
    return request.param


@pytest.fixture(params=[LinearSchedule(), CosineSchedule()], ids=["linear", "cosine"])
def schedule(request):
    return request.param


@pytest.mark.parametrize("loss", [MeanError(), NoiseError()], ids=repr)
class TestWeightedSquares:
    """T times the bound's term, up to a constant that no network can change."""

    def test_are_the_bound_for_the_posterior_variance(self, schedule, prediction, loss):
        process = plain(schedule=schedule, prediction=prediction, variance="fixed_small")
        case = situation(process)
        assert_close(loss.at(process, *case), VariationalBound().at(process, *case), **CLOSE)

    def test_are_the_bound_up_to_the_stated_constant_for_the_larger_one(self, schedule, prediction, loss):
        process = plain(schedule=schedule, prediction=prediction, variance="fixed_large")
        case = situation(process)
        beta, small = variances(process, case[-1])
        constant = 0.5 * (small / beta - 1 - (small / beta).log())
        assert (constant > 0).all()
        found = loss.at(process, *case) + process.num_steps * constant
        assert_close(found, VariationalBound().at(process, *case), **CLOSE)

    @pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
    def test_at_the_first_step_they_are_the_density_up_to_its_normaliser(
        self, schedule, prediction, variance, loss
    ):
        process = plain(schedule=schedule, prediction=prediction, variance=variance)
        case = [part[:1] for part in situation(process, first=1)]
        _, second = variances(process, torch.tensor([2]))
        constant = 0.5 * (2 * math.pi * second).log()
        found = loss.at(process, *case) + process.num_steps * constant
        assert_close(found, VariationalBound().at(process, *case), **CLOSE)

    def test_for_a_learned_variance_the_rest_is_the_divergence_of_the_variances(
        self, schedule, prediction, loss
    ):
        process = plain(schedule=schedule, prediction=prediction, variance="learned_range")
        case = situation(process)
        beta, small = variances(process, case[-1])
        share = (case[0][:, 3:] + 1) / 2
        variance = beta**share * small ** (1 - share)
        rest = 0.5 * (small / variance - 1 - (small / variance).log())
        found = loss.at(process, *case) + process.num_steps * rest
        assert_close(found, VariationalBound().at(process, *case), **CLOSE)

    def test_vanish_for_a_network_that_knows(self, prediction, loss):
        process = plain(prediction=prediction)
        _, x0, x_t, t = situation(process)
        found = loss.at(process, process.target(x0, x_t, t), x0, x_t, t)
        assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-9)

    def test_know_no_threshold(self, prediction, loss):
        """A squared error must see how far off the estimate is, clipped or not."""
        free = plain(prediction=prediction)
        clipped = plain(prediction=prediction, threshold=Clip())
        case = situation(free)
        assert_close(loss.at(clipped, *case), loss.at(free, *case), **CLOSE)


class TestSimple:
    def test_is_the_squared_error_of_what_the_network_says(self, prediction):
        process = plain(prediction=prediction)
        output, x0, x_t, t = situation(process, first=1)
        found = SimpleError().at(process, output, x0, x_t, t)
        assert_close(found, (0.3 * normals(len(t), 3, seed=2)) ** 2, **CLOSE)

    def test_for_the_noise_its_weight_is_what_the_bound_drops(self, schedule):
        process = plain(schedule=schedule, variance="fixed_small")
        case = situation(process)
        table, t = schedule.alpha_bars(STEPS), case[-1]
        beta, small = variances(process, t)
        weight = beta**2 / (2 * small * (1 - beta) * (1 - table[t])[:, None])
        expected = process.num_steps * weight * SimpleError().at(process, *case)
        assert_close(VariationalBound().at(process, *case), expected, **CLOSE)

    def test_a_learned_variance_would_never_be_learned(self, prediction):
        process = plain(prediction=prediction, variance="learned_range")
        output, *rest = situation(process)
        output = output.requires_grad_()
        (gradient,) = torch.autograd.grad(SimpleError().at(process, output, *rest).sum(), output)
        assert (gradient[:, 3:] == 0).all()
        assert (gradient[:, :3] != 0).all()
        with pytest.raises(ConfigError, match="LearnedVarianceHybrid"):
            SimpleError().check_process(process)


@pytest.mark.parametrize(
    ("t", "variance", "weight"),
    [
        (2, "fixed_large", 0.273),
        (2, "fixed_small", 0.600),
        (100, "fixed_large", 0.0101),
        (500, "fixed_large", 0.0055),
        (1000, "fixed_large", 0.0102),
    ],
)
def test_published_weights_of_the_noise(t, variance, weight):
    process = plain(num_steps=1000, variance=variance)
    time, x0, eps = torch.tensor([t]), normals(1, 1), normals(1, 1, seed=1)
    signal = process.alpha_bar(time)[:, None]
    x_t = signal.sqrt() * x0 + (1 - signal).sqrt() * eps
    found = NoiseError().at(process, eps + 1, x0, x_t, time) / 1000
    assert float(found) == pytest.approx(weight, abs=0.6 * 10 ** -(3 if t == 2 else 4))


class TestHybrid:
    def case(self, prediction: str = "eps", **kwargs):
        process = plain(prediction=prediction, variance="learned_range", **kwargs)
        output, *rest = situation(process, first=1)
        return process, output.requires_grad_(), *rest

    def test_is_the_simple_error_plus_a_thousandth_of_the_bound_in_bits(self, prediction):
        process, *case = self.case(prediction)
        bits = VariationalBound().at(process, *case) / math.log(2)
        expected = SimpleError().at(process, *case) + 0.001 * bits
        assert_close(LearnedVarianceHybrid().at(process, *case), expected, **CLOSE)

    def test_other_weights(self, prediction):
        process, *case = self.case(prediction)
        bits = VariationalBound().at(process, *case) / math.log(2)
        expected = SimpleError().at(process, *case) + 0.3 * bits
        assert_close(LearnedVarianceHybrid(0.3).at(process, *case), expected, **CLOSE)

    @pytest.mark.parametrize("levels", [None, 256])
    def test_each_part_teaches_its_own_channels(self, prediction, levels):
        process, output, *rest = self.case(prediction, levels=levels)

        def gradient(loss) -> Tensor:
            return torch.autograd.grad(loss.at(process, output, *rest).sum(), output)[0]

        losses = (LearnedVarianceHybrid(), SimpleError(), VariationalBound())
        hybrid, simple, bound = (gradient(loss) for loss in losses)
        assert_close(hybrid[:, :3], simple[:, :3], **CLOSE)
        assert_close(hybrid[:, 3:], 0.001 / math.log(2) * bound[:, 3:], **CLOSE)
        assert (bound[:, 3:].abs().sum(1) > 0).all()

    def test_the_variance_it_teaches_is_that_of_the_errors(self):
        """At every t the bound's gradient in v is zero where sigma^2 = beta~ + E(mu~ - mu)^2."""
        process = plain(prediction="mean", variance="learned_range")
        t = torch.arange(2, STEPS + 1)
        beta, small = variances(process, t)
        x0, x_t = torch.zeros(len(t), 1).double(), normals(len(t), 1)
        off = (0.4 * (beta - small)).sqrt()  # an error that ends within the range
        share = ((small + off**2) / small).log() / (beta / small).log()
        output = torch.cat([process.target(x0, x_t, t) + off, 2 * share - 1], 1).requires_grad_()
        loss = LearnedVarianceHybrid().at(process, output, x0, x_t, t)
        (gradient,) = torch.autograd.grad(loss.sum(), output)
        assert_close(gradient[:, 1], torch.zeros(len(t)).double(), rtol=0, atol=1e-10)

    def test_needs_a_variance_to_learn(self):
        process = plain()
        with pytest.raises(ConfigError, match="learned_range"):
            LearnedVarianceHybrid().at(process, *situation(process))


class TestNothingLeft:
    """A schedule that ends without signal: x_T is noise alone, the bound's last term is still finite."""

    @pytest.mark.parametrize("prediction", ["v", "x0", "mean"])
    @pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
    def test_the_others_go_on(self, prediction, variance):
        process = plain(schedule=ReciprocalSchedule(), prediction=prediction, variance=variance)
        case = situation(process)
        beta, small = variances(process, case[-1])
        constant = 0.5 * (small / beta - 1 - (small / beta).log()) if variance == "fixed_large" else 0.0
        bound = VariationalBound().at(process, *case)
        assert bound.isfinite().all()
        assert_close(MeanError().at(process, *case) + process.num_steps * constant, bound, **CLOSE)
        assert SimpleError().at(process, *case).isfinite().all()

    def test_the_noise_says_nothing_there_and_its_weight_is_infinite(self):
        process = plain(schedule=ReciprocalSchedule(), prediction="v")
        with pytest.raises(ConfigError, match="MeanError") as caught:
            NoiseError().at(process, *situation(process))
        assert "\n" not in str(caught.value)


class TestAsTrainingLosses:
    """Called, they draw one time an example and sum its entries."""

    def test_the_weighted_ones_are_the_bound_without_the_prior_in_the_mean(self):
        process = plain(num_steps=10, schedule=CosineSchedule())
        x0 = 0.5 * normals(20_000, 1)

        def network(x_t, t):
            """A little off what is best for data of standard deviation 1/2."""
            signal = process.alpha_bar(t)[:, None]
            return 0.95 * (1 - signal).sqrt() / (1 - 0.75 * signal) * x_t

        bound = vlb_terms(process, network, x0, generator=torch.Generator().manual_seed(1))
        found = MeanError()(process, network, x0, generator=torch.Generator().manual_seed(2))
        _, second = variances(process, torch.tensor([2]))
        constant = 0.5 * math.log(2 * math.pi * float(second))
        wanted = (bound.total - bound.prior).mean() - constant
        error = float((found.std() ** 2 + bound.total.std() ** 2).sqrt()) / math.sqrt(len(x0))
        assert float(found.mean()) == pytest.approx(float(wanted), abs=5 * error)
        assert error < 0.05 * float(wanted)

    def test_entries_of_an_example_are_summed(self):
        process = plain()
        wide, x0 = normals(1, 1, 4, 4), normals(1, 1, 4, 4)

        def network(x_t, t):
            return wide

        seen = {}

        class Watching(SimpleError):
            def at(self, *args):
                seen["value"] = super().at(*args)
                return seen["value"]

        total = Watching()(process, network, x0, generator=torch.Generator().manual_seed(0))
        assert seen["value"].shape == (1, 1, 4, 4)
        assert_close(total, seen["value"].sum().reshape(1), **CLOSE)

    def test_continuous_times_are_uniform_and_told_to_the_network(self):
        from scipy.stats import kstest

        process, told = plain(), []

        def network(x_t, t):
            told.append(t)
            return torch.zeros_like(x_t)

        x0 = torch.zeros(4000, 1, dtype=torch.float64)
        loss = ContinuousSimpleError()(process, network, x0, generator=torch.Generator().manual_seed(0))
        (t,) = told
        assert t.dtype == torch.float64
        assert (t > 0).all()
        assert (t <= STEPS).all()
        assert kstest(t.numpy() / STEPS, "uniform").pvalue > 1e-3
        assert (t != t.round()).all()
        # Of pure noise the network says nothing: the loss is eps^2 whose mean is 1.
        assert float(loss.mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / 4000))


@pytest.mark.parametrize(
    "loss", [MeanError(), NoiseError(), SimpleError(), LearnedVarianceHybrid()], ids=repr
)
def test_the_other_wing_is_refused_in_one_line(loss):
    other = pytest.importorskip("d3pm.discrete.process", reason="the other wing is not here")
    process = other.DiscreteDiffusion(AbsorbingTransition(num_states=4, num_steps=5))
    x = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ConfigError, match="GaussianDiffusion") as caught:
        loss.at(process, torch.zeros(2, 3, 4), x, x, torch.tensor([1, 2]))
    assert "\n" not in str(caught.value)
