"""Which times are drawn: uniform, or in proportion to how much each term of the bound varies."""

import math

import pytest
import torch
from oracle import chi_square
from scipy.stats import chi2
from torch import Tensor
from torch.testing import assert_close

from d3pm import GaussianDiffusion
from d3pm.errors import ConfigError
from d3pm.gaussian.objectives import LearnedVarianceHybrid, SimpleError
from d3pm.objectives import Objective, VariationalBound
from d3pm.schedules import CosineSchedule
from d3pm.time_sampling import ImportanceTimes, UniformTimes

STEPS = 6
SIZES = torch.tensor([8.0, 1.0, 0.5, 4.0, 0.25, 2.0], dtype=torch.float64)


class Known(Objective):
    """A loss that is what it is told at each t, and remembers when it was asked."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.asked = values, []

    def at(self, process, output, x0, x_t, t):
        self.asked.append(t)
        return self.values[t - 1].view(-1, 1).expand_as(x0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def process(num_steps: int = STEPS, **kwargs) -> GaussianDiffusion:
    return GaussianDiffusion(CosineSchedule(), num_steps, threshold=None, levels=None, **kwargs)


def network(x_t: Tensor, t: Tensor) -> Tensor:
    return 0.3 * x_t


def data(n: int) -> Tensor:
    return torch.zeros(n, 1, dtype=torch.float64)


def counts(t: Tensor) -> Tensor:
    return torch.bincount(t - 1, minlength=STEPS)


def informed(values: Tensor = SIZES, **kwargs) -> tuple[ImportanceTimes, Known]:
    """After enough uniform draws: every t has a full history."""
    base = Known(values)
    objective = ImportanceTimes(base, STEPS, **kwargs)
    objective(process(), network, data(600), generator=seeded(1))
    base.asked.clear()
    return objective, base


class TestUniform:
    def test_times_are_uniform(self):
        base = Known(SIZES)
        UniformTimes(base)(process(), network, data(6000), generator=seeded())
        (t,) = base.asked
        assert chi_square(counts(t)[None], torch.full((1, STEPS), 1 / STEPS).double()) > 1e-3

    def test_they_vary_as_multinomial_counts_do_and_stratified_ones_do_not(self):
        base = Known(SIZES)
        spread = {}
        for name, objective in (("uniform", UniformTimes(base)), ("stratified", base)):
            base.asked.clear()
            for seed in range(60):
                objective(process(), network, data(60), generator=seeded(seed))
            found = torch.stack([counts(t) for t in base.asked]).double()
            spread[name] = float(((found - 10) ** 2 / 10).sum())
        # 60 batches of 5 degrees of freedom each.
        assert 1e-3 < chi2.sf(spread["uniform"], 300) < 1 - 1e-3
        assert spread["stratified"] == 0

    def test_the_loss_is_the_bases(self):
        base = Known(SIZES)
        found = UniformTimes(base)(process(), network, data(50), generator=seeded())
        assert_close(found, SIZES[base.asked[0] - 1])

    def test_it_is_a_bound_if_the_base_is(self):
        assert UniformTimes(VariationalBound()).is_bound
        assert not UniformTimes(SimpleError()).is_bound
        assert ImportanceTimes(VariationalBound(), STEPS).is_bound
        assert not ImportanceTimes(SimpleError(), STEPS).is_bound


class TestImportance:
    def test_until_every_time_has_ten_losses_they_are_uniform_with_weight_one(self):
        base = Known(SIZES)
        objective = ImportanceTimes(base, STEPS)
        for seed in range(3):  # 9 draws of 6 times: no time can have 10 yet
            found = objective(process(), network, data(3), generator=seeded(seed))
            assert_close(found, SIZES[base.asked[-1] - 1])
            assert_close(objective.probabilities(), torch.full((STEPS,), 1 / STEPS).double())

    def test_one_time_short_of_ten_keeps_all_uniform(self):
        base = Known(SIZES)
        objective = ImportanceTimes(base, STEPS)
        seen = torch.zeros(STEPS, dtype=torch.int64)
        for seed in range(200):
            assert bool((seen < 10).any()) == bool((objective.probabilities() == 1 / STEPS).all())
            objective(process(), network, data(1), generator=seeded(seed))
            seen += counts(base.asked[-1])
            if not (seen < 10).any():
                break
        assert (seen >= 10).all()
        assert not torch.allclose(objective.probabilities(), torch.full((STEPS,), 1 / STEPS).double())

    def test_then_they_are_in_proportion_to_the_root_mean_square(self):
        objective, base = informed(floor=1e-9)
        assert_close(objective.probabilities(), SIZES / SIZES.sum(), rtol=1e-6, atol=0)
        objective(process(), network, data(6000), generator=seeded(2))
        assert chi_square(counts(base.asked[0])[None], (SIZES / SIZES.sum())[None]) > 1e-3

    def test_with_the_published_share_of_uniform_draws(self):
        """The authors' code keeps 0.1 % of the draws uniform."""
        objective, _ = informed()
        expected = 0.999 * SIZES / SIZES.sum() + 0.001 / STEPS
        assert_close(objective.probabilities(), expected, rtol=1e-9, atol=0)
        assert float(objective.probabilities().sum()) == pytest.approx(1, abs=1e-12)

    def test_it_is_the_mean_of_the_squares(self):
        """Every second loss of the even times is 0: their mean size halves, their root mean square does not."""
        base = Known(torch.ones(STEPS, dtype=torch.float64))
        objective = ImportanceTimes(base, STEPS, floor=1e-9)
        for turn in range(400):
            base.values = torch.tensor([1.0, 2.0 * (turn % 2)] * (STEPS // 2), dtype=torch.float64)
            for t in range(STEPS):  # exactly one loss of each time, by the seed that draws it
                objective(process(), network, data(1), generator=seeded(self.seed_for(t)))
            if objective.probabilities().max() > 1.01 / STEPS:
                break
        root = torch.tensor([1.0, math.sqrt(2)] * (STEPS // 2), dtype=torch.float64)
        assert_close(objective.probabilities(), root / root.sum(), rtol=1e-6, atol=0)

    def seed_for(self, index: int) -> int:
        """A seed whose first uniform falls into this time while all are equally likely."""
        for seed in range(1000):
            u = float(torch.rand(1, generator=seeded(seed), dtype=torch.float64))
            if int(u * STEPS) == index:
                return seed
        raise AssertionError("no seed found")

    def test_weights_keep_the_estimate_unbiased(self):
        """E of L_t / (T p_t) over p is the plain mean of L_t: the weights are exactly 1 / (T p_t)."""
        objective, base = informed()
        p = objective.probabilities()
        assert float((p * SIZES / (STEPS * p)).sum()) == pytest.approx(float(SIZES.mean()), rel=1e-12)
        found = objective(process(), network, data(500), generator=seeded(3))
        t = base.asked[0]
        assert_close(found, SIZES[t - 1] / (STEPS * p[t - 1]))

    def test_terms_that_do_not_vary_leave_no_variance(self):
        objective, _ = informed()
        found = objective(process(), network, data(500), generator=seeded(4))
        assert float(found.std()) < 0.03 * float(SIZES.std())
        assert float(found.mean()) == pytest.approx(float(SIZES.mean()), rel=0.01)

    def test_on_a_real_bound_the_mean_stays_and_the_variance_falls(self):
        system = process(20, variance="fixed_small")
        x0 = 0.4 * torch.randn(4000, 1, generator=seeded(5), dtype=torch.float64)
        objective = ImportanceTimes(VariationalBound(), 20)
        objective(system, network, x0, generator=seeded(6))
        found = objective(system, network, x0, generator=seeded(7))
        plain = UniformTimes(VariationalBound())(system, network, x0, generator=seeded(8))
        error = float((found.var() + plain.var()).sqrt()) / math.sqrt(len(x0))
        assert float(found.mean()) == pytest.approx(float(plain.mean()), abs=5 * error)
        assert float(found.std()) < 0.8 * float(plain.std())

    def test_gradients_are_weighted_like_the_losses(self):
        objective, base = informed()
        p, shift = objective.probabilities(), torch.zeros((), dtype=torch.float64, requires_grad=True)
        base.at = lambda process, output, x0, x_t, t: (
            base.asked.append(t),
            shift * SIZES[t - 1].view(-1, 1),
        )[1]
        objective(process(), network, data(40), generator=seeded(9)).sum().backward()
        t = base.asked[-1] - 1
        assert float(shift.grad) == pytest.approx(float((SIZES[t] / (STEPS * p[t])).sum()), rel=1e-12)

    def test_only_the_last_ten_count(self):
        objective, base = informed(floor=1e-9)
        base.values = SIZES.flip(0)
        for seed in range(60):  # every t gets ten more, the rarest too
            objective(process(), network, data(50), generator=seeded(seed))
        assert min(int(n) for n in counts(torch.cat(base.asked))) >= 10
        flipped = SIZES.flip(0) / SIZES.sum()
        assert_close(objective.probabilities(), flipped, rtol=1e-6, atol=0)

    def test_the_first_ten_of_a_large_batch_are_not_all_it_remembers(self):
        """One batch that overflows the ring many times leaves its last losses, whatever their number."""
        objective, base = informed(floor=1e-9, history=4)
        base.values = 3 * SIZES.flip(0)
        objective(process(), network, data(4000), generator=seeded(1))
        assert_close(objective.probabilities(), SIZES.flip(0) / SIZES.sum(), rtol=1e-6, atol=0)

    def test_losses_are_counted_by_entry_so_that_size_does_not_matter(self):
        """An example's p_t does not depend on how many entries it has."""
        base = Known(SIZES)
        objective = ImportanceTimes(base, STEPS, floor=1e-9)
        wide = torch.zeros(600, 7, dtype=torch.float64)
        objective(process(), lambda x_t, t: x_t, wide, generator=seeded(1))
        assert_close(objective.probabilities(), SIZES / SIZES.sum(), rtol=1e-6, atol=0)
        found = objective(process(), lambda x_t, t: x_t, wide, generator=seeded(2))
        assert float(found.mean()) == pytest.approx(
            7 * float(SIZES.mean()), rel=0.02
        )  # the loss is still a sum

    def test_the_history_is_saved(self):
        objective, _ = informed()
        objective(process(), network, data(7), generator=seeded(2))
        twin = ImportanceTimes(Known(SIZES), STEPS)
        assert not torch.equal(twin.probabilities(), objective.probabilities())
        twin.load_state_dict(objective.state_dict())
        assert torch.equal(twin.probabilities(), objective.probabilities())
        for seed in range(5):  # and goes on exactly: the ring's place is saved too
            a, b = (each(process(), network, data(9), generator=seeded(seed)) for each in (objective, twin))
            assert torch.equal(a, b)
        for name, value in objective.state_dict().items():
            assert torch.equal(value, twin.state_dict()[name]), name

    def test_the_hybrid_of_a_learned_variance_can_be_its_base(self):
        objective = ImportanceTimes(LearnedVarianceHybrid(), STEPS)
        system = process(variance="learned_range")

        def double(x_t, t):
            return torch.cat([x_t, x_t.sin()], 1)

        for seed in range(3):
            x0 = torch.randn(100, 2, generator=seeded(seed), dtype=torch.float64)
            assert objective(system, double, x0, generator=seeded(seed)).isfinite().all()
        assert float(objective.probabilities().max()) > 1.05 / STEPS

    def test_another_number_of_steps_is_refused(self):
        objective = ImportanceTimes(SimpleError(), STEPS)
        with pytest.raises(ConfigError, match="num_steps") as caught:
            objective(process(STEPS + 1), network, data(4), generator=seeded())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kwargs", [{"history": 0}, {"floor": 0.0}, {"floor": 2.0}, {"num_steps": 0}])
    def test_what_cannot_be(self, kwargs):
        with pytest.raises(ConfigError) as caught:
            ImportanceTimes(SimpleError(), **{"num_steps": STEPS, **kwargs})
        assert "\n" not in str(caught.value)
