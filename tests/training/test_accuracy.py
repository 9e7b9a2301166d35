"""The accuracy of a classifier of noisy data, against networks whose answers are known."""

import math

import pytest
import torch
from test_bound import Rows

from d3pm.classification import Classification
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.errors import ConfigError, DataError
from d3pm.evaluation import AccuracyReport, BoundReport, estimate_accuracy, judge
from d3pm.evaluation.accuracy import summarise
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import VariationalBound
from d3pm.transitions import AbsorbingTransition

STEPS = 10


class Reader(torch.nn.Module):
    """Tells the class, which is written in the first entry, as long as it is not masked; else says class 0."""

    def __init__(self):
        super().__init__()
        self.sureness = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, x_t, t):
        seen = torch.where(x_t[:, 0] < 2, x_t[:, 0], 0)
        return self.sureness * torch.nn.functional.one_hot(seen, 2)


def model():
    process = DiscreteDiffusion(AbsorbingTransition(num_states=3, num_steps=STEPS))
    return DiffusionModel(process=process, network=Reader(), objective=Classification(), shape=(2,))


@pytest.fixture
def rows():
    labels = torch.arange(2000) % 4 == 0  # a quarter is of class 1
    return Rows(torch.stack([labels.long(), torch.zeros(2000, dtype=torch.int64)], 1), labels=labels.long())


def test_it_is_the_share_of_right_answers_at_every_noise(rows):
    """Class 1 is told while unmasked, with probability 1 - t/T; class 0 always."""
    report = estimate_accuracy(model(), rows, num_examples=2000, num_times=STEPS)
    kept = 1 - (1 + torch.arange(STEPS)) / STEPS
    expected = 0.75 + 0.25 * float(kept.mean())
    assert abs(report.accuracy - expected) < 4 * report.standard_error
    assert report.commonest == 0.75
    for (first, last), share in report.by_noise.items():
        right = 0.75 + 0.25 * float(kept[first - 1 : last].mean())
        assert share == pytest.approx(right, abs=0.03)
    assert list(report.by_noise) == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]


def test_it_repeats_itself_and_leaves_the_global_generator_alone(rows):
    state = torch.get_rng_state()
    first, again = (judge(model(), rows, num_examples=50, num_times=3) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert judge(model(), rows, num_examples=50, num_times=3, seed=1) != first


def test_the_objective_says_how_a_model_is_judged(rows):
    assert isinstance(judge(model(), rows, num_examples=4, num_times=1), AccuracyReport)
    network = TransformerDenoiser(3, dim=8, depth=1, heads=2)
    bound = DiffusionModel(process=model().process, network=network, objective=VariationalBound(), shape=(2,))
    assert isinstance(judge(bound, Rows(rows.columns["x0"]), num_examples=4, num_times=1), BoundReport)


def test_the_report_in_closed_form():
    t = torch.tensor([[1.0, 8.0], [2.0, 10.0]])
    right = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    report = summarise(t, right, surprise=1 - right, labels=torch.tensor([2, 0]), num_steps=10)
    assert report.accuracy == 0.75
    assert report.standard_error == pytest.approx(torch.tensor([0.5, 1.0]).std().item() / math.sqrt(2))
    assert report.by_noise == {(1, 2): 1.0, (7, 8): 0.0, (9, 10): 1.0}
    assert report.as_dict()["accuracy_7_8"] == 0.0
    assert all(isinstance(value, (int, float)) for value in report.as_dict().values())
    assert report.headline("dim") == "75.00 ± 25.00 % right"


def test_examples_without_labels_are_refused(rows):
    with pytest.raises(DataError, match="have none"):
        estimate_accuracy(model(), Rows(rows.columns["x0"]))
    with pytest.raises(ConfigError, match="num_times is 0"):
        estimate_accuracy(model(), rows, num_times=0)
