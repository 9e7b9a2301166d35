"""Schedules that only pictures use: the sigmoid one, and zero terminal signal for any other."""

import math

import pytest
import torch
from torch.testing import assert_close

from d3pm import GaussianDiffusion
from d3pm.errors import ConfigError
from d3pm.schedules import CosineSchedule, LinearSchedule, SigmoidSchedule, ZeroTerminalSNR

BASES = [LinearSchedule(), CosineSchedule(), SigmoidSchedule()]


class TestSigmoid:
    @pytest.mark.parametrize(
        ("start", "end", "temperature"), [(-3, 3, 1.0), (0, 3, 0.3), (-3, 3, 0.9), (0, 3, 0.9)]
    )
    def test_is_the_published_curve(self, start, end, temperature):
        """Chen's algorithm 1: (v_end - sigmoid((t (end - start) + start) / tau)) / (v_end - v_start)."""

        def sigmoid(x: float) -> float:
            return 1 / (1 + math.exp(-x / temperature))

        for u in (0.0, 0.1, 0.35, 0.5, 0.8, 0.99, 1.0):
            place = sigmoid(u * (end - start) + start)
            expected = (sigmoid(end) - place) / (sigmoid(end) - sigmoid(start))
            schedule = SigmoidSchedule(float(start), float(end), temperature)
            found = float(schedule.alpha_bar(torch.tensor(u, dtype=torch.float64)))
            assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)

    def test_the_symmetric_one_is_half_gone_half_way(self):
        u = torch.linspace(0, 1, 101, dtype=torch.float64)
        signal = SigmoidSchedule().alpha_bar(u)
        assert_close(signal + signal.flip(0), torch.ones(101).double())
        assert float(signal[50]) == pytest.approx(0.5, abs=1e-14)
        assert signal[0] == 1
        assert signal[-1] == 0

    def test_smaller_temperatures_are_steeper(self):
        middle = torch.tensor([0.45, 0.55], dtype=torch.float64)
        drops = [float(-SigmoidSchedule(temperature=t).alpha_bar(middle).diff()) for t in (1.5, 1.0, 0.5)]
        assert drops[0] < drops[1] < drops[2]

    @pytest.mark.parametrize("num_steps", [10, 50, 1000])
    def test_its_table_follows_the_curve_and_clips_its_end(self, num_steps):
        table = SigmoidSchedule().alpha_bars(num_steps)
        u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
        assert_close(table[:-1], SigmoidSchedule().alpha_bar(u)[:-1], rtol=1e-11, atol=0)
        assert float(1 - table[-1] / table[-2]) == pytest.approx(0.999, abs=1e-12)
        assert table[-1] > 0  # so the noise can be predicted everywhere
        GaussianDiffusion(SigmoidSchedule(), num_steps, prediction="eps")

    @pytest.mark.parametrize(
        "kwargs", [{"start": 3.0, "end": -3.0}, {"start": 1.0, "end": 1.0}, {"temperature": 0.0}]
    )
    def test_what_cannot_be(self, kwargs):
        with pytest.raises(ConfigError) as caught:
            SigmoidSchedule(**kwargs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("base", BASES, ids=repr)
@pytest.mark.parametrize("num_steps", [25, 1000])
class TestZeroTerminalSNR:
    def test_nothing_is_left_and_the_first_step_stays(self, base, num_steps):
        table, before = ZeroTerminalSNR(base).alpha_bars(num_steps), base.alpha_bars(num_steps)
        assert table.dtype == torch.float64
        assert table[0] == 1
        assert table[-1] == 0
        assert float(table[1]) == pytest.approx(float(before[1]), rel=1e-13)

    def test_the_root_is_moved_along_a_line(self, base, num_steps):
        """Algorithm 1: sqrt(abar) shifted to end at 0 and scaled to start where it did."""
        root = ZeroTerminalSNR(base).alpha_bars(num_steps)[1:].sqrt()
        before = base.alpha_bars(num_steps)[1:].sqrt()
        scale = before[0] / (before[0] - before[-1])
        assert_close(root, scale * (before - before[-1]), rtol=1e-11, atol=1e-14)

    def test_it_still_falls(self, base, num_steps):
        assert (ZeroTerminalSNR(base).alpha_bars(num_steps).diff() < 0).all()
        betas = ZeroTerminalSNR(base).betas(num_steps)
        assert (betas > 0).all()
        assert betas[-1] == 1
        assert (betas[:-1] < 1).all()

    def test_the_noise_cannot_be_predicted_under_it(self, base, num_steps):
        with pytest.raises(ConfigError, match="eps") as caught:
            GaussianDiffusion(ZeroTerminalSNR(base), num_steps, prediction="eps")
        assert "v" in str(caught.value)
        assert "\n" not in str(caught.value)
        process = GaussianDiffusion(ZeroTerminalSNR(base), num_steps, prediction="v")
        x0 = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
        law = process.marginal(x0, torch.full((5,), num_steps))
        assert (law.mean == 0).all()
        assert (law.std == 1).all()


def test_the_signal_between_the_steps_is_the_limit_of_many():
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    schedule = ZeroTerminalSNR(LinearSchedule())
    assert float((schedule.alpha_bar(u) - schedule.alpha_bars(2000)).abs().max()) < 2e-3
    assert schedule.alpha_bar(u)[-1] == 0


def test_one_step_is_too_few():
    with pytest.raises(ConfigError):
        ZeroTerminalSNR(CosineSchedule()).alpha_bars(1)


def test_already_without_signal_it_is_left_as_it_was():
    once = ZeroTerminalSNR(CosineSchedule())
    assert_close(ZeroTerminalSNR(once).alpha_bars(50), once.alpha_bars(50), rtol=1e-12, atol=1e-15)


def test_the_published_linear_schedule_keeps_seven_parts_in_a_thousand():
    """The flaw it mends: sqrt(alpha_bar_T) = 0.0064 of the mean brightness leaks into x_T."""
    assert float(LinearSchedule().alpha_bars(1000)[-1].sqrt()) == pytest.approx(0.00635, abs=1e-5)
