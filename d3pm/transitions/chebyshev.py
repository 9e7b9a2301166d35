r"""Exponentials of a sparse symmetric matrix as polynomials, of which only products with the matrix are needed.

With L's eigenvalues between l and l + 2w, :math:`L = (l + w) I - w X` where X has its own in [-1, 1], and

.. math:: e^{-\tau L} = \sum_n c_n T_n(X), \qquad c_n = (2 - [n = 0])\, e^{-\tau (l + w)} I_n(\tau w)

with T_n the Chebyshev polynomials and I_n the modified Bessel functions. All c_n are positive and fall faster than
geometrically once n passes :math:`\tau w`. What is n jumps away is met by T_n first, so the small entries of short
times are sums that start there: nothing larger cancels in them.

References:
    Tal-Ezer and Kosloff, *An accurate and efficient scheme for propagating the time dependent Schrödinger equation*,
    1984; Clenshaw, *A note on the summation of Chebyshev series*, 1955.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PRECISION = 1e-14
"""What may be left out of a row; of shorter times less, so that it is little beside what has leaked."""


@dataclass(frozen=True)
class Frame:
    """A sparse matrix L without its modes below a rate.

    Attributes:
        double: 2 X, CSR (K, K).
        low: l.
        half: w; 0 if no rate is left.
        modes: Eigenvectors of L that are left to closed forms, (K, r).
        rates: Their eigenvalues, (r,).
    """

    double: Tensor
    low: float
    half: float
    modes: Tensor
    rates: Tensor

    def coefficients(self, tau: Tensor) -> Tensor:
        """:math:`c_0 \\ldots c_n` for finite times (N,), (n + 1, N): none if no rate is left."""
        from scipy.special import ive

        if self.half == 0:
            return tau.new_zeros(0, len(tau))
        distinct, index = tau.unique(return_inverse=True)
        times = distinct.cpu()
        most = 24 + int(8 * (float(times[-1]) * self.half + 1) ** 0.5)
        order = torch.arange(most).unsqueeze(-1)
        values = torch.from_numpy(ive(order.numpy(), (times * self.half).numpy()))
        values = 2 * (-times * self.low).exp() * values
        values[0] /= 2
        precise = torch.where(times < 0.1, 1e-21, torch.where(times < 1.0, 1e-16, PRECISION))
        enough = precise * times.clamp(max=1.0)
        needed = int((values.flip(0).cumsum(0).flip(0) > enough).any(1).sum())
        return values[: max(needed, 1)].to(tau.device)[:, index]

    def missing(self, coefficients: Tensor, tau: Tensor) -> Tensor:
        r"""What the polynomials lack of :math:`e^{-\tau\lambda}` at the modes, (N, r)."""
        exact = (-tau.unsqueeze(-1) * self.rates).exp()
        if not len(coefficients):
            return exact
        at = (self.low + self.half - self.rates) / self.half
        now, after = torch.zeros_like(at), torch.zeros_like(at)
        for c in coefficients[1:].flip(0):
            now, after = 2 * at * now - after + c.unsqueeze(-1), now
        return exact - (at * now - after + coefficients[0].unsqueeze(-1))

    def to(self, device: torch.device) -> Frame:
        """The same on a device."""
        return Frame(
            self.double.to(device), self.low, self.half, self.modes.to(device), self.rates.to(device)
        )


def clenshaw(double: Tensor, coefficients: Tensor, add: Callable[[Tensor, Tensor], object]) -> Tensor:
    r""":math:`\sum_n c_n T_n(X)\, v` for columns v, each with its own c, (K, N): n products with X.

    Args:
        double: 2 X, CSR (K, K).
        coefficients: :math:`c_0 \ldots c_n`, (n + 1, N); with none the sum is zero.
        add: Adds v, each column times its number (N,), to a (K, N) tensor in place.
    """
    now, after = (coefficients.new_zeros(double.shape[0], coefficients.shape[1]) for _ in range(2))
    for n in range(len(coefficients) - 1, -1, -1):
        if n < len(coefficients) - 1:
            torch.addmm(after, double, now, beta=-1, alpha=1 if n else 0.5, out=after)
            now, after = after, now
        add(now, coefficients[n])
    return now
