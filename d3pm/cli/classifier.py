"""Samples that a classifier of noisy data bends towards its classes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from d3pm.cli.choices import labels_of
from d3pm.cli.forms import Draw
from d3pm.cli.model import load_model
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.sampling import Ancestral, Sampler


@dataclass
class GuidedDraw(Draw):
    """Draws by ancestral steps, each moved towards the classes of its batch by a classifier's gradient.

    Attributes:
        classifier: Gives logits.
        scale: How far.
    """

    classifier: Network
    scale: float

    def by(self, sampler: Sampler) -> Draw:
        """See the base class; samplers of other kinds are guided through the network."""
        return self if isinstance(sampler, Ancestral) else self.through_network().by(sampler)

    def through_network(self) -> Draw:
        """See the base class: the noise is shifted instead of the step."""
        from d3pm.gaussian.classifier_guidance import ClassifierGuidance

        process: Any = self.model.process  # a Gaussian one: what its classifier was trained on is
        network = ClassifierGuidance(process, self.network, self.classifier, self.scale)
        return Draw(self.model, network, self.options, self.labels)

    def __call__(self, num: int, **more: Any) -> Tensor:
        """Batch by batch, as each has a sampler that knows its classes."""
        from d3pm.gaussian.classifier_guidance import GuidedAncestral

        generator = torch.Generator().manual_seed(self.options["seed"])
        plain = Draw(self.model, self.network, self.options | {"generator": generator}, [])
        labels, size = self.classes(num)["labels"], self.options["batch_size"]
        parts = []
        for start in range(0, num, size):
            mine = {  # what there is one of for each sample
                k: v[start : start + size] if isinstance(v, Tensor) and v.dim() and len(v) == num else v
                for k, v in (more | {"labels": labels}).items()
            }
            sampler = GuidedAncestral(self.classifier, mine.pop("labels"), self.scale)
            parts.append(plain(len(sampler.labels), sampler=sampler, **mine))
        return torch.cat(parts)


def by_classifier(model: DiffusionModel, config: Any, options: dict[str, Any]) -> GuidedDraw:
    """Samples guided by the run that ``--classifier`` names."""
    if config.guidance != 1:
        raise ConfigError("--guidance and --classifier both guide: give one of them")
    classifier = load_classifier(config.classifier, model)
    labels = labels_of(config.label, getattr(classifier, "num_classes", None))
    if not labels:
        raise ConfigError("--label is none, but --classifier guides to a class: give one, or all")
    return GuidedDraw(model, model.network, options, labels, classifier, config.classifier_scale)


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
    x0 = ours.process.prior((1, *ours.shape)).mode
    t = torch.tensor([(ours.process.num_steps + 1) // 2])
    return bool(ours.process.marginal(x0, t).kl(theirs.process.marginal(x0, t)).abs().max() < 1e-6)
