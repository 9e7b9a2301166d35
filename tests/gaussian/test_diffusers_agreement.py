"""Step for step the same as diffusers' schedulers, where both define the same thing.

Their formulas are checked in float64, with our table put in place of theirs, to rounding error; then as they are.
Where the two knowingly differ:

- Their tables are float32: abar is off by up to 5e-7, but 1 - abar_1 by 1.7e-4 of itself; a step by up to 3e-4 on the
  scale of the pictures, near the data.
- Their timestep i is our t = i + 1; the data, our time 0, is their "previous timestep" -1.
- DDIMScheduler takes T // S as the length of every step. On a grid of other steps (S does not divide T, "linspace")
  it moves to a time at which the next step does not start; ours moves to where the next one starts.
- DDIMScheduler keeps the network's noise after clipping x_0 unless told ``use_clipped_model_output=True``; ours
  always derives it again. ``set_alpha_to_one=False`` (stop at abar_1) has no counterpart here.
- DDPMScheduler leaves out the noise at timestep 0, not in the last step: on a grid that ends higher ("trailing", S < T)
  it adds noise to the picture, of variance beta with "fixed_large", of 1e-20 (its least) with "fixed_small". Ours shows
  the mean in the last step, whatever the grid; its variance there is the decoder's, for the likelihood alone.
- "linspace" of one step is timestep 0 there, T here; halves are rounded to even timesteps there, even t here.
- "fixed_large_log" and "learned" give NaN or a raw network's output as variance there; here they are refused.
- Their dynamic threshold is capped by ``sample_max_value``, 1 by default, which makes it a clip.
- DPMSolverMultistepScheduler computes in float32 throughout, never clips, and takes the first 3 channels, whatever the
  data, where a variance is learned.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from d3pm.gaussian.ddim import DDIM
from d3pm.gaussian.dpm_solver import DPMSolver
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.scheduler_config import process_from, scheduler_config
from d3pm.gaussian.threshold import Clip, DynamicThreshold
from d3pm.grids import leading_grid, linspace_grid, trailing_grid, uniform_grid
from d3pm.sampling import Ancestral, sample
from d3pm.schedules import CosineSchedule, LinearSchedule, ZeroTerminalSNR

STEPS = 60
SHAPE = (2, 3, 4, 4)
PREDICTIONS = ["eps", "x0", "v"]
THRESHOLDS = [None, Clip(), DynamicThreshold(0.9)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up(process: GaussianDiffusion):
    """A network of sorts: smooth in x_t and t, wrong enough that its x_0 leaves [-1, 1]."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        t = t.view(-1, 1, 1, 1).to(x_t.dtype)
        said = torch.sin(2 * x_t + 0.1 * t) + 0.3 * torch.cos(t)
        return torch.cat([said, 1.2 * torch.cos(x_t - t)], 1) if process.variance == "learned_range" else said

    return network


def theirs(kind, process: GaussianDiffusion, exact: bool = True, **extra):
    """Their scheduler of our process; with exact=True, on our float64 table."""
    scheduler = kind.from_config({**scheduler_config(process), **extra})
    if exact:
        scheduler.alphas_cumprod = process.alpha_bar(torch.arange(1, process.num_steps + 1))
        scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def their_step(scheduler, output: Tensor, t: int, x: Tensor, **extra) -> Tensor:
    return scheduler.step(output, t - 1, x, generator=seeded(t), **extra).prev_sample


def our_step(sampler, process, output: Tensor, s: int, t: int, x: Tensor) -> Tensor:
    when = torch.full((2, len(x)), t)
    when[0] = s
    return sampler.step(process, lambda x_t, t: output, x, when[0], when[1], seeded(t))


