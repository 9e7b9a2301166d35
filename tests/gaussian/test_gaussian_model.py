"""A Gaussian model is saved, loaded, sampled and scored by what serves text; losses with a memory keep it."""

import pytest
import torch

from d3pm import DiffusionModel, GaussianDiffusion
from d3pm.data import ImageData
from d3pm.errors import CheckpointError, ConfigError, D3PMError
from d3pm.gaussian import DynamicThreshold, LearnedVarianceHybrid, SimpleError
from d3pm.networks import UNetDenoiser
from d3pm.objectives import VariationalBound
from d3pm.schedules import CosineSchedule, ZeroTerminalSNR
from d3pm.time_sampling import ImportanceTimes, UniformTimes

T = 6
DATA = ImageData(source="digits")


def make(objective, variance="fixed_small", out_channels=1, **options) -> DiffusionModel:
    torch.manual_seed(0)
    process = GaussianDiffusion(
        ZeroTerminalSNR(CosineSchedule()), T, "v", variance, DynamicThreshold(0.9), levels=17, **options
    )
    network = UNetDenoiser(
        size=8, in_channels=1, out_channels=out_channels, channels=(8, 8), attention_at=(), layers=1
    )
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    return DiffusionModel(
        process=process, network=network, objective=objective, codec=DATA.codec, shape=DATA.shape
    )


def some(num: int = 16) -> torch.Tensor:
    return torch.stack([DATA.split("train")[i]["x0"] for i in range(num)])


OBJECTIVES = [
    (SimpleError(), "fixed_small", 1),
    (LearnedVarianceHybrid(0.01), "learned_range", 2),
    (UniformTimes(VariationalBound()), "fixed_large", 1),
    (ImportanceTimes(VariationalBound(), num_steps=T, history=2), "fixed_small", 1),
]


@pytest.mark.parametrize(("objective", "variance", "channels"), OBJECTIVES, ids=lambda v: type(v).__name__)
def test_what_is_loaded_is_what_was_saved(tmp_path, objective, variance, channels):
    model = make(objective, variance, channels)
    model.train()
    for _ in range(3):
        model(some()).loss.backward()
    model.eval().save_pretrained(tmp_path)
    twin = DiffusionModel.from_pretrained(tmp_path)
    assert type(twin.objective) is type(objective)
    assert twin.process.threshold == DynamicThreshold(0.9)
    assert twin.process.schedule == ZeroTerminalSNR(CosineSchedule())
    for ours, theirs in ((m.sample(3, seed=1), m.evaluate(some(4), seed=2).total) for m in (model,)):
        assert torch.equal(twin.sample(3, seed=1), ours)
        assert torch.equal(twin.evaluate(some(4), seed=2).total, theirs)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    losses = [m(some(), generator=g).losses for m, g in zip((model, twin), generators, strict=True)]
    assert torch.equal(*losses)


def test_importance_remembers_and_forgets_nothing_on_the_way_to_disk(tmp_path):
    model = make(ImportanceTimes(VariationalBound(), num_steps=T, history=2)).train()
    for _ in range(4):
        model(some())
    assert int(model.objective.seen.sum()) == 4 * 16
    assert not torch.allclose(model.objective.probabilities(), torch.full((T,), 1 / T, dtype=torch.float64))
    model.save_pretrained(tmp_path)
    twin = DiffusionModel.from_pretrained(tmp_path)
    assert torch.equal(twin.objective.losses, model.objective.losses)
    assert torch.equal(twin.objective.probabilities(), model.objective.probabilities())
    twin.train()(some())
    assert int(twin.objective.seen.sum()) == 5 * 16
    assert int(twin.state_dict()["memory.seen"].sum()) == 5 * 16


@pytest.mark.parametrize(
    ("variance", "channels", "word"),
    [("learned_range", 1, "out_channels"), ("fixed_small", 2, "out_channels")],
)
def test_a_network_of_other_channels_is_refused(variance, channels, word):
    with pytest.raises(ConfigError, match=word) as error:
        make(SimpleError(), variance, channels)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    make(SimpleError()).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"out_channels": 1', '"out_channels": 3'))
    with pytest.raises(CheckpointError) as error:
        DiffusionModel.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("x0", [some(2) * 3, (some(2) + 1).long()])
def test_pictures_on_another_scale_are_refused(x0):
    with pytest.raises(D3PMError, match=r"x0 (has values|is torch)"):
        make(SimpleError()).evaluate(x0)
