"""Our samplers inside diffusers' pipelines."""

import pytest
import torch
from torch.testing import assert_close

from d3pm.errors import ConfigError
from d3pm.gaussian.ddim import DDIM
from d3pm.gaussian.dpm_solver import DPMSolver
from d3pm.gaussian.heun import Heun
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.threshold import DynamicThreshold
from d3pm.networks.unet import UNetDenoiser
from d3pm.sampling import Ancestral, Sampler, sample
from d3pm.schedules import CosineSchedule, LinearSchedule, ZeroTerminalSNR

STEPS = 24


@pytest.fixture(scope="module")
def kind():
    from d3pm.gaussian.scheduler import GaussianScheduler

    return GaussianScheduler


@pytest.fixture(scope="module")
def network():
    network = UNetDenoiser(8, 1, None, (8, 16), (4,), layers=1).eval()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return network


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(network, scheduler, steps: int, seed: int = 1) -> torch.Tensor:
    """Pictures of DDPMPipeline, in [0, 1]."""
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline(network.unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    shown = pipeline(2, seeded(seed), num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(shown).permute(0, 3, 1, 2)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DDIM(1.0, "hat"), DPMSolver()], ids=repr)
@pytest.mark.parametrize("steps", [STEPS, 7])
def test_a_pipeline_draws_what_sample_draws(kind, network, sampler, steps):
    """A number of steps that does not divide T included; twice, as a run leaves nothing behind."""
    process = GaussianDiffusion(LinearSchedule(), STEPS, "v", "fixed_large")
    scheduler = kind.of(process, sampler)
    for seed in (1, 2):
        ours = sample(process, network, (2, 1, 8, 8), steps=steps, sampler=sampler, generator=seeded(seed))
        shown = drawn(network, scheduler, steps, seed)
        assert_close(shown, (ours / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_in_a_pipeline_it_replaces_theirs(kind, network):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=STEPS, beta_end=0.4, prediction_type="v_prediction")
    ours = kind.from_config(theirs.config)
    assert_close(drawn(network, ours, 10), drawn(network, theirs, 10), rtol=0, atol=1e-3)


PROCESSES = [
    GaussianDiffusion(LinearSchedule(), 1000, variance="learned_range"),
    GaussianDiffusion(CosineSchedule(), STEPS, "x0", "fixed_large", DynamicThreshold(0.9)),
    GaussianDiffusion(ZeroTerminalSNR(CosineSchedule()), STEPS, "v", threshold=None),
]


def same(a: GaussianDiffusion, b: GaussianDiffusion) -> None:
    t = torch.arange(a.num_steps + 1)
    assert_close(a.alpha_bar(t), b.alpha_bar(t), rtol=1e-11, atol=1e-15)
    for name in ("num_steps", "prediction", "variance", "threshold"):
        assert getattr(a, name) == getattr(b, name)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_its_configuration_is_the_process_and_the_sampler(kind, tmp_path, process):
    scheduler = kind.of(process, DDIM(0.3))
    scheduler.save_pretrained(tmp_path)
    for again in (kind.from_pretrained(tmp_path), kind.from_config(scheduler.config)):
        same(again.process, process)
        assert again.sampler == DDIM(0.3)


def test_their_schedulers_are_made_of_its_configuration(kind):
    """The way diffusers exchanges schedulers in a pipeline."""
    from diffusers import DDIMScheduler

    process = GaussianDiffusion(CosineSchedule(), STEPS, "v")
    scheduler = DDIMScheduler.from_config(kind.of(process, DPMSolver()).config)
    alpha_bars = process.alpha_bar(torch.arange(1, STEPS + 1))
    assert_close(scheduler.alphas_cumprod.double(), alpha_bars, rtol=1e-4, atol=1e-6)
    assert scheduler.config.prediction_type == "v_prediction"


def test_a_pipeline_with_it_is_saved_and_loaded(kind, network, tmp_path):
    from diffusers import DDPMPipeline

    process = GaussianDiffusion(LinearSchedule(), STEPS, "v")
    DDPMPipeline(network.unet, kind.of(process, DDIM(0.5))).save_pretrained(tmp_path)
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(pipeline.scheduler, kind)
    assert pipeline.scheduler.sampler == DDIM(0.5)
    assert torch.equal(drawn(network, pipeline.scheduler, 4), drawn(network, kind.of(process, DDIM(0.5)), 4))


def test_noise_is_added_at_the_exact_level(kind):
    process = GaussianDiffusion(LinearSchedule(), 1000)
    x0 = torch.rand(3, 1, 2, 2, generator=seeded(), dtype=torch.float64) * 2 - 1
    noise, timesteps = (
        torch.randn(x0.shape, generator=seeded(), dtype=torch.float64),
        torch.tensor([0, 499, 999]),
    )
    noised = kind.of(process).add_noise(x0, noise, timesteps)
    assert_close(process.noise(x0, noised, timesteps + 1), noise, rtol=1e-9, atol=1e-9)


def test_a_step_says_what_it_believes(kind):
    process = GaussianDiffusion(LinearSchedule(), STEPS, "x0")
    scheduler, x = kind.of(process), torch.zeros(1, 1, 2, 2)
    found = scheduler.step(x + 3, 5, x, generator=seeded())
    assert torch.equal(found.pred_original_sample, torch.ones_like(x))
    pair = scheduler.step(x + 3, torch.tensor(5), x, generator=seeded(), return_dict=False)
    assert all(torch.equal(a, b) for a, b in zip(pair, found.to_tuple(), strict=True))
    assert torch.equal(scheduler.scale_model_input(x, 5), x)
    assert scheduler.init_noise_sigma == 1


class Judge(Sampler):
    """A sampler with weights."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def step(self, process, network, x_t, s, t, generator):
        return x_t


class TestRefused:
    def step(self, scheduler, timestep=3, **extra):
        x = torch.zeros(1, 1, 2, 2)
        scheduler.step(x, timestep, x, **extra)

    def test_a_sampler_of_two_calls(self, kind):
        with pytest.raises(ConfigError, match="Heun calls the network again"):
            self.step(kind.of(GaussianDiffusion(LinearSchedule(), STEPS), Heun()))

    def test_a_sampler_with_weights(self, kind):
        with pytest.raises(ConfigError, match="Judge has a network of its own"):
            kind.of(GaussianDiffusion(LinearSchedule(), STEPS), Judge(torch.nn.Linear(1, 1)))

    def test_what_is_no_sampler(self, kind):
        with pytest.raises(ConfigError, match="give a Sampler"):
            kind(sampler=CosineSchedule())

    def test_another_timestep(self, kind):
        scheduler = kind.of(GaussianDiffusion(LinearSchedule(), STEPS))
        scheduler.set_timesteps(4)
        with pytest.raises(ConfigError, match="timestep is 3: set_timesteps chose"):
            self.step(scheduler)

    def test_a_list_of_generators(self, kind):
        with pytest.raises(ConfigError, match=r"one torch\.Generator"):
            self.step(kind.of(GaussianDiffusion(LinearSchedule(), STEPS)), generator=[seeded()])

    def test_a_process_they_have_no_name_for(self, kind):
        with pytest.raises(ConfigError, match="prediction is 'mean'"):
            kind.of(GaussianDiffusion(LinearSchedule(), STEPS, "mean"))

    def test_an_unknown_configuration(self, kind):
        with pytest.raises(ConfigError, match="beta_schedule is 'exotic'"):
            kind(beta_schedule="exotic")
