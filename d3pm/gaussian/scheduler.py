"""Our chains and samplers under the API of a `diffusers` scheduler, for its pipelines.

Imports `diffusers`, which takes seconds: import this file only where it is used.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.scheduler_config import process_from, scheduler_config
from d3pm.objectives import Network, full_precision
from d3pm.sampling import Ancestral, Sampler
from d3pm.specs import Part, build, describe

# To load a saved pipeline, diffusers looks for the base class by name in the module that a part of it is from.
__all__ = ["GaussianScheduler", "SchedulerMixin"]


class GaussianScheduler(DDPMScheduler):
    r"""A scheduler of `diffusers` whose steps are taken by a :class:`~d3pm.sampling.Sampler` of ours.

    Its configuration is that of a `DDPMScheduler` and the sampler's description, so it exchanges places with any
    scheduler that can be made ``from_config``; timesteps, spacings and config files are theirs. What is computed
    is ours: float64 tables, steps as pairs s < t (timestep i is t = i + 1), :math:`\epsilon` derived again from a
    thresholded :math:`\hat x_0`, each step's end being the next step's start on any spacing.

    Args:
        num_train_timesteps: T.
        sampler: One that calls the network once a step, or its description; None is
            :class:`~d3pm.sampling.Ancestral`.
        others: As for a `DDPMScheduler`; see :func:`~d3pm.gaussian.scheduler_config.process_from`.

    Raises:
        ConfigError: If a value cannot be expressed here, the sampler has a network of its own (its weights would not
            be saved), a timestep is not one of those chosen, or the sampler calls the network again.

    >>> from d3pm.schedules import CosineSchedule
    >>> process = GaussianDiffusion(CosineSchedule(), prediction="v")
    >>> scheduler = GaussianScheduler.of(process)
    >>> scheduler.set_timesteps(4)
    >>> scheduler.timesteps.tolist()
    [999, 749, 499, 249]
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        sampler: Sampler | dict[str, Any] | None = None,
    ) -> None:
        given = {k: v for k, v in self.config.items() if k != "sampler" and not k.startswith("_")}
        self.process: GaussianDiffusion = process_from(given)
        super().__init__(**given)
        self.sampler: Sampler = build(sampler or Ancestral(), (Part,))
        if not isinstance(self.sampler, Sampler):
            raise ConfigError(f"sampler is a {type(self.sampler).__name__}: give a Sampler, e.g. DDIM()")
        if any(isinstance(value, torch.nn.Module) for value in vars(self.sampler).values()):
            raise ConfigError(
                f"sampler {type(self.sampler).__name__} has a network of its own, which a scheduler cannot save: "
                "use d3pm.sample with it"
            )
        self.register_to_config(sampler=describe(self.sampler))
        self._run = self.sampler.begin()

    @classmethod
    def of(cls, process: GaussianDiffusion, sampler: Sampler | None = None) -> Self:
        """The scheduler of a process of ours; its steps are those of our uniform grid.

        Raises:
            ConfigError: If `diffusers` has no configuration that means the process.
        """
        return cls(**{**scheduler_config(process), "timestep_spacing": "trailing"}, sampler=sampler)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Choose the timesteps of a run, as for a `DDPMScheduler`, and begin it."""
        super().set_timesteps(*args, **kwargs)
        self._run = self.sampler.begin()

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        r"""One step down.

        Args:
            model_output: The network's, of ``sample`` at ``timestep``; (B, C, \*), doubled for a learned variance.
            timestep: One of ``timesteps``.
            sample: :math:`x_t` (B, C, \*).
            generator: Source of noise.
            return_dict: Whether to name what is returned.

        Returns:
            prev_sample :math:`x_s`, and pred_original_sample :math:`\hat x_0`, thresholded.
        """
        if isinstance(generator, list):
            raise ConfigError("generator is a list: give one torch.Generator for the batch")
        if not bool((self.timesteps == timestep).any()):
            raise ConfigError(f"timestep is {int(timestep)}: set_timesteps chose {self.timesteps.tolist()}")
        t = torch.full((len(sample),), int(timestep) + 1, device=sample.device)
        s = torch.full_like(t, int(self.previous_timestep(int(timestep))) + 1)
        with full_precision(sample):
            before = self._run.step(self.process, _said(model_output, self.sampler), sample, s, t, generator)
            x0 = self.process.denoise(model_output, sample, t)
        return (
            DDPMSchedulerOutput(prev_sample=before, pred_original_sample=x0) if return_dict else (before, x0)
        )

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_t` from :math:`x_0` (B, C, \*) and noise, at timesteps (B,)."""
        t = timesteps.to(original_samples.device).expand(len(original_samples)) + 1
        law = self.process.marginal(original_samples, t)
        return law.mean + law.std * noise


def _said(output: Tensor, sampler: Sampler) -> Network:
    """The network as a scheduler knows it: it has spoken once."""
    answers = [output]

    def network(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        if not answers:
            raise ConfigError(
                f"sampler {type(sampler).__name__} calls the network again within a step, and a scheduler has none: "
                "use d3pm.sample with it, or a sampler of one call a step"
            )
        return answers.pop()

    return network
