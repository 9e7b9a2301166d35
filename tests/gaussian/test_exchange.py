"""Folders of diffusers: read, written, and refused in one line."""

import json
import re

import pytest
import torch
from torch.testing import assert_close

from d3pm import DiffusionModel
from d3pm.errors import CheckpointError, ConfigError
from d3pm.gaussian.exchange import export_diffusers, load_diffusers
from d3pm.gaussian.objectives import LearnedVarianceHybrid, SimpleError
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.scheduler_config import process_from, scheduler_config
from d3pm.gaussian.tabulated import TabulatedSchedule
from d3pm.gaussian.threshold import Clip, DynamicThreshold
from d3pm.grids import linspace_grid, uniform_grid
from d3pm.networks.unet import UNetDenoiser
from d3pm.sampling import sample
from d3pm.schedules import CosineSchedule, LinearSchedule, PolynomialSchedule, ZeroTerminalSNR

PUBLISHED = {  # config.json of google/ddpm-cifar10-32
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SMALL = {
    **PUBLISHED,
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}
INDEX = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.0.4",
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def random_unet(config: dict):
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel.from_config(config).eval()


def old_names(weights: dict) -> dict:
    def old(name: str) -> str:
        return re.sub(r"\.(to_[qkv]|to_out\.0)\.", lambda found: f".{OLD_NAMES[found[1]]}.", name)

    return {old(name): value.clone() for name, value in weights.items()}


def write(file, value: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def folder_of(folder, unet, config: dict, scheduler: dict = SCHEDULER, root=True, safe=False, old=True):
    """As it was, or is, published."""
    from safetensors.torch import save_file

    place = folder if root else folder / "unet"
    write(place / "config.json", config)
    write((folder if root else folder / "scheduler") / "scheduler_config.json", scheduler)
    write(folder / "model_index.json", INDEX)
    weights = old_names(unet.state_dict()) if old else unet.state_dict()
    if safe:
        save_file(weights, place / "diffusion_pytorch_model.safetensors")
    else:
        torch.save(weights, place / "diffusion_pytorch_model.bin")
    return folder


def outputs(unet, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return unet(x, timesteps).sample


def small_folder(folder, config: dict = SMALL, scheduler: dict = SCHEDULER, **layout):
    return folder_of(folder, random_unet(config), config, scheduler, **layout)


@pytest.fixture(scope="module")
def published():
    """The network, a picture, a timestep, and what it says of them."""
    unet = random_unet(PUBLISHED)
    x, timesteps = (
        torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 999]),
    )
    return unet, x, timesteps, outputs(unet, x, timesteps)


class TestPublishedLayout:
    def test_it_is_that_layout(self, published):
        unet = published[0]
        assert len(unet.state_dict()) == 328
        assert sum(p.numel() for p in unet.parameters()) == 35_746_307
        assert sum("proj_attn" in name for name in old_names(unet.state_dict())) == 2 * 6

    @pytest.mark.parametrize("safe", [False, True], ids=["bin", "safetensors"])
    def test_there_and_back(self, published, tmp_path, safe):
        """Old names at the root, through a model of ours, to a pipeline: the same bits all the way."""
        from diffusers import DDPMPipeline

        unet, x, timesteps, wanted = published
        model = load_diffusers(folder_of(tmp_path / "old", unet, PUBLISHED, safe=safe))
        with torch.no_grad():
            assert torch.equal(model.network(x, timesteps + 1), wanted)
        assert (model.shape, model.process.variance) == ((3, 32, 32), "fixed_large")
        assert model.objective == SimpleError()
        assert model.process.schedule == LinearSchedule()

        if not safe:
            return  # the way back is the same
        export_diffusers(model, tmp_path / "new")
        pipeline = DDPMPipeline.from_pretrained(tmp_path / "new")
        assert torch.equal(outputs(pipeline.unet, x, timesteps), wanted)
        pipeline.set_progress_bar_config(disable=True)
        shown = pipeline(num_inference_steps=3, output_type="np").images
        assert shown.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("root", [True, False])
def test_every_layout_is_read(tmp_path, root, safe, old):
    unet, x, timesteps = random_unet(SMALL), torch.randn(2, 3, 8, 8), torch.tensor([3, 500])
    model = load_diffusers(folder_of(tmp_path, unet, SMALL, root=root, safe=safe, old=old))
    with torch.no_grad():
        assert torch.equal(model.network(x, timesteps + 1), outputs(unet, x, timesteps))
    assert not model.training


def test_a_loaded_model_is_saved_and_loaded_as_ours(tmp_path):
    """A schedule that exists as a table only, and all that the process is."""
    scheduler = {**SCHEDULER, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    model = load_diffusers(small_folder(tmp_path / "theirs", scheduler=scheduler))
    model.save_pretrained(tmp_path / "ours")
    again, x = DiffusionModel.from_pretrained(tmp_path / "ours").eval(), torch.randn(1, 3, 8, 8)
    ours, theirs = again.network.state_dict(), model.network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with torch.no_grad():  # where weights lie in memory decides which convolution some processors take
        found, wanted = (each.network(x, torch.tensor([7])) for each in (again, model))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    t = torch.arange(1001)
    assert torch.equal(again.process.alpha_bar(t), model.process.alpha_bar(t))
    assert (again.process.prediction, again.codec, again.shape) == ("v", model.codec, (3, 8, 8))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_an_exported_pipeline_draws_our_samples(tmp_path, variance):
    """One seed, one chain: apart by the float32 of their tables only."""
    from diffusers import DDPMPipeline

    network = UNetDenoiser(8, 3, 6 if variance == "learned_range" else 3, (8, 16), (4,), layers=1).eval()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    process = GaussianDiffusion(LinearSchedule(), 30, variance=variance)
    export_diffusers(DiffusionModel(process=process, network=network, shape=(3, 8, 8)), tmp_path / "out")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    grid = uniform_grid if variance == "fixed_small" else linspace_grid
    for steps in (30, 8):
        seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
        shown = pipeline(2, seeds[0], num_inference_steps=steps, output_type="np").images
        ours = sample(process, network, (2, 3, 8, 8), steps=steps, grid=grid, generator=seeds[1])
        ours = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        assert_close(torch.from_numpy(shown), ours, rtol=0, atol=2e-3)


ROUND_TRIPS = [
    GaussianDiffusion(LinearSchedule(), 1000, variance="fixed_large"),
    GaussianDiffusion(LinearSchedule(2e-4, 0.01), 300, "v", "learned_range", None),
    GaussianDiffusion(CosineSchedule(), 100, "x0", threshold=DynamicThreshold(0.9)),
    GaussianDiffusion(ZeroTerminalSNR(LinearSchedule()), 200, "v"),
    GaussianDiffusion(PolynomialSchedule(), 20, "v"),
    GaussianDiffusion(TabulatedSchedule([0.1, 0.4, 0.9]), 3),
]


@pytest.mark.parametrize("process", ROUND_TRIPS, ids=lambda p: type(p.schedule).__name__)
def test_a_process_comes_back_from_its_configuration(process):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(**scheduler_config(process))
    again = process_from(json.loads(scheduler.to_json_string()))
    t = torch.arange(process.num_steps + 1)
    assert_close(again.alpha_bar(t), process.alpha_bar(t), rtol=1e-11, atol=1e-14)
    for name in ("num_steps", "prediction", "variance", "threshold"):
        assert getattr(again, name) == getattr(process, name)


READINGS = [
    ({"_class_name": "DDPMScheduler"}, ("eps", "fixed_small", Clip())),
    ({"_class_name": "DDIMScheduler", "clip_sample": False}, ("eps", "fixed_small", None)),
    ({"_class_name": "DPMSolverMultistepScheduler"}, ("eps", "fixed_small", None)),
    ({"predict_epsilon": False}, ("x0", "fixed_small", Clip())),
    ({"variance_type": "fixed_small_log", "thresholding": True}, ("eps", "fixed_small", Clip())),
    (
        {"thresholding": True, "sample_max_value": 1e6, "dynamic_thresholding_ratio": 0.9},
        ("eps", "fixed_small", DynamicThreshold(0.9)),
    ),
]


@pytest.mark.parametrize(("config", "meant"), READINGS)
def test_what_a_configuration_means(config, meant):
    process = process_from(config)
    assert (process.prediction, process.variance, process.threshold) == meant


REFUSED_SCHEDULERS = [
    ({"_class_name": "VQDiffusionScheduler"}, "VQDiffusionScheduler.*one of DDPMScheduler"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "no Gaussian chain"),
    ({"beta_schedule": "exotic"}, "beta_schedule is 'exotic'.*trained_betas"),
    ({"beta_schedule": "linear", "beta_end": 1.5}, "beta"),
    ({"beta_start": "small"}, "beta_start is 'small'.*0 < beta_start"),
    ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
    ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'.*one of epsilon"),
    ({"variance_type": "learned"}, "variance_type is 'learned'.*learned_range"),
    ({"variance_type": "fixed_large_log"}, "variance_type is 'fixed_large_log'"),
    ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values.*1000"),
    ({"trained_betas": [0.1, 1.2], "num_train_timesteps": 2}, "beta at t=2 is 1.2"),
    ({"rescale_betas_zero_snr": True}, "'eps'"),
    ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0"),
    ({"thresholding": True, "sample_max_value": 1.5}, "sample_max_value is 1.5"),
]


@pytest.mark.parametrize(("scheduler", "message"), REFUSED_SCHEDULERS)
def test_an_unknown_scheduler_is_refused_in_one_line(tmp_path, scheduler, message):
    write(tmp_path / "scheduler_config.json", {**SCHEDULER, **scheduler})
    write(tmp_path / "config.json", SMALL)
    refused(tmp_path, message)


def refused(folder, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_diffusers(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("config", "scheduler", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, {}, "UNet2DConditionModel: only a UNet2DModel"),
        ({"sample_size": None}, {}, "sample_size"),
        ({}, {"variance_type": "learned_range"}, "out_channels=3.*need 6"),
        ({"out_channels": 6}, {}, "out_channels=6.*need 3.*variance_type"),
        ({"in_channels": 6}, {}, "out_channels=3.*need 6"),
        ({"time_embedding_type": "fourier"}, {}, "time_embedding_type"),
        ({"block_out_channels": [8, 16, 16]}, {}, "UNet2DModel"),
        ({"block_out_channels": [16, 16]}, {}, "weights.*do not fit config.json .*expected shape"),
        ({"num_class_embeds": 5}, {}, "missing keys in the weights: class_embedding.weight"),
        ({"mid_block_type": None}, {}, "unexpected keys in the weights: mid_block"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line(tmp_path, config, scheduler, message):
    small_folder(tmp_path, safe=True)
    write(tmp_path / "config.json", {**SMALL, **config})
    write(tmp_path / "scheduler_config.json", {**SCHEDULER, **scheduler})
    refused(tmp_path, message)


class TestBrokenFolders:
    def test_none(self, tmp_path):
        refused(tmp_path / "nowhere", "no such folder: download")

    def test_empty(self, tmp_path):
        refused(tmp_path, "no unet/config.json, nor config.json")

    def test_without_scheduler(self, tmp_path):
        write(tmp_path / "unet" / "config.json", SMALL)
        refused(tmp_path, "no scheduler/scheduler_config.json")

    def test_without_weights(self, tmp_path):
        small_folder(tmp_path)
        (tmp_path / "diffusion_pytorch_model.bin").unlink()
        refused(tmp_path, "weights cannot be read.*diffusion_pytorch_model")

    @pytest.mark.parametrize(
        "name", ["diffusion_pytorch_model.safetensors", "config.json", "scheduler_config.json"]
    )
    def test_damaged(self, tmp_path, name):
        small_folder(tmp_path, safe=True)
        (tmp_path / name).write_bytes(b"\x00{")
        refused(tmp_path, f"{name.split('.')[0] if name.endswith('json') else 'weights'}.*cannot be read")

    def test_on_latents(self, tmp_path):
        small_folder(tmp_path)
        write(tmp_path / "model_index.json", {**INDEX, "vqvae": ["diffusers", "VQModel"]})
        refused(tmp_path, "vqvae.*only models of pixels")

    def test_ours(self, tmp_path):
        """A model of ours is not mistaken for one of theirs."""
        load_diffusers(small_folder(tmp_path / "theirs")).save_pretrained(tmp_path / "ours")
        write(tmp_path / "ours" / "scheduler_config.json", SCHEDULER)
        refused(tmp_path / "ours", "only a UNet2DModel")


def test_a_learned_variance_is_loaded_with_its_loss(tmp_path):
    """Doubled channels and learned_range together; the bound of pictures is finite."""
    config, scheduler = {**SMALL, "out_channels": 6}, {**SCHEDULER, "variance_type": "learned_range"}
    model = load_diffusers(small_folder(tmp_path, config, scheduler))
    assert model.objective == LearnedVarianceHybrid()
    x0 = torch.zeros(2, 3, 8, 8)
    assert model(x0).loss.isfinite()
    assert model.evaluate(x0, num_times=2).total.isfinite().all()


def model_of(process: GaussianDiffusion, network=None) -> DiffusionModel:
    network = network or UNetDenoiser(8, 3, None, (8, 16), (4,), layers=1)
    return DiffusionModel(process=process, network=network, shape=(3, 8, 8))


class Elsewhere(torch.nn.Module):
    """Not a U-Net."""

    def forward(self, x_t, t):
        return x_t


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of(GaussianDiffusion(CosineSchedule(), 10, "mean")), "prediction is 'mean'.*one of eps"),
        (model_of(GaussianDiffusion(CosineSchedule(), 10), Elsewhere()), "Elsewhere.*DiffusersUNet"),
        (
            model_of(
                GaussianDiffusion(CosineSchedule(), 10),
                UNetDenoiser(8, 3, None, (8, 16), (4,), layers=1, num_classes=10),
            ),
            "num_classes=10.*no labels",
        ),
    ],
)
def test_what_diffusers_cannot_express_is_refused_in_one_line(tmp_path, model, message):
    with pytest.raises(ConfigError, match=message) as error:
        export_diffusers(model, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_export_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty: give a new folder"):
        export_diffusers(model_of(GaussianDiffusion(CosineSchedule(), 10)), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_classes_are_loaded(tmp_path):
    """A class-conditional U-Net of theirs, whose every embedding is a class."""
    config = {**SMALL, "num_class_embeds": 4}
    unet, x = random_unet(config), torch.randn(2, 3, 8, 8)
    model = load_diffusers(folder_of(tmp_path, unet, config))
    labels = torch.tensor([0, 3])
    with torch.no_grad():
        wanted = unet(x, torch.tensor([5, 6]), class_labels=labels).sample
        assert torch.equal(model.network(x, torch.tensor([6, 7]), labels=labels), wanted)


class TestTabulated:
    def test_between_its_times_noise_comes_at_a_constant_rate(self):
        schedule = TabulatedSchedule([0.5, 0.2, 1.0])
        u = torch.tensor([0, 1, 2, 3]) / 3
        assert_close(schedule.alpha_bar(u), torch.tensor([1, 0.5, 0.4, 0]).double(), rtol=1e-6, atol=1e-7)
        middle = schedule.alpha_bar(torch.tensor([0.5, 2.5], dtype=torch.float64) / 3)
        assert_close(middle[:1], torch.tensor([0.5**0.5], dtype=torch.float64))
        assert_close(middle[1:], torch.tensor([0.2], dtype=torch.float64))

    @pytest.mark.parametrize("table", [[], [[0.1]], [0.1, -0.1], [0.1, 1.1]])
    def test_bad_tables_are_refused(self, table):
        with pytest.raises(ConfigError):
            TabulatedSchedule(table)
