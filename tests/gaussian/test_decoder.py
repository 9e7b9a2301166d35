"""The discretized normal law: masses of levels against mpmath's normal law, exact to the farthest tail."""

import math

import mpmath
import pytest
import torch
from oracle import chi_square
from torch import Tensor
from torch.testing import assert_close

from d3pm import GaussianDiffusion
from d3pm.distributions import DiscretizedNormal, Normal
from d3pm.schedules import LinearSchedule

LEVELS = [2, 17, 256]
MEANS = [-3.0, -1.0, -0.7, 0.0, 0.123, 0.999, 1.0, 2.5]
STDS = [1e-4, 1e-3, 0.02, 0.3, 1.0, 10.0]


def steps(levels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-1, 1, levels, dtype=dtype)


def law(
    mean: float, std: float, levels: int, dtype: torch.dtype = torch.float64, **kwargs
) -> DiscretizedNormal:
    mean = torch.full((levels,), mean, dtype=dtype)
    return DiscretizedNormal(mean, torch.full_like(mean, std), levels, **kwargs)


def log_mass(x: float, mean: float, std: float, levels: int) -> float:
    """The mass between the midpoints to the neighbours, with 60 digits and whole numbers for the level."""
    with mpmath.workdps(60):
        index = round((x + 1) / 2 * (levels - 1))
        half = mpmath.mpf(1) / (levels - 1)
        centre = 2 * index * half - 1
        low = -mpmath.inf if index == 0 else (centre - half - mpmath.mpf(mean)) / mpmath.mpf(std)
        high = mpmath.inf if index == levels - 1 else (centre + half - mpmath.mpf(mean)) / mpmath.mpf(std)
        if low > 0:  # the far tail, from the side where it is small
            low, high = -high, -low
        # Phi(z) = erfc(-z / sqrt 2) / 2 has no cancellation on the left.
        root = mpmath.sqrt(2)
        return float(mpmath.log((mpmath.erfc(-high / root) - mpmath.erfc(-low / root)) / 2))


