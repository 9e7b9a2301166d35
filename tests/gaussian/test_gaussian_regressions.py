"""What once went wrong in this wing, each with the case that showed it."""

import pytest
import torch
from mixture import Mixture
from torch.testing import assert_close

from d3pm import DiffusionModel, GaussianDiffusion, sample
from d3pm.classification import Classification
from d3pm.data import ImageData
from d3pm.errors import ConfigError
from d3pm.gaussian import (
    VPSDE,
    ClassifierGuidance,
    ContinuousSimpleError,
    GuidedAncestral,
    MeanError,
    NoiseError,
    SimpleError,
    invert,
    log_likelihood,
    score_of,
)
from d3pm.gaussian.scheduler_config import process_from
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.networks import ImageClassifier, ImageTransformer, UNetDenoiser
from d3pm.objectives import Hybrid, VariationalBound
from d3pm.schedules import CosineSchedule, LinearSchedule, UnsquaredCosineSchedule, ZeroTerminalSNR
from d3pm.time_sampling import ImportanceTimes, UniformTimes

LAW = Mixture([[-0.6], [0.1], [0.6]], [[0.1], [0.15], [0.1]], [0.3, 0.3, 0.4])


def plain(schedule=None, num_steps=1000, **options) -> GaussianDiffusion:
    schedule = schedule or (LinearSchedule() if num_steps > 20 else CosineSchedule())
    return GaussianDiffusion(schedule, num_steps, threshold=None, levels=None, **options)


def refused(call, *words: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_likelihood_of_a_guided_score_is_that_of_the_class():
    """The gradient of the classifier has to stay in the graph: the divergence goes through it."""
    process, y = plain(), 1
    guide = ClassifierGuidance(process, LAW.network(process), LAW.classifier(process), 1.0)
    x = torch.tensor([[-0.1], [0.1], [0.4]], dtype=torch.float64)
    labels = torch.full((3,), y)
    sde = VPSDE(LinearSchedule())
    found = log_likelihood(sde, score_of(process, guide, sde, labels=labels), x, probes=None)
    assert_close(found.log_prob, LAW.component(y).log_prob(x), rtol=0, atol=0.02)


@pytest.mark.parametrize("labels", [[1], [0, 1, 2, 0, 1], [0, 1, 2, 3], [0, -1, 0, 0]])
def test_labels_of_another_batch_or_class_are_refused(labels):
    process = plain(num_steps=10)
    sampler = GuidedAncestral(LAW.classifier(process), torch.tensor(labels), 1.0)
    refused(lambda: sample(process, LAW.network(process), (4, 1), sampler=sampler), "labels")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [UNetDenoiser, ImageTransformer])
def test_models_of_another_precision_train_and_sample(dtype, kind):
    small = {
        UNetDenoiser: {"channels": (8, 8), "attention_at": (), "layers": 1},
        ImageTransformer: {"patch": 4, "dim": 16, "depth": 1, "heads": 2},
    }[kind]
    network = kind(size=8, in_channels=1, **small)
    process = GaussianDiffusion(CosineSchedule(), 5, "v", levels=17)
    model = DiffusionModel(process=process, network=network, objective=SimpleError(), shape=(1, 8, 8))
    model.to(dtype)
    model(torch.zeros(2, 1, 8, 8)).loss.backward()
    assert torch.isfinite(model.sample(2, seed=0)).all()


@pytest.mark.parametrize("objective", [MeanError(), NoiseError()])
def test_squares_do_not_teach_a_variance(objective):
    """Their least value is at an infinite one."""
    process = plain(num_steps=5, variance="learned_range")
    x0, x_t, t = torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([3])
    output = torch.zeros(1, 2, requires_grad=True)
    objective.at(process, output, x0, x_t, t).sum().backward()
    assert output.grad[0, 0] != 0
    assert output.grad[0, 1] == 0


def test_nor_does_the_simple_error_which_says_so():
    process = GaussianDiffusion(CosineSchedule(), 5, variance="learned_range")
    refused(
        lambda: DiffusionModel(process=process, network=torch.nn.Identity(), objective=SimpleError()),
        "LearnedVarianceHybrid",
    )


def test_a_memory_survives_a_cast():
    loss = ImportanceTimes(SimpleError(), num_steps=5, history=1).to(torch.bfloat16)
    loss.remember(torch.arange(5), torch.arange(1.0, 6.0))
    assert loss.probabilities().dtype == torch.float64
    assert_close(loss.probabilities(), torch.arange(1, 6) / 15.0, rtol=1e-2, atol=0, check_dtype=False)


@pytest.mark.parametrize("steps", [[float("nan"), 0.0], [5, 6, 0]])
def test_times_that_do_not_fall_are_refused(steps):
    process = plain(num_steps=10)
    refused(lambda: sample(process, LAW.network(process), (1, 1), steps=steps), "fall")


