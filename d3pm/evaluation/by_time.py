"""The bound term by term, and what a picture looks like once so many terms have been sent."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.evaluation.bound import BoundReport, summarise
from d3pm.evaluation.examples import BAR, Batches, check_numbers
from d3pm.model import DiffusionModel, on_cpu
from d3pm.objectives import VLB, vlb_terms
from d3pm.parallel import ALONE, Team, noise_of


@dataclass(frozen=True)
class ByTime:
    r"""The bound of t = 1 … T, in bits per dimension.

    Attributes:
        terms: :math:`L_{t-1}`, float64 (T,).
        rate: What has been sent when :math:`x_t` is known, :math:`L_T + L_{T-1} + \ldots + L_t`, (T,).
        rmse: How far :math:`\hat x_0(x_t)` then is from the data, on a scale of 0 … 255, (T,); None where
            the data are no amounts.
        report: Their sum, with its error.
    """

    terms: Tensor
    rate: Tensor
    rmse: Tensor | None
    report: BoundReport

    def rows(self) -> Iterable[dict[str, float]]:
        """One row a time, for a table."""
        for i in range(len(self.terms)):
            row = {"t": i + 1, "bits_per_dim": float(self.terms[i]), "rate": float(self.rate[i])}
            yield row if self.rmse is None else row | {"rmse": float(self.rmse[i])}


def bound_by_time(
    model: DiffusionModel,
    data: Dataset,
    *,
    num_examples: int = 512,
    batch_size: int = 32,
    seed: int = 0,
    team: Team = ALONE,
    progress: bool = False,
) -> ByTime:
    """Every term of the bound on examples spread evenly over ``data``: T network calls a batch.

    The distortion comes with it where the process has an estimate of the data (``denoise``) to compare.
    Arguments are those of :func:`~d3pm.evaluation.bound.estimate_bound`.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, section 4.3 and table 4.
    """
    check_numbers(num_examples=num_examples, batch_size=batch_size)
    was_training, _ = model.training, model.eval()
    found = team.map(
        lambda number, batch: _one_batch(model, batch, noise_of(seed, number)),
        Batches(data, num_examples, batch_size),
        BAR if progress else None,
    )
    model.train(was_training)
    bounds, squares = zip(*found, strict=True)
    return _join(VLB.cat(list(bounds)), None if squares[0] is None else sum(squares))


@torch.no_grad()
def _one_batch(
    model: DiffusionModel, batch: dict[str, Tensor], generator: torch.Generator
) -> tuple[VLB, Tensor | None]:
    """The bound, and the squared distortion at each t summed over examples, (T,), on the CPU."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    if not hasattr(model.process, "denoise"):
        return on_cpu(vlb_terms(model.process, model.network, generator=generator, **batch)), None
    from d3pm.gaussian.rate_distortion import rate_distortion

    found = rate_distortion(model.process, model.network, generator=generator, **batch)  # type: ignore[arg-type]
    return on_cpu(found.bound), (found.rmse**2 * len(batch["x0"])).cpu()


def _join(bound: VLB, squares: Tensor | None) -> ByTime:
    terms, rate = bound.by_time()
    rmse = None if squares is None else (squares / len(bound.prior)).sqrt()
    return ByTime(terms, rate, rmse, summarise(bound, len(terms) - 1))
