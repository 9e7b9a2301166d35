"""Processes as configurations of `diffusers`' schedulers, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from d3pm.errors import ConfigError
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.tabulated import TabulatedSchedule
from d3pm.gaussian.threshold import Clip, DynamicThreshold, Threshold
from d3pm.process import Process
from d3pm.schedules import CosineSchedule, LinearSchedule, Schedule, ZeroTerminalSNR

Config = dict[str, Any]

SCHEDULERS = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
"""Those that describe a Gaussian chain by its betas; the solver they stand for is left to our samplers."""

PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}
UNCAPPED = 1e6
"""A ``sample_max_value`` that no picture reaches."""


def process_from(config: Mapping[str, Any]) -> GaussianDiffusion:
    """The process that a scheduler's configuration describes.

    Args:
        config: As ``scheduler_config.json`` has it, or the ``config`` of a scheduler; what is missing takes the
            default of its class.

    Raises:
        ConfigError: If it is of another kind, or has a value that cannot be expressed here.

    >>> process = process_from({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"})
    >>> process.num_steps, process.prediction, process.variance, process.threshold
    (1000, 'eps', 'fixed_large', Clip())
    """
    config = _with_defaults(config)
    prediction: Any = _known(config, "prediction_type", PREDICTIONS)
    variance: Any = _known(config, "variance_type", VARIANCES)
    num_steps = config["num_train_timesteps"]
    schedule = _schedule(config, num_steps)
    if config.get("rescale_betas_zero_snr"):
        schedule = ZeroTerminalSNR(schedule)
    return GaussianDiffusion(schedule, num_steps, prediction, variance, _threshold(config))


def scheduler_config(process: Process) -> Config:
    """The configuration of a `DDPMScheduler` that means ``process``: the inverse of :func:`process_from`.

    Raises:
        ConfigError: If there is none.

    >>> config = scheduler_config(GaussianDiffusion(CosineSchedule(), 500, prediction="v"))
    >>> config["beta_schedule"], config["prediction_type"]
    ('squaredcos_cap_v2', 'v_prediction')
    """
    if not isinstance(process, GaussianDiffusion):
        raise ConfigError(f"process is {type(process).__name__}: diffusers takes a GaussianDiffusion")
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if process.prediction not in names:
        raise ConfigError(f"prediction is {process.prediction!r}: diffusers takes one of {', '.join(names)}")
    return {
        "num_train_timesteps": process.num_steps,
        "prediction_type": names[process.prediction],
        "variance_type": process.variance,
        # Both begin at T. A DDPMScheduler leaves out the noise at timestep 0 only, so it must end there, unless its
        # variance vanishes in the last step; "trailing" is our uniform grid and the one a DDIMScheduler can follow.
        "timestep_spacing": "trailing" if process.variance == "fixed_small" else "linspace",
        **_schedule_config(process.schedule, process.num_steps),
        **_threshold_config(process.threshold),
    }


def _with_defaults(config: Mapping[str, Any]) -> Config:
    import diffusers

    name = config.get("_class_name", "DDPMScheduler")
    if name not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise ConfigError(
            f"scheduler is {name}, no Gaussian chain given by its betas: it must be one of {known}"
        )
    arguments = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    defaults = {p.name: p.default for p in arguments if p.default is not p.empty}
    if "predict_epsilon" in config:  # as it was called before there was a prediction_type
        defaults["prediction_type"] = "epsilon" if config["predict_epsilon"] else "sample"
    layers = ({"variance_type": "fixed_small"}, defaults, config)
    full: Config = {key: value for layer in layers for key, value in layer.items() if value is not None}
    steps, first, last = (full[name] for name in ("num_train_timesteps", "beta_start", "beta_end"))
    if type(steps) is not int or steps < 1:
        raise ConfigError(f"num_train_timesteps is {steps!r}: give a whole number of steps, at least 1")
    if not {type(first), type(last)} <= {int, float} or not 0 < first <= last < 1:
        raise ConfigError(
            f"beta_start is {first!r} and beta_end {last!r}: give 0 < beta_start <= beta_end < 1"
        )
    return full


def _known(config: Config, name: str, known: Mapping[str, str]) -> str:
    if not isinstance(config[name], str) or config[name] not in known:
        raise ConfigError(f"{name} is {config[name]!r}: it must be one of {', '.join(known)}")
    return known[config[name]]


def _schedule(config: Config, num_steps: int) -> Schedule:
    if "trained_betas" in config:
        try:
            betas = torch.as_tensor(config["trained_betas"], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"trained_betas cannot be read ({error}): give num_train_timesteps numbers"
            ) from error
        if betas.shape != (num_steps,):
            raise ConfigError(
                f"trained_betas has {betas.numel()} values, num_train_timesteps is {num_steps}: make them equal"
            )
        return TabulatedSchedule(betas)
    first, last = config["beta_start"], config["beta_end"]
    match config["beta_schedule"]:
        case "linear":  # LinearSchedule is given its ends at T = 1000 and scales them
            return LinearSchedule(first * num_steps / 1000, last * num_steps / 1000)
        case "squaredcos_cap_v2":
            return CosineSchedule()
        case "scaled_linear":
            roots = torch.linspace(first**0.5, last**0.5, num_steps, dtype=torch.float64)
            return TabulatedSchedule(roots**2)
        case "sigmoid":
            rise = torch.linspace(-6, 6, num_steps, dtype=torch.float64).sigmoid()
            return TabulatedSchedule(first + (last - first) * rise)
        case name:
            raise ConfigError(
                f"beta_schedule is {name!r}: it must be linear, scaled_linear, squaredcos_cap_v2 or sigmoid; "
                "give another one as trained_betas"
            )


def _schedule_config(schedule: Schedule, num_steps: int) -> Config:
    if type(schedule) is LinearSchedule:
        scale = 1000 / num_steps
        return {
            "beta_schedule": "linear",
            "beta_start": schedule.first * scale,
            "beta_end": schedule.last * scale,
        }
    if type(schedule) is ZeroTerminalSNR:
        return {**_schedule_config(schedule.base, num_steps), "rescale_betas_zero_snr": True}
    if schedule == CosineSchedule():
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"trained_betas": schedule.betas(num_steps).tolist()}


def _threshold(config: Config) -> Threshold | None:
    if config.get("thresholding"):
        cap = config.get("sample_max_value", 1.0)
        if cap >= UNCAPPED:
            return DynamicThreshold(config["dynamic_thresholding_ratio"])
        if cap != 1:
            raise ConfigError(
                f"sample_max_value is {cap}: give 1, which makes thresholding a clip, or {UNCAPPED:g} for no cap"
            )
        return Clip()
    if not config.get("clip_sample"):
        return None
    if config.get("clip_sample_range", 1.0) != 1:
        raise ConfigError(
            f"clip_sample_range is {config['clip_sample_range']}: only 1 can be used here, with data in [-1, 1]"
        )
    return Clip()


def _threshold_config(threshold: Threshold | None) -> Config:
    if threshold is None:
        return {"clip_sample": False}
    if type(threshold) is Clip:
        return {"clip_sample": True}
    if type(threshold) is DynamicThreshold:
        ratio = {"dynamic_thresholding_ratio": threshold.quantile}
        return {"clip_sample": False, "thresholding": True, "sample_max_value": UNCAPPED, **ratio}
    raise ConfigError(
        f"threshold is {type(threshold).__name__}: diffusers takes Clip, DynamicThreshold or none"
    )