@pytest.mark.parametrize("first", [-1.0, 0.0, 10.0])
def test_continuous_times_lie_inside(first):
    loss = ContinuousSimpleError(first=first)
    refused(lambda: loss.draw(plain(num_steps=10), torch.zeros(2, 1), None), "first")


def test_what_is_not_known_may_be_anything():
    process = GaussianDiffusion(CosineSchedule(), 5)
    x0, known = torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    x0[..., 0], known[..., 0] = 0.5, True
    x = sample(process, lambda x, t: x * 0, (1, 1, 2, 2), known=known, x0=x0)
    assert (x[..., 0] == 0.5).all()
    assert torch.isfinite(x).all()


def test_a_whole_time_is_whole_however_it_is_written():
    """The cosine of a right angle is 6e-17."""
    process = plain(ZeroTerminalSNR(CosineSchedule()), 10, prediction="v")
    t = torch.arange(11)
    assert torch.equal(process.alpha_bar(t.double()), process.alpha_bar(t))
    assert float(process.alpha_bar(torch.tensor([10.0]))) == 0


def test_times_beyond_the_last_are_refused():
    process = plain(num_steps=10)
    refused(lambda: invert(process, LAW.network(process), torch.zeros(1, 1), [20, 10, 0]), "T=10")


def test_rescaling_nothing_is_nothing():
    guide = ClassifierFreeGuidance(
        lambda x, t, labels: torch.zeros_like(x), 3.0, {"labels": None}, rescale=0.7
    )
    assert (guide(torch.ones(2, 1, 3), torch.ones(2), labels=torch.zeros(2)) == 0).all()


@pytest.mark.parametrize(
    "config",
    [
        {"trained_betas": ["a"] * 3, "num_train_timesteps": 3},
        {"num_train_timesteps": True},
        {"beta_schedule": "scaled_linear", "beta_start": -1.0},
        {"prediction_type": ["epsilon"]},
        {"beta_end": 1.2, "num_train_timesteps": 10},
    ],
)
def test_schedulers_that_make_no_sense_are_refused(config):
    refused(
        lambda: process_from({"_class_name": "DDPMScheduler", **config}), next(iter(config)).split("_")[0]
    )


@pytest.mark.parametrize("kind", [CosineSchedule, UnsquaredCosineSchedule])
def test_a_cosine_starts_in_its_first_quarter(kind):
    refused(lambda: kind(offset=-1.0), "offset")


def test_losses_with_times_of_their_own_are_not_wrapped():
    remembers = ImportanceTimes(VariationalBound(), num_steps=5)
    refused(lambda: Hybrid(remembers, SimpleError(), 0.1), "ImportanceTimes")
    refused(lambda: UniformTimes(ContinuousSimpleError()), "ContinuousSimpleError")
    refused(lambda: ImportanceTimes(Classification(), num_steps=5), "Classification")


def test_what_is_only_looked_at_is_not_remembered():
    loss = ImportanceTimes(SimpleError(), num_steps=5, history=2).eval()
    process = plain(num_steps=5)
    loss(process, LAW.network(process), torch.zeros(8, 1, dtype=torch.float64))
    assert int(loss.seen.sum()) == 0


def test_of_more_than_it_remembers_the_newest_stay():
    loss = ImportanceTimes(SimpleError(), num_steps=2, history=2)
    loss.remember(torch.tensor([0, 0, 0, 1, 0, 0]), torch.tensor([1.0, 2.0, 3.0, 9.0, 4.0, 5.0]))
    assert sorted(loss.losses[0].tolist()) == [4.0, 5.0]
    assert loss.seen.tolist() == [5, 1]


@pytest.mark.parametrize("size", [32, [28, 28]])
def test_pictures_of_other_sides_are_refused(size):
    process, network = GaussianDiffusion(CosineSchedule(), 5), torch.nn.Module()
    network.size = size
    refused(lambda: process.check_network(network, (1, 28, 32)), "size")


def test_a_classifier_that_gets_pictures_says_so():
    data = ImageData(source="digits", labels=True).split("train")
    process = GaussianDiffusion(CosineSchedule(), 5, levels=17)
    network = UNetDenoiser(size=8, in_channels=1, channels=(8, 8), attention_at=(), layers=1, num_classes=10)
    x0, labels = data[0]["x0"][None], data[0]["labels"][None]
    refused(lambda: Classification()(process, network, x0, labels=labels), "ImageClassifier")
    classifier = ImageClassifier(size=8, in_channels=1, num_classes=10, channels=(8, 8))
    assert torch.isfinite(Classification()(process, classifier, x0, labels=labels)).all()
