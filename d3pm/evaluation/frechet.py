"""How far two normal laws are apart: what is left of two sets of features when only mean and covariance count."""

import torch
from torch import Tensor

from d3pm.errors import DataError


def frechet(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> float:
    r"""Squared Fréchet (2-Wasserstein) distance of two normal laws, in float64.

    .. math::
        \|\mu_1 - \mu_2\|^2 + \operatorname{tr}\!\big(C_1 + C_2 - 2 (C_1^{1/2} C_2\, C_1^{1/2})^{1/2}\big)

    Roots are taken of symmetric matrices, so the result is real for singular covariances too. Costs O(D³).

    Args:
        mean: (D,).
        cov: Symmetric and positive semi-definite, (D, D).
        other_mean: (D,).
        other_cov: (D, D).

    Raises:
        DataError: If the shapes do not go together, or a number is not finite.

    References:
        Dowson and Landau, *The Fréchet distance between multivariate normal distributions*, 1982; Heusel et al.,
        *GANs trained by a two time-scale update rule*, 2017, section 4, for features of pictures.

    >>> one = torch.eye(2)
    >>> frechet(torch.zeros(2), one, torch.ones(2), 4 * one)
    4.0
    """
    means = [each.double().cpu() for each in (mean, other_mean)]
    covs = [each.double().cpu() for each in (cov, other_cov)]
    (size,) = means[0].shape
    if means[1].shape != (size,) or any(each.shape != (size, size) for each in covs):
        shapes = [tuple(each.shape) for each in (*means, *covs)]
        raise DataError(
            f"frechet: means and covariances have shapes {shapes}: give (D,), (D,), (D, D), (D, D)"
        )
    if not all(bool(each.isfinite().all()) for each in (*means, *covs)):
        raise DataError("frechet: a mean or a covariance is not finite: leave out the features that are not")
    values, vectors = torch.linalg.eigh(covs[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covs[1] @ root).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace() - 2 * cross
    return max(0.0, float(distance))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of features (N, D), float64.

    Raises:
        DataError: If there are not more than D of them: the covariance would be singular by their number alone.
    """
    check_number(*features.shape)
    return features.double().mean(0), torch.cov(features.double().T).reshape(features.shape[1], -1)


def check_number(pictures: int, features: int) -> None:
    """Refuse (DataError) so few pictures that their covariance is singular by their number alone."""
    if pictures <= features:
        raise DataError(
            f"{pictures} pictures are too few for a covariance of {features} features: take {features + 1} or more"
        )
