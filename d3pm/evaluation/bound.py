"""The bound on held-out data in bits per dimension, its parts, and how sure one can be of it."""

import math
from dataclasses import dataclass

from torch.utils.data import Dataset

from d3pm.evaluation.examples import BAR, Batches, check_numbers
from d3pm.evaluation.report import Report, plus_minus
from d3pm.model import DiffusionModel
from d3pm.objectives import VLB
from d3pm.parallel import ALONE, Team


@dataclass(frozen=True)
class BoundReport(Report):
    r"""What a model costs on data, in bits per dimension.

    Attributes:
        prior: :math:`L_T`.
        diffusion: The sum of the terms between.
        reconstruction: :math:`L_0`.
        bits_per_dim: The bound, their sum.
        standard_error: Of ``bits_per_dim``, over examples; the draw of times and noise is in it.
    """

    prior: float
    diffusion: float
    reconstruction: float
    bits_per_dim: float
    standard_error: float

    def headline(self, unit: str) -> str:
        """The bound."""
        return plus_minus(self.bits_per_dim, self.standard_error, f" bits/{unit}", digits=3).strip()

    def rows(self, unit: str) -> list[tuple[str, str]]:
        """The bound, term by term."""
        return [
            ("prior L_T", f"{self.prior:8.4f}"),
            ("diffusion terms", f"{self.diffusion:8.4f}"),
            ("reconstruction L_0", f"{self.reconstruction:8.4f}"),
            ("bound (their sum)", plus_minus(self.bits_per_dim, self.standard_error, f" bits/{unit}")),
        ]


def estimate_bound(
    model: DiffusionModel,
    data: Dataset,
    *,
    num_examples: int = 512,
    num_times: int = 16,
    batch_size: int = 32,
    seed: int = 0,
    team: Team = ALONE,
    progress: bool = False,
) -> BoundReport:
    """Estimate the bound on examples spread evenly over ``data``.

    Examples, times and noise follow from ``seed``, on every device alike and however many processes share the
    work, so that two models are compared on the same draws; torch's global generator is left alone. Costs
    ``num_times`` + 1 network calls a batch.

    Args:
        model: What is judged.
        data: Items ``{"x0": shape, ...}``.
        num_examples: How many of them; all, if there are fewer.
        num_times: Stratified times for each example; T - 1 or more takes every term.
        batch_size: Examples a network call.
        seed: Of the draws.
        team: The processes that share the batches, all of which get the report.
        progress: Show a progress bar, on a terminal.

    Raises:
        ConfigError: If a number is below 1.
    """
    check_numbers(num_examples=num_examples, num_times=num_times, batch_size=batch_size)
    held_out = Batches(data, num_examples, batch_size)
    bound = model.evaluate(held_out, num_times=num_times, seed=seed, team=team, bar=BAR if progress else None)
    return summarise(bound, min(num_times, model.process.num_steps - 1))


def summarise(bound: VLB, num_times: int) -> BoundReport:
    """Means over examples in bits per dimension, and the standard error of the ratio of sums.

    Examples may differ in length (padding counts for nothing), so the mean is the sum of nats over the sum of
    entries, and its error that of a ratio estimator.
    """
    dims = bound.num_dims.double()
    nats_to_bits = 1 / (dims.sum() * math.log(2))
    terms = (bound.prior, bound.diffusion.sum(-1), bound.reconstruction)
    prior, diffusion, reconstruction = (float(term.double().sum() * nats_to_bits) for term in terms)
    total = bound.total.double()
    residuals = total - dims * total.sum() / dims.sum()
    count = len(dims)
    error = (
        float((residuals.square().sum() * count / (count - 1)).sqrt() * nats_to_bits)
        if count > 1
        else math.nan
    )
    total_bits = prior + diffusion + reconstruction
    return BoundReport(count, num_times, prior, diffusion, reconstruction, total_bits, error)
