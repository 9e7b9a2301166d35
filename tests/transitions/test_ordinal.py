"""Kernels of ordered states: the formulas of the paper, doubly stochastic, and what they cost."""

import math

import pytest
import torch
from oracle import chi_square, times
from torch.testing import assert_close

from d3pm.errors import ConfigError, D3PMError
from d3pm.schedules import LinearSchedule, MutualInformationSchedule, ReciprocalSchedule
from d3pm.transitions import (
    BandDiagonalTransition,
    DiscretizedGaussianTransition,
    MatrixTransition,
    ToeplitzOperator,
    retained,
)

EXACT = {"rtol": 1e-12, "atol": 1e-14}
SIZES = [2, 17, 256]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paper_gaussian(num_states: int, beta: float) -> torch.Tensor:
    """Appendix A.2.3, entry by entry."""

    def weight(n: int) -> float:
        return math.exp(-4 * n * n / ((num_states - 1) ** 2 * beta))

    total = math.fsum(weight(n) for n in range(-(num_states - 1), num_states))
    matrix = [[weight(i - j) / total for j in range(num_states)] for i in range(num_states)]
    for i, row in enumerate(matrix):
        row[i] = 1 - math.fsum(row[:i] + row[i + 1 :])
    return torch.tensor(matrix, dtype=torch.float64)


