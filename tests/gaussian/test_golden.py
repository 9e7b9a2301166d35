"""Numbers from the papers and their code; none of them is computed by this package."""

import math

import pytest
import torch

from d3pm import GaussianDiffusion
from d3pm.distributions import DiscretizedNormal
from d3pm.grids import leading_grid, quadratic_grid, trailing_grid
from d3pm.objectives import prior_term
from d3pm.schedules import CosineSchedule, LinearSchedule, SigmoidSchedule, ZeroTerminalSNR


def process(schedule=None, num_steps: int = 1000, **kwargs) -> GaussianDiffusion:
    return GaussianDiffusion(schedule or LinearSchedule(), num_steps, **kwargs)


def prior_bits(process: GaussianDiffusion, value: float) -> float:
    """Bits per dimension that x_T still knows of an entry of this value."""
    return float(prior_term(process, torch.tensor([[value]], dtype=torch.float64))) / math.log(2)


def last(process: GaussianDiffusion) -> float:
    return float(process.alpha_bar(torch.tensor([process.num_steps])))


class TestSignalLeft:
    def test_linear(self):
        assert last(process()) == pytest.approx(4.036e-5, rel=2e-4)
        betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
        assert last(process()) == pytest.approx(math.prod(1 - b for b in betas), rel=1e-12)

    def test_cosine_clips_one_beta(self):
        assert last(process(CosineSchedule())) == pytest.approx(2.4e-9, rel=0.02)
        table = process(CosineSchedule()).alpha_bar(torch.arange(1001))
        betas = 1 - table[1:] / table[:-1]
        assert ((betas - 0.999).abs() < 1e-9).sum() == 1
        assert betas.argmax() == 999

    def test_variance_preserving_sde(self):
        """Not the discrete 4.036e-5: exp of minus the integral of 0.1 + 19.9 t."""
        found = float(LinearSchedule().alpha_bar(torch.tensor(1.0)))
        assert found == pytest.approx(4.319e-5, rel=2e-4)
        assert found == pytest.approx(math.exp(-0.1 - 19.9 / 2), rel=1e-12)

    def test_the_first_noise_is_not_lost_in_float32(self):
        """Cumulative products in float32 put 1 - alpha_bar_1 = 1e-4 off by 1.7e-4 of itself."""
        found = 1 - float(process().alpha_bar(torch.tensor([1])))
        assert found == pytest.approx(1e-4, rel=1e-10)


class TestPrior:
    def test_of_pictures_under_the_published_schedule(self):
        """0.7e-5 to 2.9e-5 bits per dimension for entries of mean square 1/4 to 1."""
        assert prior_bits(process(), 0.5) == pytest.approx(0.73e-5, abs=0.02e-5)
        assert prior_bits(process(), 1.0) == pytest.approx(2.91e-5, abs=0.02e-5)
        assert prior_bits(process(), -1.0) == prior_bits(process(), 1.0)

    @pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), SigmoidSchedule()], ids=repr)
    @pytest.mark.parametrize("num_steps", [50, 1000, 4000])
    def test_it_is_nothing_for_any_shipped_schedule(self, schedule, num_steps):
        assert 0 <= prior_bits(process(schedule, num_steps), 1.0) < 5e-5

    def test_it_is_exactly_nothing_at_zero_terminal_snr(self):
        assert prior_bits(process(ZeroTerminalSNR(LinearSchedule()), prediction="v"), 1.0) == 0

    def test_a_hundred_unscaled_steps_leave_a_third_of_a_bit(self):
        """Betas from 1e-4 to 0.02 at T = 100: 0.13 to 0.33 bits per dimension; scaled, nothing."""
        unscaled = process(LinearSchedule(1e-5, 2e-3), 100)
        betas = [1e-4 + (0.02 - 1e-4) * i / 99 for i in range(100)]
        assert last(unscaled) == pytest.approx(math.prod(1 - b for b in betas), rel=1e-12)
        assert prior_bits(unscaled, 0.5) == pytest.approx(0.13, abs=0.005)
        assert prior_bits(unscaled, 1.0) == pytest.approx(0.33, abs=0.005)
        assert prior_bits(process(num_steps=100), 1.0) < 5e-5


class TestFirstStep:
    def test_published_log_variance(self):
        """Ho's fixed variances at t = 1 are both beta~_2 = 5.45e-5; beta~_1 would be 0."""
        t = torch.tensor([1])
        for variance in ("fixed_large", "fixed_small"):
            law = process(variance=variance).reverse(
                torch.zeros(1, 1).double(), torch.zeros(1, 1).double(), t - 1, t
            )
            betas = (1e-4, 1e-4 + 0.0199 / 999)
            second = betas[1] * betas[0] / (1 - (1 - betas[0]) * (1 - betas[1]))
            assert float(law.std) ** 2 == pytest.approx(second, rel=1e-9)
            assert second == pytest.approx(5.45e-5, abs=0.01e-5)

    def test_what_a_perfect_reconstruction_costs(self):
        """Bins of half width 1/255 under sigma_1 = 0.0074: 1.29 bits an entry for a mean in the middle of its bin."""
        x = torch.tensor([127 / 127.5 - 1], dtype=torch.float64)
        sigma = math.sqrt(5.4527e-5)
        inside = math.erf(1 / 255 / sigma / math.sqrt(2))
        found = -float(DiscretizedNormal(x, x.new_tensor([sigma]), 256).log_prob(x)) / math.log(2)
        assert found == pytest.approx(-math.log2(inside), rel=1e-9)
        assert found == pytest.approx(1.295, abs=0.02)


class TestGrids:
    def test_the_quadratic_one_of_cifar10(self):
        """The published code counts from 0 and starts at 800; its x_i is our x_{i+1}."""
        import numpy as np

        for steps in (10, 20, 50, 100):
            counted_from_zero = [int(v) for v in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2]
            # Early squares can coincide at whole numbers; the grid must then be pushed apart.
            if len(set(counted_from_zero)) == steps:
                assert quadratic_grid(1000, steps) == [t + 1 for t in reversed(counted_from_zero)] + [0]
        assert quadratic_grid(1000, 10)[0] == 801

    def test_the_linear_one(self):
        assert leading_grid(1000, 10) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]

    def test_trailing(self):
        assert trailing_grid(1000, 10) == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
