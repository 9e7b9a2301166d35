"""How often a classifier of noisy data is right, in all and by the amount of noise."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from d3pm.distributions import uniforms
from d3pm.errors import DataError
from d3pm.evaluation.examples import BAR, Batches, check_numbers
from d3pm.evaluation.report import Report, plus_minus
from d3pm.model import DiffusionModel
from d3pm.parallel import ALONE, Team, noise_of

PARTS = 5
"""Into how many equal parts 1 … T is divided."""


@dataclass(frozen=True)
class AccuracyReport(Report):
    """How well labels are told from noisy examples, t uniform on 1 … T.

    Attributes:
        accuracy: Share of right answers.
        standard_error: Of ``accuracy``, over examples.
        cross_entropy: Mean surprise at the true label, in nats.
        commonest: Share of the commonest label: what needs no classifier.
        by_noise: The accuracy where t is in (first, last), inclusive.
    """

    accuracy: float
    standard_error: float
    cross_entropy: float
    commonest: float
    by_noise: dict[tuple[int, int], float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """Name to number; the accuracy at t = 1 … 200 is ``accuracy_1_200``."""
        numbers = {name: value for name, value in super().as_dict().items() if name != "by_noise"}
        return numbers | {f"accuracy_{a}_{b}": share for (a, b), share in self.by_noise.items()}

    def headline(self, unit: str) -> str:
        """The accuracy."""
        return plus_minus(100 * self.accuracy, 100 * self.standard_error, " % right", digits=2).strip()

    def rows(self, unit: str) -> list[tuple[str, str]]:
        """The accuracy, the cross-entropy, and the accuracy by the amount of noise."""
        return [
            ("accuracy", plus_minus(self.accuracy, self.standard_error)),
            ("cross-entropy", f"{self.cross_entropy:8.4f} nats"),
            ("commonest class", f"{self.commonest:8.4f}"),
            *((f"  t = {a} … {b}", f"{share:8.4f}") for (a, b), share in self.by_noise.items()),
        ]


@torch.no_grad()
def estimate_accuracy(
    model: DiffusionModel,
    data: Dataset,
    *,
    num_examples: int = 512,
    num_times: int = 16,
    batch_size: int = 32,
    seed: int = 0,
    team: Team = ALONE,
    progress: bool = False,
) -> AccuracyReport:
    """Judge a classifier of noisy data on examples spread evenly over ``data``: ``num_times`` calls a batch.

    Args:
        model: Its network gives logits (B, classes) from ``network(x_t, t)``.
        data: Items ``{"x0": shape, "labels": ()}``.
        num_examples: How many of them; all, if there are fewer.
        num_times: Stratified times in 1 … T for each example.
        batch_size: Examples a network call.
        seed: Of times and noise; torch's global generator is left alone.
        team: The processes that share the batches, all of which get the report.
        progress: Show a progress bar, on a terminal.

    Raises:
        ConfigError: If a number is below 1.
        DataError: If the examples have no labels.
    """
    check_numbers(num_examples=num_examples, num_times=num_times, batch_size=batch_size)

    def answered(number: int, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if "labels" not in batch:
            raise DataError(
                "data: a classifier is judged by labels, and these examples have none: ask for them"
            )
        there = {name: value.to(model.device) for name, value in batch.items()}
        noise = noise_of(seed, number)
        columns = [_answers(model, there, stratum, num_times, noise) for stratum in range(num_times)]
        return torch.stack(columns, -1), batch["labels"]

    was_training, _ = model.training, model.eval()
    found = team.map(answered, Batches(data, num_examples, batch_size), BAR if progress else None)
    model.train(was_training)
    answers, labels = zip(*found, strict=True)
    t, right, surprise = torch.cat(answers, 1)
    return summarise(t, right, surprise, torch.cat(labels), model.process.num_steps)


def _answers(
    model: DiffusionModel, batch: dict[str, Tensor], stratum: int, strata: int, generator: torch.Generator
) -> Tensor:
    """A time in one of the equal strata of 1 … T, whether the label was told right then, and the surprise: (3, B)."""
    x0, labels, steps = batch["x0"], batch["labels"], model.process.num_steps
    place = (stratum + uniforms(labels.shape, x0.device, generator)) / strata
    t = 1 + (place * steps).long().clamp(max=steps - 1)
    logits = model.network(model.process.q_sample(x0, t, generator), t).float()
    right = logits.argmax(-1) == labels
    return torch.stack(
        [t.double(), right.double(), cross_entropy(logits, labels, reduction="none").double()]
    ).cpu()


def summarise(t: Tensor, right: Tensor, surprise: Tensor, labels: Tensor, num_steps: int) -> AccuracyReport:
    """Means over (B, times), the error over the B examples, and the accuracy in equal parts of 1 … T."""
    share = right.mean(-1)
    edges = torch.linspace(0, num_steps, min(PARTS, num_steps) + 1).round().long().tolist()
    parts = {(a + 1, b): right[(t > a) & (t <= b)] for a, b in pairwise(edges)}
    return AccuracyReport(
        num_examples=len(right),
        num_times=right.shape[-1],
        accuracy=float(right.mean()),
        standard_error=float(share.std() / math.sqrt(len(share))) if len(share) > 1 else math.nan,
        cross_entropy=float(surprise.mean()),
        commonest=float(torch.bincount(labels).max() / len(labels)),
        by_noise={ends: float(part.mean()) for ends, part in parts.items() if part.numel()},
    )
