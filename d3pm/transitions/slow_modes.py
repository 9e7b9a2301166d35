r"""The slowest modes of a large sparse Laplacian."""

from __future__ import annotations

import torch
from torch import Tensor

GUARD = 64
DEGREE = 40
ROUNDS = 60
PRECISE = 1e-11


def slow_modes(laplacian: Tensor, fastest: float, count: int) -> tuple[Tensor, Tensor]:
    r"""Smallest eigenvalues (r,) of a symmetric positive semidefinite CSR matrix and their vectors (K, r), r <= count.

    Subspace iteration: a Chebyshev polynomial that is small between the largest eigenvalue of the block and ``fastest``
    lifts all that lies below; the matrix is met only in products with the block, so this takes seconds where a Lanczos
    method, one vector at a time, takes minutes. From a fixed start; what has not converged is left out.

    Args:
        laplacian: The matrix.
        fastest: At least its largest eigenvalue.
        count: How many are wanted.

    References:
        Zhou, Saad, Tiago and Chelikowsky, *Self-consistent-field calculations using Chebyshev-filtered subspace
        iteration*, 2006.
    """
    size = laplacian.shape[0]
    if size <= 4 * (count + GUARD):
        values, vectors = torch.linalg.eigh(laplacian.to_dense())
        return values[:count].clone(), vectors[:, :count].clone()
    block = torch.randn(size, count + GUARD, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cut = fastest / 4
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(_lift(laplacian, block, cut, fastest))[0]
        image = laplacian @ basis
        values, turn = torch.linalg.eigh(basis.T @ image)
        block, cut = basis @ turn, float(values[-1])
        left = (image @ turn - block * values)[:, :count].abs().amax(0)
        if float(left.max()) < PRECISE:
            break
    good = int((left < PRECISE).long().cumprod(0).sum())
    return values[:good].clone(), block[:, :good].clone()


def _lift(laplacian: Tensor, block: Tensor, low: float, high: float) -> Tensor:
    """A Chebyshev polynomial of the matrix on [low, high], times the block."""
    middle, half = (high + low) / 2, (high - low) / 2
    before, now = block, (laplacian @ block - middle * block) / half
    for _ in range(DEGREE - 1):
        before, now = (
            now,
            torch.addmm(before + 2 * middle / half * now, laplacian, now, beta=-1, alpha=2 / half),
        )
    return now
