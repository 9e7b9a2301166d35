"""Which way samples are drawn: their classes, what guides the network there, and who takes the steps."""

from typing import Any

from d3pm.cli.choices import find_grid, labels_of
from d3pm.cli.classifier import by_classifier
from d3pm.cli.forms import Draw
from d3pm.cli.noise import need_gaussian
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.sampling import Sampler


def drawing(model: DiffusionModel, config: Any, sampler: Sampler | None) -> Draw:
    """How the options ask for samples.

    Raises:
        ConfigError: If they contradict each other or the model.
    """
    options = {name: config[name] for name in ("steps", "seed", "batch_size")}
    options["grid"] = find_grid(config.grid)
    if config.classifier:
        need_gaussian(model.process, "--classifier", "use --guidance on a model that was trained with labels")
    make = by_classifier if config.classifier else _by_network
    draw = make(model, config, options)
    return draw if sampler is None else draw.by(sampler)


def _by_network(model: DiffusionModel, config: Any, options: dict[str, Any]) -> Draw:
    if config.classifier_scale != 1:
        raise ConfigError(
            f"--classifier_scale is {config.classifier_scale}, but no --classifier is given: name its run"
        )
    labels = labels_of(config.label, getattr(model.network, "num_classes", None))
    return Draw(model, _classifier_free(model, config, labels), options, labels)


def _classifier_free(model: DiffusionModel, config: Any, labels: list[int]) -> Network:
    """The network, wrapped only where guidance changes what it says."""
    if config.guidance == 1 and config.rescale:
        raise ConfigError(
            f"--rescale is {config.rescale}, but --guidance 1 leaves nothing to rescale: raise it"
        )
    if config.guidance == 1:
        return model.network
    if not labels:
        raise ConfigError(f"--guidance is {config.guidance}, but there is no class to guide to: give --label")
    return ClassifierFreeGuidance(
        model.network, config.guidance, {"labels": None}, channels=model.shape[0], rescale=config.rescale
    )
