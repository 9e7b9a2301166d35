"""The hybrid kernel against its published law, Bayes' rule on dense matrices, and arithmetic of many digits."""

from fractions import Fraction

import pytest
import torch
from oracle import Chain, chi_square, times
from torch.testing import assert_close

from d3pm import AbsorbingTransition, DiscreteDiffusion, MatrixTransition
from d3pm.errors import ConfigError
from d3pm.schedules import (
    CosineSchedule,
    MutualInformationSchedule,
    PolynomialSchedule,
    ReciprocalSchedule,
    Schedule,
)
from d3pm.specs import build, describe
from d3pm.transitions.hybrid import HybridTransition
from d3pm.transitions.information import dense_information, retained
from d3pm.transitions.moving import MovingOperator

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SCHEDULES = [ReciprocalSchedule(), CosineSchedule(), PolynomialSchedule(3.0)]


def single_steps(transition) -> torch.Tensor:
    t = torch.arange(1, transition.num_steps + 1)
    return transition.between(t - 1, t).dense()


class TestLaw:
    @pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
    @pytest.mark.parametrize(("uniform", "gamma"), [(0.2, 1.0), (0.1, 0.5), (0.9, 2.0)])
    def test_the_marginal_is_that_of_the_paper(self, schedule, uniform, gamma):
        kernel = HybridTransition(5, 8, schedule, uniform=uniform, gamma=gamma, mask_index=2)
        t = torch.arange(9)
        level = schedule.alpha_bars(8)
        c = 2**gamma * uniform / (1 - uniform) * (level * (1 - level)) ** (gamma / 2)
        mask = torch.nn.functional.one_hot(torch.tensor(2), 5).double()
        noise = (1 - level)[:, None] * mask + c[:, None] * (1 - mask) / 4
        expected = (level[:, None, None] * torch.eye(5) + noise[:, None]) / (1 + c)[:, None, None]
        assert_close(kernel.between(t * 0, t).dense(), expected, **EXACT)

    def test_the_uniform_share_peaks_where_half_survives(self):
        kernel = HybridTransition(6, 100, uniform=0.3)
        t = torch.arange(101)
        shares = kernel.between(t * 0, t).redrawn
        assert int(shares.argmax()) == 50
        assert float(shares[50]) == pytest.approx(0.3, abs=1e-12)
        assert float(shares[0]) == float(shares[100]) == 0

    def test_steps_move_and_are_laws(self):
        steps = single_steps(HybridTransition(5, 50, uniform=0.5, gamma=2.0))
        assert (steps >= 0).all()
        ratio = steps[:-1, 0, 1] / steps[:-1, 0, 4]
        assert float(ratio.max() / ratio.min()) > 10  # the mixture of noise is another at every step

    def test_without_uniform_noise_it_is_absorbing(self):
        ours = HybridTransition(5, 12, CosineSchedule(), uniform=0.0, mask_index=1)
        theirs = AbsorbingTransition(5, 12, CosineSchedule(), mask_index=1)
        assert_close(single_steps(ours), single_steps(theirs), **EXACT)
        assert torch.equal(ours.stationary(), theirs.stationary())
        assert ours.absorbing_state == ours.mask_state == theirs.absorbing_state == 1

    def test_a_chain_cut_short_ends_in_the_law_of_what_was_noised(self):
        kernel = HybridTransition(4, 6, PolynomialSchedule(1.0), uniform=0.2)
        early = HybridTransition(4, 6, Stopped(), uniform=0.2)
        assert torch.equal(kernel.stationary(), torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
        row = early.between(times(0), times(6)).dense()[0, 0]
        noised = row.index_fill(0, torch.tensor([0]), float(row[1]))
        assert_close(early.stationary(), noised / noised.sum(), **EXACT)


class Stopped(Schedule):
    """Half way."""

    def alpha_bar(self, u):
        return 1 - torch.as_tensor(u, dtype=torch.float64) / 2


def exact_redrawn(steps: int, s: int, t: int, odds: Fraction) -> Fraction:
    """With gamma 2 the odds are rational: c = B a (1 - a), and so is what is redrawn from s to t."""
    a, b = Fraction(steps - s, steps), Fraction(steps - t, steps)
    c, d = odds * a * (1 - a), odds * b * (1 - b)
    return (d - b / a * c) / (1 + d)


class TestDigits:
    @pytest.mark.parametrize("pair", [(0, 1), (1, 2), (499, 500), (998, 999), (999, 1000), (3, 900)])
    def test_a_small_chance_keeps_its_digits(self, pair):
        steps, odds = 1000, Fraction(1, 1)  # p_u = 1/5: B = 4 / 4
        kernel = HybridTransition(3, steps, uniform=0.2, gamma=2.0)
        s, t = times(pair[0]), times(pair[1])
        expected = float(exact_redrawn(steps, *pair, odds))
        assert float(kernel.between(s, t).redrawn) == pytest.approx(expected, rel=1e-10, abs=0)

    @pytest.mark.parametrize(("gamma", "uniform"), [(0.25, 0.05), (1.0, 0.2), (2.0, 0.9)])
    def test_a_thousand_steps_multiply_to_the_closed_form(self, gamma, uniform):
        kernel = HybridTransition(3, 1000, CosineSchedule(), gamma=gamma, uniform=uniform)
        steps = single_steps(kernel)
        assert (steps >= 0).all()
        product = torch.eye(3, dtype=torch.float64)
        for t, step in enumerate(steps, start=1):
            product = product @ step
            if t % 97 == 0 or t > 997:
                assert_close(kernel.between(times(0), times(t)).dense()[0], product, rtol=1e-9, atol=0)

    def test_strided_steps_multiply_too(self):
        kernel = HybridTransition(4, 1000)
        grid = torch.tensor([0, 1, 3, 250, 251, 600, 998, 1000])
        hops = kernel.between(grid[:-1], grid[1:])
        assert_close(
            torch.linalg.multi_dot(list(hops.dense())),
            kernel.between(times(0), times(1000)).dense()[0],
            **EXACT,
        )


class TestOperator:
    def test_composition_stays_in_the_family_and_is_the_product(self):
        kernel = HybridTransition(5, 10, mask_index=0)
        first, then = kernel.between(times(1, 2), times(4, 3)), kernel.between(times(4, 3), times(9, 10))
        both = first.compose(then)
        assert isinstance(both, MovingOperator)
        assert_close(both.dense(), first.dense() @ then.dense(), **EXACT)
        other = HybridTransition(5, 10, mask_index=3).between(times(4, 3), times(9, 10))
        assert_close(first.compose(other).dense(), first.dense() @ other.dense(), **EXACT)

    @pytest.mark.parametrize("mask_index", [0, 2, -1])
    def test_samples_follow_the_rows_wherever_the_mask_is(self, mask_index):
        operator = HybridTransition(4, 10, uniform=0.6, mask_index=mask_index).between(times(2), times(6))
        x = torch.arange(4).repeat_interleave(5000)[None]
        drawn = operator.sample(x, torch.Generator().manual_seed(0)).view(4, -1)
        counts = torch.nn.functional.one_hot(drawn, 4).sum(1)
        assert chi_square(counts, operator.dense()[0]) > 1e-3

    def test_a_large_vocabulary_needs_no_matrix(self):
        operator = HybridTransition(128_000, 1000).between(times(0), times(500))
        x = torch.randint(127_999, (1, 20_000), generator=torch.Generator().manual_seed(1))
        drawn = operator.sample(x, torch.Generator().manual_seed(2))
        for share, expected in [
            ((drawn == x), 0.4),
            ((drawn == 127_999), 0.4),
            ((drawn != x) & (drawn != 127_999), 0.2),
        ]:
            assert float(share.double().mean()) == pytest.approx(expected, abs=5 * (0.24 / 20_000) ** 0.5)


class Twin(MatrixTransition):
    """The same matrices, whole; it is told which state is noise alone."""

    mask_state = 3


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
def test_it_is_the_process_of_its_own_matrices(form):
    kernel = HybridTransition(4, 6)
    twin = Twin(single_steps(kernel), law=kernel.stationary())
    chain = Chain.of(kernel)
    cases = [(x0, x_t, s, t) for t in range(1, 7) for s in {0, t // 2, t - 1} for x0, x_t in chain.pairs(t)]
    x0, x_t, s, t = torch.tensor(cases).unbind(-1)
    logits = torch.randn(len(cases), 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x0, x_t = x0[:, None], x_t[:, None]
    for name, arguments in [
        ("prior", ((2, 3),)),
        ("marginal", (x0, t)),
        ("posterior", (x0, x_t, s, t)),
        ("predict", (logits, x_t, t)),
        ("reverse", (logits, x_t, s, t)),
    ]:
        ours, theirs = (
            getattr(DiscreteDiffusion(each, reverse_form=form), name)(*arguments).probs
            for each in (kernel, twin)
        )
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


class TestInformation:
    law = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0], dtype=torch.float64)

    @pytest.mark.parametrize(("uniform", "gamma"), [(0.0, 1.0), (0.2, 1.0), (0.7, 2.0)])
    def test_it_is_that_of_the_matrices(self, uniform, gamma):
        kernel = HybridTransition(5, 20, uniform=uniform, gamma=gamma)
        levels = kernel.schedule.alpha_bars(20)
        t = torch.arange(21)
        expected = dense_information(kernel.between(t * 0, t).dense(), self.law)
        found = kernel.information(levels, self.law)
        assert_close(found, expected, **EXACT)
        assert (found.diff() <= 1e-15).all()

    def test_a_schedule_by_information_loses_it_evenly(self):
        schedule = MutualInformationSchedule(self.law[:4], HybridTransition(5, 1, uniform=0.3))
        kernel = HybridTransition(5, 40, schedule, uniform=0.3)
        assert_close(retained(kernel, self.law), 1 - torch.arange(41).double() / 40, rtol=0, atol=1e-9)


def test_it_comes_back_from_plain_data():
    kernel = HybridTransition(5, 7, CosineSchedule(), uniform=0.1, gamma=1.5, mask_index=0)
    again = build(describe(kernel))
    s, t = times(0, 2), times(3, 7)
    assert torch.equal(again.between(s, t).dense(), kernel.between(s, t).dense())
    assert repr(again) == repr(kernel)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"uniform": 1.0}, r"uniform is 1\.0"),
        ({"uniform": -0.1}, r"uniform is -0\.1"),
        ({"gamma": 0.0}, r"gamma is 0\.0"),
        ({"gamma": 3.0}, r"gamma is 3\.0: the step to t=\d+ .*lower gamma"),
        ({"mask_index": 4}, "mask_index is 4"),
        ({"num_states": 1}, "num_states is 1"),
    ],
)
def test_values_that_cannot_work_are_named(options, says):
    with pytest.raises(ConfigError, match=says) as error:
        HybridTransition(**{"num_states": 4, "num_steps": 10} | options)
    assert "\n" not in str(error.value)


def test_a_larger_gamma_is_fine_while_enough_survives():
    kernel = HybridTransition(4, 10, Stopped(), gamma=3.0)
    assert (single_steps(kernel) >= 0).all()