def compare(
    scheduler, sampler, process, times, tolerance: float = 1e-10, dtype=torch.float64, **extra
) -> None:
    """Every step from the same x_t and with the same noise, all over the chain."""
    network = made_up(process)
    for t, s in pairwise(times):
        x = torch.randn(SHAPE, generator=seeded(1000 + t), dtype=dtype)
        output = network(x, torch.full((len(x),), t))
        wanted = their_step(scheduler, output, t, x, **extra)
        assert_close(our_step(sampler, process, output, s, t, x), wanted, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def ddpm():
    from diffusers import DDPMScheduler

    return DDPMScheduler


@pytest.fixture(scope="module")
def ddim():
    from diffusers import DDIMScheduler

    return DDIMScheduler


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
class TestAncestral:
    def test_every_step_of_the_full_chain(self, ddpm, prediction, variance, threshold):
        process = GaussianDiffusion(LinearSchedule(), STEPS, prediction, variance, threshold)
        compare(theirs(ddpm, process), Ancestral(), process, uniform_grid(STEPS, STEPS))

    def test_every_step_of_a_strided_chain(self, ddpm, prediction, variance, threshold):
        process = GaussianDiffusion(CosineSchedule(), STEPS, prediction, variance, threshold)
        scheduler = theirs(ddpm, process, timestep_spacing="leading")
        scheduler.set_timesteps(10)
        compare(scheduler, Ancestral(), process, leading_grid(STEPS, 10))


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [STEPS, 12])
def test_ddim_steps(ddim, steps, prediction, eta, threshold):
    process = GaussianDiffusion(LinearSchedule(), STEPS, prediction, threshold=threshold)
    scheduler = theirs(ddim, process, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    again = {"eta": eta, "use_clipped_model_output": True}
    compare(scheduler, DDIM(eta), process, leading_grid(STEPS, steps), **again)


def test_their_eps_of_an_unclipped_x0_is_the_only_difference_without_the_switch(ddim):
    process = GaussianDiffusion(LinearSchedule(), STEPS, threshold=None)
    scheduler = theirs(ddim, process)
    scheduler.set_timesteps(12)
    compare(scheduler, DDIM(), process, uniform_grid(STEPS, 12), eta=0.0, use_clipped_model_output=False)


def test_fixed_small_log_is_fixed_small(ddpm):
    process = GaussianDiffusion(LinearSchedule(), STEPS)
    scheduler = theirs(ddpm, process, variance_type="fixed_small_log")
    compare(scheduler, Ancestral(), process, uniform_grid(STEPS, STEPS))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_float32_tables_as_they_are(ddpm, variance):
    """T = 1000, pictures in float32: apart by the rounding of their tables alone."""
    process = GaussianDiffusion(LinearSchedule(), 1000, variance=variance)
    times = [1000, 999, 998, 700, 500, 250, 100, 50, 10, 5, 4, 3, 2, 1, 0]
    scheduler = theirs(ddpm, process, exact=False)
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])
    compare(scheduler, Ancestral(), process, times, tolerance=4e-4, dtype=torch.float32)


def test_their_first_noise_level_is_off_and_ours_is_not(ddpm):
    process = GaussianDiffusion(LinearSchedule(), 1000)
    first = float(1 - process.alpha_bar(torch.tensor([1])))
    assert first == pytest.approx(1e-4, rel=1e-12)
    assert float(1 - theirs(ddpm, process, exact=False).alphas_cumprod[0]) == pytest.approx(1e-4, rel=2e-4)
    assert float(1 - theirs(ddpm, process, exact=False).alphas_cumprod[0]) != pytest.approx(1e-4, rel=1e-4)


GRIDS = {"leading": leading_grid, "linspace": linspace_grid, "trailing": trailing_grid}


