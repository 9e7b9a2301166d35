"""Objects as plain data and back."""

import json

import pytest
import torch

from d3pm import AbsorbingTransition, DiscreteDiffusion, MarginalTransition, MatrixTransition
from d3pm.errors import ConfigError
from d3pm.objectives import AuxiliaryBound, CrossEntropy, Hybrid, VariationalBound
from d3pm.process import Process
from d3pm.schedules import MutualInformationSchedule, PolynomialSchedule, Schedule
from d3pm.specs import build, describe
from d3pm.transitions import Transition

LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
THINGS = [
    PolynomialSchedule(power=3.0),
    Hybrid(VariationalBound(), CrossEntropy(), 0.5),
    AuxiliaryBound(0.001),
]
PROCESSES = [
    DiscreteDiffusion(AbsorbingTransition(5, 7, PolynomialSchedule(0.5), mask_index=0), "mixture"),
    DiscreteDiffusion(MarginalTransition(LAW, 7)),
    DiscreteDiffusion(MatrixTransition.example(3, 4)),
    DiscreteDiffusion(MarginalTransition(LAW, 7, MutualInformationSchedule(LAW, MarginalTransition(LAW, 1)))),
]


@pytest.mark.parametrize("thing", THINGS, ids=repr)
def test_a_value_comes_back_equal_through_json(thing):
    assert build(json.loads(json.dumps(describe(thing)))) == thing


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: repr(p.transition))
@pytest.mark.parametrize("apart", [True, False])
def test_a_process_comes_back_with_the_same_matrices_to_the_last_bit(process, apart):
    tensors = {} if apart else None
    spec = json.loads(json.dumps(describe(process, tensors, "process")))
    again = build(spec, (Process, Transition, Schedule), tensors)
    s, t = torch.tensor([0, 1]), torch.tensor([4, 3])
    assert torch.equal(again.transition.between(s, t).dense(), process.transition.between(s, t).dense())
    assert again.reverse_form == process.reverse_form
    assert again.transition.absorbing_state == process.transition.absorbing_state


def test_only_allowed_classes_are_made():
    with pytest.raises(ConfigError, match=r"subprocess\.Popen: not one of Process"):
        build({"class_path": "subprocess.Popen", "init_args": {"args": "true"}}, (Process,))
    nested = {
        "class_path": "d3pm.DiscreteDiffusion",
        "init_args": {"transition": {"class_path": "io.StringIO"}},
    }
    with pytest.raises(ConfigError, match="StringIO"):
        build(nested, (Process, Transition))


@pytest.mark.parametrize("path", ["nowhere.Thing", "d3pm.schedules.NoSuch", "plain", "d3pm.specs.build"])
def test_a_path_that_names_no_class_is_refused(path):
    with pytest.raises(ConfigError, match=path):
        build({"class_path": path})


def test_arguments_a_class_does_not_take_are_refused():
    with pytest.raises(ConfigError, match="powr"):
        build({"class_path": "d3pm.schedules.PolynomialSchedule", "init_args": {"powr": 2}})


class Forgetful(Schedule):
    """Does not keep its argument."""

    def __init__(self, speed: float) -> None:
        pass

    @classmethod
    def example(cls):
        return cls(1.0)

    def alpha_bar(self, u):
        return 1 - u


def test_a_class_that_does_not_keep_its_arguments_is_told_so():
    with pytest.raises(ConfigError, match=r"Forgetful does not keep its argument 'speed'.*set self\.speed"):
        describe(Forgetful(2.0))
