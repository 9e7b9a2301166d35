"""Exponentials of rate matrices, against scipy's and against arithmetic of many digits."""

from fractions import Fraction
from math import exp, factorial

import numpy as np
import pytest
import scipy.linalg
import torch
from oracle import times
from torch.testing import assert_close

from d3pm import MatrixTransition, UniformTransition
from d3pm.errors import ConfigError, D3PMError
from d3pm.schedules import MutualInformationSchedule, ReciprocalSchedule
from d3pm.transitions import GeneratorTransition, retained
from d3pm.transitions.expm import expm

EXACT = {"rtol": 1e-12, "atol": 1e-14}


def random_rates(num_states: int, seed: int = 0, sparse: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(num_states, num_states, generator=generator, dtype=torch.float64)
    if sparse:  # a ring of one-way streets and a few shortcuts
        rates = torch.where(rates > 0.9, rates, 0.0) + torch.eye(num_states).double().roll(1, 1)
    rates.fill_diagonal_(0)
    return rates - rates.sum(1).diag()


def path(num_states: int) -> torch.Tensor:
    """From each state to the next at rate 1; the last is the end."""
    rates = torch.zeros(num_states, num_states, dtype=torch.float64)
    return (
        rates
        + torch.diag(torch.ones(num_states - 1).double(), 1)
        - torch.diag(torch.cat([torch.ones(num_states - 1), torch.zeros(1)]).double())
    )


class TestExpm:
    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("num_states", [2, 5, 27, 200])
    def test_it_is_that_of_scipy(self, num_states, sparse):
        rates, tau = random_rates(num_states, sparse=sparse), torch.tensor([0.0, 1e-6, 0.3, 2.0, 40.0])
        expected = torch.stack([torch.from_numpy(scipy.linalg.expm((t * rates).numpy())) for t in tau])
        assert_close(expm(rates, tau.double()), expected, rtol=0, atol=1e-11)

    def test_entries_far_below_rounding_are_precise(self):
        """One way along a line, the exponential is Poisson's law: tau^n e^-tau / n!, however small."""
        found = expm(path(60), torch.tensor([1e-3, 0.5], dtype=torch.float64))
        for row, tau in zip(found, (Fraction(1, 1000), Fraction(1, 2)), strict=True):
            for n in range(59):
                expected = float(tau**n / factorial(n)) * exp(-float(tau))
                assert float(row[0, n]) == pytest.approx(expected, rel=1e-12)

    def test_what_cannot_be_reached_is_exactly_zero(self):
        found = expm(path(60), torch.tensor([0.5, 100.0], dtype=torch.float64))
        assert (found.tril(-1) == 0).all()
        assert (found >= 0).all()

    def test_times_add_up(self):
        rates = random_rates(7)
        a, b, both = expm(rates, torch.tensor([0.7, 1.9, 2.6], dtype=torch.float64))
        assert_close(a @ b, both, **EXACT)

    def test_a_very_long_time_keeps_rows_at_one(self):
        found = expm(random_rates(9), torch.tensor([1e6], dtype=torch.float64))
        assert_close(found.sum(-1), torch.ones(1, 9).double(), **EXACT)


class TestKernel:
    def test_products_are_exponentials_of_the_time_between(self):
        rates = random_rates(6, seed=3)
        kernel = GeneratorTransition(rates, num_steps=8)
        clock = -kernel.alpha_bars.values.log()
        for s, t in ((0, 1), (0, 5), (2, 3), (2, 6), (3, 8)):
            expected = scipy.linalg.expm(((clock[t] - clock[s]) * rates).numpy())
            assert_close(
                kernel.between(times(s), times(t)).dense()[0], torch.from_numpy(expected), rtol=0, atol=1e-11
            )

    def test_jumps_to_anywhere_are_the_uniform_kernel(self):
        num_states = 5
        rates = (
            torch.full((num_states, num_states), 1 / num_states, dtype=torch.float64)
            - torch.eye(num_states).double()
        )
        ours, known = GeneratorTransition(rates, 9), UniformTransition(num_states, 9)
        t = torch.arange(1, 10)
        assert_close(ours.between(t - 1, t).dense(), known.between(t - 1, t).dense(), **EXACT)
        assert_close(ours.between(t * 0, t).dense(), known.between(t * 0, t).dense(), **EXACT)

    def test_the_end_of_all_time_is_the_stationary_law(self):
        kernel = GeneratorTransition(random_rates(4), 6, ReciprocalSchedule())
        end = kernel.between(times(0, 5), times(6, 6)).dense()
        assert_close(end, kernel.stationary().expand_as(end), **EXACT)
        assert_close(kernel.stationary() @ kernel.rates, torch.zeros(4).double(), rtol=0, atol=1e-12)

    def test_a_state_that_is_never_left_is_absorbing(self):
        kernel = GeneratorTransition(path(3), 5, ReciprocalSchedule())
        assert kernel.absorbing_state == 2
        assert_close(kernel.stationary(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), **EXACT)

    def test_information_is_that_of_its_matrices(self):
        law = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
        kernel = GeneratorTransition(random_rates(4), 7)
        closed = kernel.information(kernel.alpha_bars.values, law) / torch.special.entr(law).sum()
        assert_close(closed, retained(kernel, law), rtol=1e-9, atol=1e-12)

    def test_information_can_be_made_to_fall_on_a_line(self):
        law = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
        rates = random_rates(4)
        schedule = MutualInformationSchedule(law, GeneratorTransition(rates, 1))
        left = retained(GeneratorTransition(rates, 20, schedule), law)
        assert_close(left, 1 - torch.arange(21).double() / 20, rtol=0, atol=1e-8)

    @pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
    def test_rates_from_a_file(self, tmp_path, suffix):
        from safetensors.torch import save_file

        rates, file = random_rates(4), tmp_path / f"rates{suffix}"
        np.save(file, rates.numpy()) if suffix == ".npy" else save_file({"rates": rates}, file)
        assert_close(GeneratorTransition(str(file), 3).rates, rates, **EXACT)


def broken(i: int, j: int, value: float) -> torch.Tensor:
    rates = random_rates(3)
    rates[i, j] = value
    return rates


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GeneratorTransition(torch.zeros(2, 3), 4), r"rates has shape \(2, 3\)"),
        (lambda: GeneratorTransition(broken(0, 1, -1.0), 4), r"rates\[0, 1\] is -1"),
        (lambda: GeneratorTransition(broken(1, 0, float("nan")), 4), r"rates\[1, 0\] is nan"),
        (lambda: GeneratorTransition(broken(2, 2, 0.0), 4), "row 2 sums to"),
        (lambda: GeneratorTransition(torch.zeros(3, 3), 4), "all 0"),
        (lambda: GeneratorTransition(torch.block_diag(*[random_rates(2)] * 2), 4), "more than one law"),
        (lambda: GeneratorTransition(random_rates(3), 4, law=torch.tensor([0.5, 0.5])), "law has 2 entries"),
        (lambda: GeneratorTransition(random_rates(3), 4, law=torch.tensor([0.9, 0.05, 0.05])), "not kept"),
        (lambda: GeneratorTransition("nowhere.npy", 4), "rates: there is no file nowhere.npy"),
    ],
)
def test_rates_that_are_none_are_refused_in_one_line(build, message):
    with pytest.raises(D3PMError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.npy", np.full((2, 3, 3), 0.4), r"matrices: row 0 at t=1 sums to 1\.2"),
        ("columns.npy", np.stack([np.array([[0.5, 0.2], [0.5, 0.8]])] * 2), "its columns do sum to 1"),
        ("text.npy", b"not an array", "cannot be read"),
        ("other.txt", b"1 0\n0 1\n", r"neither \.npy nor \.safetensors"),
    ],
)
def test_a_file_of_matrices_that_are_none_is_refused_in_one_line(tmp_path, name, content, message):
    file = tmp_path / name
    np.save(file, content) if isinstance(content, np.ndarray) else file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        MatrixTransition(file)
    assert "\n" not in str(error.value)
