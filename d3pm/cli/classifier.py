"""Samples that a classifier of noisy data bends towards its classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.cli.choices import labels_of
from d3pm.cli.forms import Draw
from d3pm.cli.model import load_model
from d3pm.cli.noise import is_gaussian
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.parallel import dealt
from d3pm.sampling import Ancestral, Sampler, Samples


@dataclass(kw_only=True)
class GuidedDraw(Draw):
    """Draws by ancestral steps, each moved towards the classes of its batch by a classifier.

    Attributes:
        classifier: Gives logits.
        scale: How far.
    """

    classifier: Network
    scale: float

    def by(self, sampler: Sampler) -> Draw:
        """See the base class; Gaussian samplers of other kinds are guided through the network."""
        return self if isinstance(sampler, Ancestral) else self.through_network().by(sampler)

    def through_network(self) -> Draw:
        """See the base class: the noise is shifted instead of the step."""
        if not is_gaussian(self.model.process):
            raise ConfigError(
                "--classifier guides ancestral steps, where the process is one of states: leave --sampler out"
            )
        from d3pm.gaussian.classifier_guidance import ClassifierGuidance

        process: Any = self.model.process
        network = ClassifierGuidance(process, self.network, self.classifier, self.scale)
        return Draw(self.model, network, self.options, self.labels, team=self.team)

    def batches(self, num: int, **more: Any) -> Iterator[Samples]:
        """See the base class: each batch has a sampler that knows its classes."""
        plain = Draw(self.model, self.network, self.options, [], self.sharp)
        size, seed = self.options["batch_size"], self.options["seed"]
        for n, mine in dealt(num, size, more | self.classes(num), seed=seed, team=self.team):
            yield from plain.batches(n, sampler=self._sampler(mine.pop("labels")), **mine)

    def _sampler(self, labels: Tensor) -> Sampler:
        if is_gaussian(self.model.process):
            from d3pm.gaussian.classifier_guidance import GuidedAncestral

            return GuidedAncestral(self.classifier, labels, self.scale)
        from d3pm.discrete.classifier_guidance import ClassifierGuided

        return ClassifierGuided(self.classifier, labels, self.scale)


def by_classifier(model: DiffusionModel, config: Any, options: dict[str, Any]) -> GuidedDraw:
    """Samples guided by the run that ``--classifier`` names."""
    if config.guidance != 1:
        raise ConfigError("--guidance and --classifier both guide: give one of them")
    classifier = load_classifier(config.classifier, model)
    labels = labels_of(config.label, getattr(classifier, "num_classes", None))
    if not labels:
        raise ConfigError("--label is none, but --classifier guides to a class: give one, or all")
    return GuidedDraw(
        model, model.network, options, labels, classifier=classifier, scale=config.classifier_scale
    )


def load_classifier(run: str, model: DiffusionModel) -> torch.nn.Module:
    """The network of a classifier that knows the data and the noise of ``model``.

    Raises:
        ConfigError: If it is none, or was trained on other data or other noise.
    """
    its, _ = load_model(run)
    if not its.objective.classifies:
        raise ConfigError(
            f"--classifier {run} is no classifier: train one with objective d3pm.classification.Classification"
        )
    if its.shape != model.shape or its.codec != model.codec:
        raise ConfigError(
            f"--classifier {run} knows data of shape {its.shape}, the model draws {model.shape} in its own code: "
            "train one on the model's data"
        )
    if its.process.num_steps != model.process.num_steps or not _same_noise(its, model):
        raise ConfigError(
            f"--classifier {run} was trained on other noise: give it the model's schedule and num_steps"
        )
    return its.network


def _same_noise(ours: DiffusionModel, theirs: DiffusionModel) -> bool:
    """Whether both processes corrupt alike, in the middle of the way."""
    if getattr(ours.process, "num_states", None) != getattr(theirs.process, "num_states", None):
        return False
    x0 = torch.zeros_like(ours.process.prior((1, *ours.shape)).mode)
    t = torch.tensor([(ours.process.num_steps + 1) // 2])
    return bool(ours.process.marginal(x0, t).kl(theirs.process.marginal(x0, t)).abs().max() < 1e-6)
