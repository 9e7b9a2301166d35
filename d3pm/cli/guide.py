"""Which way samples are drawn: their classes, what guides the network there, and who takes the steps."""

import math
from typing import Any

from d3pm.cli.choices import check_grid, find_grid, labels_of
from d3pm.cli.classifier import by_classifier
from d3pm.cli.forms import Draw, takes_its_own
from d3pm.cli.noise import is_gaussian
from d3pm.cli.prompt import WAYS, given
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance, check_guidable
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.parallel import everyone
from d3pm.process import Process
from d3pm.sampling import Sampler

SHARP = ("temperature", "top_k", "top_p", "min_p")
"""Options that sharpen beliefs."""


def drawing(model: DiffusionModel, config: Any, sampler: Sampler | None, defaults: Any) -> Draw:
    """How the options ask for samples.

    Raises:
        ConfigError: If they contradict each other or the model.
    """
    options = {name: config[name] for name in ("seed", "batch_size")}
    check_grid(model, config.grid, config.steps)
    options["steps"] = steps_of(model, config, sampler)
    options["grid"] = find_grid(config.grid, model)
    config.label = config.label or ("none" if config.inpaint else "all")
    make = by_classifier if config.classifier else _by_network
    draw = make(model, config, options)
    draw.sharp, draw.team = sharpening(model.process, config, defaults), everyone()
    return draw if sampler is None else draw.by(sampler)


def steps_of(model: DiffusionModel, config: Any, sampler: Sampler | None) -> Any:
    """The steps that were asked for; so many that there is something to see, where a sampler would take one."""
    if sampler is None:
        return config.steps
    sampler.check_process(model.process)
    seen = config.steps is None and (config.watch or config.strip)
    if seen and takes_its_own(sampler, model.process):
        return min(model.process.num_steps, math.prod(model.shape))
    return config.steps


def sharpening(process: Process, config: Any, defaults: Any) -> dict[str, Any]:
    """The options that change the belief, in the words of :class:`~d3pm.discrete.truncation.Truncated`.

    Raises:
        ConfigError: If the process has no belief over states; and as ``Truncated`` does.
    """
    found = {name: config[name] for name in SHARP if config[name] != defaults[name]}
    if found and is_gaussian(process):
        name = next(iter(found))
        raise ConfigError(
            f"--{name} is {found[name]}, but it sharpens beliefs over states, and the process is a "
            f"{type(process).__name__}: leave it out"
        )
    if found:
        from d3pm.discrete.truncation import Truncated

        Truncated(
            process, lambda x_t, t: x_t, **found
        )  # refuses what is out of range before anything is drawn
    return found


def _by_network(model: DiffusionModel, config: Any, options: dict[str, Any]) -> Draw:
    if config.classifier_scale != 1:
        raise ConfigError(
            f"--classifier_scale is {config.classifier_scale}, but no --classifier is given: name its run"
        )
    labels = labels_of(config.label, getattr(model.network, "num_classes", None))
    if config.guidance == 1 and config.rescale:
        raise ConfigError(
            f"--rescale is {config.rescale}, but --guidance 1 leaves nothing to rescale: raise it"
        )
    network = model.network if config.guidance == 1 else _guided(model, config, labels)
    return Draw(model, network, options, labels)


def _guided(model: DiffusionModel, config: Any, labels: list[int]) -> Network:
    """The network, pushed away from what it says of no class, or without the prompt."""
    if labels:
        check_guidable(model.network)
        channels = model.shape[0] if is_gaussian(model.process) else None
        null = {"labels": None}
        return ClassifierFreeGuidance(model.network, config.guidance, null, channels, config.rescale)
    if any(config[way] is not None for way in WAYS):
        return _by_prompt(model, config)
    raise ConfigError(
        f"--guidance is {config.guidance}, but there is no class to guide to, and no prompt: give --label, or a text's "
        "--prompt"
    )


def _by_prompt(model: DiffusionModel, config: Any) -> Network:
    from d3pm.discrete.prompt_guidance import PromptGuidance

    text = given(model, config)
    if text.length > model.shape[0] or config.block is not None:
        raise ConfigError("--guidance to a prompt and --block do not go together: later blocks do not see it")
    if not bool(text.known.any()):
        raise ConfigError(
            f"--guidance is {config.guidance}, but no symbol is given that could guide: give some"
        )
    kernel = getattr(model.process, "transition", model.process)
    if getattr(kernel, "absorbing_state", None) is None:
        raise ConfigError(
            f"--guidance is {config.guidance}, but towards a prompt only models with a mask are guided, and the kernel "
            f"is a {type(kernel).__name__}: leave --guidance at 1"
        )
    if config.rescale:
        raise ConfigError(f"--rescale is {config.rescale}, but a prompt guides without it: leave it out")
    return PromptGuidance(model.process, model.network, text.known, config.guidance)