class TestExact:
    @pytest.mark.parametrize("levels", LEVELS)
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-3)], ids=["f64", "f32"]
    )
    def test_masses_sum_to_one(self, levels, dtype, tolerance):
        """In float32 an edge at std 1e-4 is known to 6e-8 / 1e-4 standard deviations, no better."""
        for mean in MEANS:
            for std in STDS:
                masses = law(mean, std, levels, dtype).log_prob(steps(levels, dtype)).exp()
                allowed = tolerance * min(1.0, max(1e-4 / std, 1e-2)) if dtype == torch.float32 else tolerance
                assert float(masses.double().sum()) == pytest.approx(1, abs=allowed), (mean, std)

    @pytest.mark.parametrize("levels", LEVELS)
    @pytest.mark.parametrize("std", STDS)
    def test_each_is_the_normal_mass_of_its_bin(self, levels, std):
        x = steps(levels)
        which = sorted({0, 1, levels // 3, levels // 2, levels - 2, levels - 1})
        for mean in MEANS:
            found = law(mean, std, levels).log_prob(x)
            for i in which:
                expected = log_mass(float(x[i]), mean, std, levels)
                # An edge is rounded to 2e-16, which moves a log-mass by z / std times that.
                slack = 4e-16 * (4 + abs(float(x[i]) - mean)) / std**2 + 1e-12
                assert float(found[i]) == pytest.approx(expected, rel=1e-9, abs=slack), (mean, i)

    def test_it_is_scipys_normal_law_where_that_has_digits(self):
        from scipy.stats import norm

        x = steps(256)
        edges = torch.cat([x.new_tensor([-math.inf]), (x[1:] + x[:-1]) / 2, x.new_tensor([math.inf])])
        for mean, std in [(0.1, 0.3), (-1.2, 1.0), (0.9, 0.1)]:
            cdf = norm.cdf(edges.numpy(), mean, std)
            masses = torch.as_tensor(cdf[1:] - cdf[:-1])
            clear = masses > 1e-6
            assert_close(law(mean, std, 256).log_prob(x)[clear], masses[clear].log(), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("far", [4.0, 40.0, 4000.0])
    def test_any_distance_has_a_finite_mass_and_a_gradient_towards_the_data(self, dtype, far):
        std = 0.01
        for x in (-1.0, 0.2, 1.0):
            for side in (-1.0, 1.0):
                mean = torch.tensor([x + side * far * std], dtype=dtype, requires_grad=True)
                scale = torch.tensor([std], dtype=dtype, requires_grad=True)
                level = torch.tensor([round((x + 1) * 127.5) / 127.5 - 1], dtype=dtype)
                log_prob = DiscretizedNormal(mean, scale, 256).log_prob(level)
                gradient, widening = torch.autograd.grad(log_prob.sum(), (mean, scale))
                assert log_prob.isfinite().all()
                assert gradient.isfinite().all()
                assert widening.isfinite().all()
                if abs(mean.item()) <= 1 or x * side < 0:  # the outermost bins reach to infinity
                    # d/d mean log Phi ~ z / std: the pull grows with the distance.
                    assert float(-side * gradient) == pytest.approx(far / std, rel=0.35)
                    assert float(widening) > 0

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_gradients_are_those_of_the_mass(self, dtype):
        x = steps(17)
        for mean, std in [(0.3, 0.2), (-1.4, 0.05), (0.0, 3.0)]:
            at = torch.full((17,), mean, dtype=torch.float64)
            scale = torch.full((17,), std, dtype=torch.float64)

            def value(m, s, dtype=dtype):
                return DiscretizedNormal(m.to(dtype), s.to(dtype), 17).log_prob(x.to(dtype)).double()

            d_mean, d_std = torch.autograd.functional.jacobian(lambda m, s: value(m, s).sum(), (at, scale))
            h = 1e-5
            for found, shift in ((d_mean, (h, 0.0)), (d_std, (0.0, h))):
                up = value(at + shift[0], scale + shift[1], torch.float64)
                down = value(at - shift[0], scale - shift[1], torch.float64)
                slack = 1e-5 if dtype == torch.float64 else 2e-3
                assert_close(found, (up - down) / (2 * h), rtol=slack, atol=slack)

    @pytest.mark.parametrize("levels", LEVELS)
    def test_no_gradient_is_nan_anywhere(self, levels):
        for dtype in (torch.float32, torch.float64):
            for std in STDS:
                mean = torch.tensor(MEANS, dtype=dtype)[:, None].expand(-1, levels).clone().requires_grad_()
                scale = torch.full_like(mean, std).requires_grad_()
                value = DiscretizedNormal(mean, scale, levels).log_prob(steps(levels, dtype))
                for gradient in torch.autograd.grad(value.sum(), (mean, scale)):
                    assert gradient.isfinite().all(), (dtype, std)

    def test_a_near_certain_level_costs_almost_nothing(self):
        """-log(1 - small) keeps its digits: 2 Phi(-half bin / std) when the mean is on the level."""
        x, std = steps(256)[77:78], 1 / 255 / 6
        found = -DiscretizedNormal(x, torch.tensor([std], dtype=torch.float64), 256).log_prob(x)
        assert float(found) == pytest.approx(2 * 9.865876e-10, rel=1e-5)
        assert float(-DiscretizedNormal(x, x.new_tensor([1e-6]), 256).log_prob(x)) == 0


class TestTanh:
    @pytest.mark.parametrize("std", [0.02, 0.3, 1.0])
    def test_the_approximated_law_is_within_its_known_error(self, std):
        """The approximation of Phi is off by 1.8e-4 (at 1.6, 2.6 sigma) at most; masses by twice that."""
        z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        phi = 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        worst = float((phi - torch.special.ndtr(z)).abs().max())
        assert 1e-4 < worst < 3e-4
        for mean in (-1.0, 0.0, 0.4):
            exact = law(mean, std, 256).log_prob(steps(256)).exp()
            tanh = law(mean, std, 256, form="tanh").log_prob(steps(256)).exp()
            assert float((exact - tanh).abs().max()) <= 2 * worst + 1e-12
            assert float((exact - tanh).abs().max()) > 1e-8

    def test_it_is_the_published_formula(self):
        x, mean, std = steps(256)[100:101], 0.05, 0.1

        def phi(z: float) -> float:
            return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

        high, low = ((float(x) + side / 255 - mean) / std for side in (1, -1))
        found = DiscretizedNormal(x.new_tensor([mean]), x.new_tensor([std]), 256, form="tanh").log_prob(x)
        assert float(found) == pytest.approx(math.log(phi(high) - phi(low)), rel=1e-10)

    def test_its_floor_is_the_published_one(self):
        """1e-12 is 39.9 bits, however far the data; the exact form goes on."""
        x, mean, std = steps(256)[:1], torch.tensor([0.9]).double(), torch.tensor([0.01]).double()
        bits = -DiscretizedNormal(mean, std, 256, form="tanh").log_prob(x) / math.log(2)
        assert float(bits) == pytest.approx(39.86, abs=0.01)
        exact = -DiscretizedNormal(mean, std, 256).log_prob(x) / math.log(2)
        assert float(exact) > 20_000

    def test_at_four_sigma_it_is_dearer(self):
        """+0.37 bit for 8-bit pictures with DDPM's sigma_1, the root of beta~_2."""
        std = math.sqrt(LinearSchedule().betas(1000)[1] * 1e-4 / (1 - LinearSchedule().alpha_bars(1000)[2]))
        x = steps(256)[128:129]
        mean = x + 4 * std
        exact, tanh = (
            -DiscretizedNormal(mean, x.new_tensor([std]), 256, form=form).log_prob(x) / math.log(2)
            for form in ("exact", "tanh")
        )
        assert float(tanh - exact) == pytest.approx(0.37, abs=0.01)


class TestAsADistribution:
    def test_a_point_is_as_far_from_it_as_it_is_surprising(self):
        x = steps(256)[::5]
        point = Normal(x, torch.zeros_like(x))
        found = DiscretizedNormal(torch.full_like(x, 0.3), torch.full_like(x, 0.2), 256)
        assert_close(point.kl(found), -found.log_prob(x), rtol=1e-14, atol=0)

    def test_elsewhere_it_is_a_density(self):
        x, where = steps(17), torch.arange(17) % 2 == 0
        mean, std = torch.full_like(x, 0.3), torch.full_like(x, 0.2)
        mixed = DiscretizedNormal(mean, std, 17, where=where).log_prob(x)
        assert_close(mixed[where], DiscretizedNormal(mean, std, 17).log_prob(x)[where])
        assert_close(mixed[~where], Normal(mean, std).log_prob(x)[~where])

    def test_elsewhere_divergences_are_those_of_normal_laws(self):
        one = torch.ones(2, dtype=torch.float64)
        where = torch.tensor([True, False])
        law = DiscretizedNormal(0.2 * one, 0.5 * one, 256, where=where)
        other = Normal(0.1 * one, 0.3 * one)
        assert_close(other.kl(law)[1], other.kl(Normal(0.2 * one, 0.5 * one))[1])

    @pytest.mark.parametrize("levels", [2, 17])
    def test_draws_follow_the_masses(self, levels):
        n = 40_000
        for mean, std in [(0.1, 0.4), (1.3, 0.2), (-0.9, 0.05)]:
            one = torch.ones(n, dtype=torch.float64)
            x = DiscretizedNormal(mean * one, std * one, levels).sample(torch.Generator().manual_seed(3))
            level = ((x.clamp(-1, 1) + 1) / 2 * (levels - 1)).round().long()
            counts = torch.bincount(level, minlength=levels)
            masses = law(mean, std, levels).log_prob(steps(levels)).exp()
            assert chi_square(counts[None], masses[None]) > 1e-3, (mean, std)

    def test_the_mode_is_where_most_of_it_is(self):
        for mean in (-2.0, 0.31, 0.99):
            found = law(mean, 0.3, 17)
            masses = torch.stack([found.log_prob(torch.full_like(found.mean, float(x))) for x in steps(17)])
            mode = found.mode[0].clamp(-1, 1)
            nearest = (steps(17) - mode).abs().argmin()
            if abs(mean) < 1 - 1 / 16:  # inside: the level the mean falls into
                assert int(masses[:, 0].argmax()) == int(nearest)


class TestInTheProcess:
    """The decoder of L_0 is this law, at s = 0 and only there."""

    def process(self, **kwargs) -> GaussianDiffusion:
        return GaussianDiffusion(LinearSchedule(), num_steps=100, **kwargs)

    @pytest.mark.parametrize("decoder", ["exact", "tanh"])
    @pytest.mark.parametrize("levels", [2, 256])
    def test_the_likelihood_of_the_data(self, decoder, levels):
        process = self.process(prediction="x0", decoder=decoder, levels=levels)
        x0 = steps(levels)[torch.tensor([[0, 1, levels - 1]])]
        output, t = torch.tensor([[-0.98, 0.99, 0.3]]).double(), torch.tensor([1])
        reverse = process.reverse(output, x0, t - 1, t)
        twin = DiscretizedNormal(output, reverse.std, levels, form=decoder)
        assert_close(reverse.log_prob(x0), twin.log_prob(x0), rtol=1e-12, atol=1e-12)
        assert_close(process.posterior(x0, x0, t - 1, t).kl(reverse), -twin.log_prob(x0))

    def test_is_a_density_between_the_other_times(self):
        process = self.process(prediction="x0")
        x0 = torch.zeros(3, 2, dtype=torch.float64)
        t = torch.tensor([1, 2, 50])
        reverse = process.reverse(x0 + 0.1, x0 + 0.2, t - 1, t)
        density = Normal(reverse.mean, reverse.std).log_prob(x0)
        assert_close(reverse.log_prob(x0)[1:], density[1:])
        assert not torch.allclose(reverse.log_prob(x0)[:1], density[:1])

    def test_masses_of_a_belief_sum_to_one_whatever_the_network_says(self):
        process = self.process(threshold=None)
        for t in (1, 7, 100):
            level = steps(256)[:, None]
            x_t, output = torch.full_like(level, 0.7), torch.full_like(level, -2.0)
            belief = process.predict(output, x_t, torch.full((256,), t))
            assert float(belief.log_prob(level).exp().sum()) == pytest.approx(1, abs=1e-10)

    def test_a_network_that_is_far_off_can_still_learn(self):
        process = self.process(prediction="x0", threshold=None)
        output = torch.tensor([[1.0]], requires_grad=True)
        t = torch.tensor([1])
        value = process.reverse(output, torch.tensor([[-1.0]]), t - 1, t).log_prob(torch.tensor([[-1.0]]))
        (gradient,) = torch.autograd.grad(value.sum(), output)
        assert gradient.isfinite().all()
        assert float(gradient) < -1