@pytest.mark.parametrize("num_states", SIZES)
def test_gaussian_steps_are_those_of_the_paper(num_states):
    kernel = DiscretizedGaussianTransition(num_states, 1000)
    for t in (1, 400, 1000):
        beta = float(LinearSchedule().betas(1000)[t - 1])
        expected = paper_gaussian(num_states, beta)
        found = kernel.between(times(t - 1), times(t)).dense()[0]
        assert_close(found, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("num_states", SIZES)
@pytest.mark.parametrize(("s", "t"), [(0, 1), (10, 11), (59, 60), (0, 60), (5, 25)])
def test_rows_and_columns_sum_to_one(num_states, s, t):
    for kernel in (
        DiscretizedGaussianTransition(num_states, 60),
        BandDiagonalTransition(num_states, 60),
        BandDiagonalTransition(num_states, 60, width=1),
    ):
        matrix = kernel.between(times(s), times(t)).dense()[0]
        one = torch.ones(num_states, dtype=torch.float64)
        assert_close(matrix.sum(0), one, **EXACT)
        assert_close(matrix.sum(1), one, **EXACT)
        assert (matrix >= 0).all()


@pytest.mark.parametrize(("num_states", "width"), [(2, 1), (5, 1), (5, 4), (17, 3), (256, 20)])
def test_a_band_is_a_band_and_keeps_the_uniform_law(num_states, width):
    kernel = BandDiagonalTransition(num_states, 9, width, ReciprocalSchedule())
    uniform = torch.full((num_states,), 1 / num_states, dtype=torch.float64)
    distance = (torch.arange(num_states)[:, None] - torch.arange(num_states)).abs()
    for t in range(1, 10):
        step, beta = kernel.between(times(t - 1), times(t)).dense()[0], 1 / (9 - t + 1)
        off = ((distance > 0) & (distance <= width)).double() * (beta / num_states)
        assert_close(step, off + torch.diag(1 - off.sum(1)), **EXACT)
        assert_close(uniform @ step, uniform, **EXACT)
    assert torch.equal(kernel.stationary(), uniform)


def test_a_long_chain_forgets_where_it_began():
    for kernel in (
        DiscretizedGaussianTransition(17, 1000),
        BandDiagonalTransition(17, 1000, 16, LinearSchedule()),
    ):
        end = kernel.between(times(0), times(1000)).dense()[0]
        assert_close(end, torch.full_like(end, 1 / 17), rtol=0, atol=1e-3)


def test_neighbours_come_before_strangers():
    """Corruption is ordinal: chances fall with distance, at every time."""
    kernel = DiscretizedGaussianTransition(17, 1000)
    rows = kernel.between(times(0, 0, 0), times(10, 100, 300)).rows(times(8, 8, 8)[:, None])[:, 0]
    assert (rows[:, 8:].diff() <= 1e-15).all()
    assert_close(rows, rows.flip(1), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("width", [1, 3, 19])
class TestToeplitz:
    num_states = 20

    def operator(self, width: int) -> ToeplitzOperator:
        far = torch.rand(3, width, generator=generator(1), dtype=torch.float64)
        far[1] = 0
        return ToeplitzOperator(0.45 * far / far.sum(1, keepdim=True).clamp(min=1), self.num_states)

    def test_a_shift_beyond_the_end_stays(self, width):
        operator = self.operator(width)
        expected = torch.zeros(3, self.num_states, self.num_states, dtype=torch.float64)
        for b, far in enumerate(operator.far):
            for i in range(self.num_states):
                expected[b, i, i] += 1 - 2 * far.sum()
                for n, chance in enumerate(far, start=1):
                    for j in (i - n, i + n):
                        expected[b, i, j if 0 <= j < self.num_states else i] += chance
        assert_close(operator.dense(), expected, **EXACT)

    def test_apply_is_the_matrix(self, width):
        operator = self.operator(width)
        p = torch.rand(3, 4, 2, self.num_states, generator=generator(2), dtype=torch.float64)
        assert_close(operator.apply(p), torch.einsum("b...i,bij->b...j", p, operator.dense()), **EXACT)

    def test_at_reads_the_matrix(self, width):
        operator = self.operator(width)
        x, y = torch.randint(self.num_states, (2, 3, 50), generator=generator(3))
        batch = torch.arange(3)[:, None]
        assert_close(operator.at(x, y), operator.dense()[batch, x, y], **EXACT)

    def test_one_entry_an_example_is_enough(self, width):
        operator, x = self.operator(width), torch.tensor([0, 7, 19])
        dense = operator.dense()[torch.arange(3), x]
        assert_close(operator.rows(x), dense, **EXACT)
        assert_close(operator.at(x, x), dense.gather(1, x[:, None])[:, 0], **EXACT)
        assert (dense.gather(1, operator.sample(x, generator(4))[:, None]) > 0).all()

    def test_samples_follow_the_rows(self, width):
        operator = self.operator(width)
        x = torch.arange(self.num_states).repeat_interleave(3000).expand(3, -1)
        drawn = operator.sample(x, generator(4)).view(3 * self.num_states, 3000)
        counts = torch.nn.functional.one_hot(drawn, self.num_states).sum(1)
        assert chi_square(counts, operator.dense().flatten(0, 1)) > 1e-3


def test_a_wide_band_is_sampled_rightly_too():
    """Where a distance's chance counts twice in the middle but the diagonal still is at least 0."""
    operator = ToeplitzOperator(torch.full((1, 7), 0.99 / 8, dtype=torch.float64), 8)
    x = torch.arange(8).repeat_interleave(5000)[None]
    drawn = operator.sample(x, generator(5)).view(8, 5000)
    counts = torch.nn.functional.one_hot(drawn, 8).sum(1)
    assert chi_square(counts, operator.dense()[0]) > 1e-3


def test_the_table_at_256_levels_and_a_thousand_steps_takes_less_than_600_megabytes():
    kernel = DiscretizedGaussianTransition(256, 1000)
    x = torch.randint(256, (2, 100), generator=generator(6))
    kernel.between(times(0, 0), times(1000, 500)).rows(x)
    held = [kernel._bars.values, kernel._betas.values]
    assert sum(each.untyped_storage().nbytes() for each in held) < 600e6


def test_a_table_that_cannot_fit_is_refused_before_it_is_made():
    kernel = DiscretizedGaussianTransition(5000, 1000)
    with pytest.raises(ConfigError, match=r"num_states is 5000 and num_steps 1000.*186 GiB"):
        kernel.between(times(0), times(7))


@pytest.mark.parametrize("num_steps", [10, 100])
@pytest.mark.parametrize("kind", [DiscretizedGaussianTransition, BandDiagonalTransition])
def test_information_falls_on_a_line_until_the_last_steps(kind, num_steps):
    """I(x_t; x_0) / H(x_0) = 1 - t/T as far as steps of beta < 1 can take it."""
    law = 1 / torch.arange(1, 10, dtype=torch.float64)
    probe = DiscretizedGaussianTransition(9, 100) if kind is DiscretizedGaussianTransition else kind(9, 5)
    schedule = MutualInformationSchedule(law, probe)
    kernel = kind(num_states=9, num_steps=num_steps, schedule=schedule)
    left = retained(kernel, law)
    line = 1 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    reached = kernel.schedule.betas(num_steps).double() < 0.99
    kept = torch.cat([torch.ones(1, dtype=torch.bool), reached.cumprod(0).bool()])
    assert kept.sum() > 0.5 * num_steps
    assert_close(left[kept], line[kept], rtol=0, atol=1e-6)


def test_the_share_left_is_that_of_the_joint_table():
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    kernel = MatrixTransition.example(3, 4)
    for t, share in enumerate(retained(kernel, law)):
        joint = law[:, None] * kernel.between(times(0), times(t)).dense()[0]
        ratio = joint / (law[:, None] * joint.sum(0))
        information = torch.xlogy(joint, ratio.clamp_min(1e-300)).sum()
        assert float(share) == pytest.approx(float(information / torch.special.entr(law).sum()), abs=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiscretizedGaussianTransition(1, 100), "num_states"),
        (lambda: DiscretizedGaussianTransition(5, 10), "beta"),
        (lambda: BandDiagonalTransition(1, 4), "num_states"),
        (lambda: BandDiagonalTransition(5, 4, width=5), r"width is 5: choose 1 \.\. 4"),
        (lambda: BandDiagonalTransition(5, 4, width=0), "width is 0"),
        (
            lambda: MutualInformationSchedule([0.5, 0.5], BandDiagonalTransition(2, 3)).alpha_bar(times(0)),
            "whole steps",
        ),
    ],
)
def test_values_that_cannot_work_are_named(build, message):
    with pytest.raises(D3PMError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
