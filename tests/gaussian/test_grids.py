"""Where the steps lie: every grid falls to 0 in as many steps as asked, and each is the one its name promises."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from d3pm import GaussianDiffusion, sampling
from d3pm.errors import ConfigError
from d3pm.gaussian.ddim import DDIM
from d3pm.grids import (
    cosine_grid,
    leading_grid,
    linspace_grid,
    quadratic_grid,
    trailing_grid,
    uniform_grid,
)
from d3pm.sampling import sample
from d3pm.schedules import LinearSchedule

GRIDS = [cosine_grid, leading_grid, linspace_grid, quadratic_grid, trailing_grid, uniform_grid]
PAIRS = [(t, s) for t in (1, 2, 3, 5, 10, 27) for s in range(1, t + 1)] + [
    (1000, s) for s in (1, 2, 3, 7, 10, 20, 50, 100, 250, 333, 500, 799, 801, 999, 1000)
]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.__name__)
def test_every_grid_falls_to_zero_in_the_steps_asked_for(grid):
    for num_steps, steps in PAIRS:
        times = grid(num_steps, steps)
        assert len(times) == steps + 1, (num_steps, steps)
        assert times[-1] == 0
        assert 1 <= times[0] <= num_steps
        assert all(a > b for a, b in pairwise(times)), (num_steps, steps)
        assert all(type(t) is int for t in times)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.__name__)
def test_all_steps_are_all_times(grid):
    for num_steps in (1, 2, 9, 100):
        assert grid(num_steps, num_steps) == list(range(num_steps, -1, -1))


@pytest.mark.parametrize(
    "grid", [cosine_grid, linspace_grid, trailing_grid, uniform_grid], ids=lambda grid: grid.__name__
)
def test_these_start_at_the_end(grid):
    assert all(grid(num_steps, steps)[0] == num_steps for num_steps, steps in PAIRS)


@pytest.mark.parametrize("grid", [leading_grid, quadratic_grid], ids=lambda grid: grid.__name__)
def test_these_never_do_when_they_skip(grid):
    assert all(grid(1000, steps)[0] < 1000 for steps in (1, 2, 10, 50, 250, 500))


@pytest.mark.parametrize("steps", [2, 5, 10, 20, 50, 250])
def test_they_are_what_their_names_mean(steps):
    """Counted from 0 as elsewhere, so plus one; the step to the data is not counted there."""
    i = np.arange(steps)
    ours = {grid: grid(1000, steps)[:-1] for grid in GRIDS}
    assert ours[leading_grid] == (i * (1000 // steps) + 1)[::-1].tolist()
    assert ours[trailing_grid] == np.round(1000 - i * 1000 / steps).astype(int).tolist()
    assert ours[linspace_grid] == (np.linspace(0, 999, steps).round() + 1)[::-1].astype(int).tolist()


def test_quadratic_is_a_square_where_squares_are_apart():
    times = np.array(quadratic_grid(100_000, 100)[:-1])[::-1]
    root = np.sqrt(times - 1)
    assert np.abs(np.diff(root[20:]) - np.sqrt(80_000) / 99).max() < 0.2
    assert times[-1] == pytest.approx(80_000, abs=1.5)


def test_trailing_is_uniform_under_another_name():
    assert trailing_grid(1000, 7) == uniform_grid(1000, 7)


def test_old_names_still_lead_here():
    assert sampling.uniform_grid is uniform_grid
    assert sampling.cosine_grid is cosine_grid


class TestInTheLoop:
    process = GaussianDiffusion(LinearSchedule(), 100)

    def visited(self, **kwargs) -> list[float]:
        told = []

        def network(x_t, t):
            told.append((t.dtype, t[0].item()))
            return torch.zeros_like(x_t)

        sample(self.process, network, (2, 1), **kwargs)
        return told

    @pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.__name__)
    def test_a_grid_is_walked(self, grid):
        assert [t for _, t in self.visited(steps=9, grid=grid)] == grid(100, 9)[:-1]

    @pytest.mark.parametrize("times", [[100, 3, 0], [77, 10, 0], [1, 0], [99.5, 12.25, 0], [0.5, 0.0]])
    def test_a_list_of_times_is_walked(self, times):
        told = self.visited(steps=times, sampler=DDIM())
        assert [t for _, t in told] == times[:-1]
        for dtype, t in told:
            assert dtype == (torch.int64 if isinstance(t, int) else torch.float64)

    @pytest.mark.parametrize(
        "steps", [0, 101, -3, [101, 0], [50, 1], [50, 50, 0], [10, 20, 0], [5, -1, 0], [0], []]
    )
    def test_what_cannot_be_walked(self, steps):
        with pytest.raises(ConfigError, match="steps") as caught:
            self.visited(steps=steps)
        assert "\n" not in str(caught.value)