@pytest.mark.parametrize("steps", [4, 8, 60])
@pytest.mark.parametrize("spacing", GRIDS)
def test_grids_are_their_spacings(ddpm, spacing, steps):
    scheduler = ddpm(num_train_timesteps=STEPS, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert GRIDS[spacing](STEPS, steps) == [*(scheduler.timesteps + 1).tolist(), 0]


@pytest.mark.parametrize(
    ("spacing", "variance"),
    [(spacing, variance) for spacing in GRIDS for variance in ("fixed_small", "fixed_large")][:-1],
    # but for "trailing" with "fixed_large": see the next test
)
def test_samples_of_one_seed_are_the_same(ddpm, spacing, variance):
    """A whole run, of a number of steps that does not divide T, from one generator."""
    process = GaussianDiffusion(LinearSchedule(), STEPS, "v", variance)
    network, scheduler = made_up(process), theirs(ddpm, process, timestep_spacing=spacing)
    scheduler.set_timesteps(8)
    start = torch.randn(SHAPE, generator=seeded(1), dtype=torch.float64)
    generator, x = seeded(2), start
    for i in scheduler.timesteps:
        x = scheduler.step(network(x, i.expand(len(x)) + 1), i, x, generator=generator).prev_sample
    ours = sample(process, network, SHAPE, steps=8, grid=GRIDS[spacing], x_T=start, generator=seeded(2))
    assert_close(ours, x, rtol=1e-9, atol=1e-9)


def test_their_last_trailing_step_is_ours_and_noise(ddpm):
    process = GaussianDiffusion(LinearSchedule(), STEPS, variance="fixed_large")
    scheduler, x = theirs(ddpm, process, timestep_spacing="trailing"), torch.zeros(SHAPE, dtype=torch.float64)
    scheduler.set_timesteps(12)
    noise = torch.randn(SHAPE, generator=seeded(5), dtype=torch.float64)
    std = (1 - process.alpha_bar(torch.tensor(5))).sqrt()
    shown = our_step(Ancestral(), process, x + 0.1, 0, 5, x)
    assert_close(their_step(scheduler, x + 0.1, 5, x), shown + std * noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [5, 20])
def test_dpm_solver_runs_are_the_same(prediction, steps):
    """dpmsolver++, order 2, midpoint; float32 is their working precision."""
    from diffusers import DPMSolverMultistepScheduler

    process = GaussianDiffusion(LinearSchedule(), 1000, prediction, threshold=None)
    network = made_up(process)
    scheduler = DPMSolverMultistepScheduler.from_config(scheduler_config(process))
    assert (scheduler.config.algorithm_type, scheduler.config.solver_order) == ("dpmsolver++", 2)
    scheduler.set_timesteps(steps)
    x = start = torch.randn(SHAPE, generator=seeded(1))
    for i in scheduler.timesteps:
        x = scheduler.step(network(x, i.expand(len(x)) + 1), i, x).prev_sample
    ours = sample(process, network, SHAPE, steps=steps, sampler=DPMSolver(), x_T=start)
    assert_close(ours, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("base", [LinearSchedule(), CosineSchedule()])
def test_zero_terminal_snr_is_their_rescaling(base):
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    wanted = rescale_zero_terminal_snr(base.betas(STEPS))
    assert_close(ZeroTerminalSNR(base).betas(STEPS), wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.5)])
def test_steps_from_zero_terminal_snr(ddpm, ddim, sampler, prediction):
    process = GaussianDiffusion(ZeroTerminalSNR(LinearSchedule()), STEPS, prediction)
    scheduler = theirs(ddpm if isinstance(sampler, Ancestral) else ddim, process)
    scheduler.set_timesteps(12)
    extra = {} if isinstance(sampler, Ancestral) else {"eta": 0.5, "use_clipped_model_output": True}
    assert process.alpha_bar(torch.tensor([STEPS])) == 0
    # 1e-20, their least variance, is 1e-10 of noise in the last step of a trailing chain.
    compare(scheduler, sampler, process, uniform_grid(STEPS, 12), tolerance=1e-9, **extra)


TABLES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "linear", "beta_start": 0.0015, "beta_end": 0.0195, "num_train_timesteps": 400},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50},
    {"beta_schedule": "sigmoid"},
    {"trained_betas": [0.01, 0.2, 0.5, 0.9], "num_train_timesteps": 4},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


@pytest.mark.parametrize("config", TABLES)
def test_tables_agree_to_float32(ddpm, config):
    """Theirs is a product of up to 1000 float32 factors; the last cosine one, 1 - 0.999, is known to 1.3e-5."""
    process, scheduler = process_from(config), ddpm(**config)
    ours = process.alpha_bar(torch.arange(1, process.num_steps + 1))
    theirs = scheduler.alphas_cumprod.double()
    assert_close(ours, theirs, rtol=2e-5, atol=1e-12)
    assert_close(ours, theirs, rtol=0, atol=1e-6)
