"""The kernel on groups against scipy's exponential of its generator, and its special cases."""

import numpy as np
import pytest
import scipy.linalg
import torch
from oracle import chi_square, times
from torch.testing import assert_close

from d3pm import UniformTransition
from d3pm.errors import ConfigError
from d3pm.schedules import LinearSchedule, MutualInformationSchedule, ReciprocalSchedule
from d3pm.specs import build, describe
from d3pm.transitions.grouped import GroupedOperator
from d3pm.transitions.hierarchical import HierarchicalTransition
from d3pm.transitions.information import dense_information, retained

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SCATTERED = [3, 1, 3, 7, 1, 3, 3]
"""Groups of four, two and one state, neither sorted nor counted from 0."""


def rates(groups: list[int], within: float) -> np.ndarray:
    labels = np.array(groups)
    same = (labels[:, None] == labels) / (labels[:, None] == labels).sum(1, keepdims=True)
    eye, all_alike = np.eye(len(labels)), np.full((len(labels),) * 2, 1 / len(labels))
    return within * (same - eye) + all_alike - eye


def all_steps(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [(s, t) for t in range(num_steps + 1) for s in range(t + 1)]
    s, t = torch.tensor(pairs).unbind(-1)
    return s, t


@pytest.mark.parametrize("within", [0.0, 0.5, 9.0])
def test_it_is_the_exponential_of_its_rates(within):
    schedule = LinearSchedule()
    kernel = HierarchicalTransition(SCATTERED, 50, schedule, within=within)
    s, t = times(0, 3, 49, 10), times(50, 4, 50, 30)
    clock = -schedule.alpha_bars(50).log()
    expected = [
        scipy.linalg.expm(float(clock[b] - clock[a]) * rates(SCATTERED, within))
        for a, b in zip(s, t, strict=True)
    ]
    assert_close(kernel.between(s, t).dense(), torch.tensor(np.stack(expected)), rtol=1e-11, atol=1e-13)


def test_the_group_outlives_the_token():
    kernel = HierarchicalTransition([0, 0, 1, 1], 10, ReciprocalSchedule(), within=4.0)
    operator = kernel.between(times(0), times(5))
    assert float(operator.keep_group) == 0.5
    assert float(operator.keep_group * operator.keep) == pytest.approx(0.5**5)
    row = operator.dense()[0, 0]
    assert float(row[:2].sum()) == pytest.approx(0.5 + 0.5 / 2)


@pytest.mark.parametrize(
    ("groups", "within"), [([0, 0, 1, 1, 1], 0.0), ([0, 1, 2, 3, 4], 5.0)], ids=["no rate", "alone"]
)
def test_special_cases_are_uniform(groups, within):
    ours, theirs = HierarchicalTransition(groups, 6, within=within), UniformTransition(5, 6)
    s, t = all_steps(6)
    assert_close(ours.between(s, t).dense(), theirs.between(s, t).dense(), **EXACT)


class TestOperator:
    kernel = HierarchicalTransition(SCATTERED, 10, ReciprocalSchedule(), within=2.0)

    def test_composition_stays_in_the_family_and_is_the_product(self):
        first, then = (
            self.kernel.between(times(1, 2), times(4, 3)),
            self.kernel.between(times(4, 3), times(9, 10)),
        )
        both = first.compose(then)
        assert isinstance(both, GroupedOperator)
        assert_close(both.dense(), first.dense() @ then.dense(), **EXACT)
        other = HierarchicalTransition([0, 0, 0, 0, 1, 1, 1], 10).between(times(4, 3), times(9, 10))
        assert_close(first.compose(other).dense(), first.dense() @ other.dense(), **EXACT)

    def test_all_readings_are_those_of_the_matrix(self):
        operator = self.kernel.between(times(0, 4), times(3, 10))
        dense, x = operator.dense(), torch.randint(7, (2, 5, 3), generator=torch.Generator().manual_seed(0))
        batch = times(0, 1).view(2, 1, 1).expand_as(x)
        y = x.flip(1)
        assert_close(operator.rows(x), dense[batch, x], **EXACT)
        assert_close(operator.cols(x), dense.mT[batch, x], **EXACT)
        assert_close(operator.at(x, y), dense[batch, x, y], **EXACT)
        p = torch.rand(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert_close(operator.apply(p), p @ dense, **EXACT)
        assert operator.apply(p.float()).dtype == torch.float32

    def test_samples_follow_the_rows_in_groups_of_any_size(self):
        operator = self.kernel.between(times(1), times(4))
        x = torch.arange(7).repeat_interleave(4000)[None]
        drawn = operator.sample(x, torch.Generator().manual_seed(2)).view(7, -1)
        counts = torch.nn.functional.one_hot(drawn, 7).sum(1)
        assert chi_square(counts, operator.dense()[0]) > 1e-3

    def test_a_large_vocabulary_needs_no_matrix(self):
        groups = torch.arange(100_000) % 300
        operator = HierarchicalTransition(groups, 1000, ReciprocalSchedule()).between(times(0), times(500))
        x = torch.randint(100_000, (1, 20_000), generator=torch.Generator().manual_seed(3))
        drawn = operator.sample(x, torch.Generator().manual_seed(4))
        share = float((groups[drawn] == groups[x]).double().mean())
        assert share == pytest.approx(0.5 + 0.5 / 300, abs=5 * (0.25 / 20_000) ** 0.5)
        assert_close(operator.rows(x[:, :4]).sum(-1), torch.ones(1, 4, dtype=torch.float64), **EXACT)


class TestInformation:
    law = torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.2, 0.0], dtype=torch.float64)

    @pytest.mark.parametrize("within", [0.0, 3.0])
    def test_it_is_that_of_the_matrices(self, within):
        kernel = HierarchicalTransition(SCATTERED, 20, ReciprocalSchedule(), within=within)
        t = torch.arange(21)
        expected = dense_information(kernel.between(t * 0, t).dense(), self.law)
        found = kernel.information(kernel.alpha_bars.values, self.law)
        assert_close(found, expected, **EXACT)

    def test_a_schedule_by_information_loses_it_evenly(self):
        kernel = HierarchicalTransition(SCATTERED, 1)
        schedule = MutualInformationSchedule(self.law, kernel)
        kernel = HierarchicalTransition(SCATTERED, 40, schedule)
        assert_close(retained(kernel, self.law), 1 - torch.arange(41).double() / 40, rtol=0, atol=1e-9)


def test_it_comes_back_from_plain_data():
    kernel = HierarchicalTransition(SCATTERED, 7, ReciprocalSchedule(), within=1.5)
    for tensors in (None, {}):
        again = build(describe(kernel, tensors), tensors=tensors)
        s, t = all_steps(7)
        assert torch.equal(again.between(s, t).dense(), kernel.between(s, t).dense())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groups": [0]}, r"groups has shape \(1,\)"),
        ({"groups": [[0, 1], [1, 0]]}, r"groups has shape \(2, 2\)"),
        ({"groups": [0.5, 1.0]}, "groups is of torch.float32"),
        ({"within": -1.0}, r"within is -1\.0"),
        ({"within": float("nan")}, "within is nan"),
        ({"num_steps": 0}, "num_steps is 0"),
    ],
)
def test_values_that_cannot_work_are_named(options, says):
    with pytest.raises(ConfigError, match=says) as error:
        HierarchicalTransition(**{"groups": [0, 0, 1], "num_steps": 4} | options)
    assert "\n" not in str(error.value)
