"""Any continuous-time Markov chain as a kernel."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules import ReciprocalSchedule, Schedule, UnsquaredCosineSchedule
from d3pm.tables import Table
from d3pm.transitions.cumulative import CumulativeTransition, flush
from d3pm.transitions.expm import expm
from d3pm.transitions.information import dense_information
from d3pm.transitions.laws import checked_law
from d3pm.transitions.matrix import keeps, read_tensor, solve_stationary
from d3pm.transitions.operators import DenseOperator

CHUNK = 2**24
"""Numbers in the matrices that are exponentiated at once."""


class GeneratorTransition(CumulativeTransition):
    r"""Jumps at the rates of R, whatever they are, on a clock that the schedule winds.

    .. math:: Q_{s+1} \cdots Q_t = e^{(a_t - a_s) R}, \qquad a_t = -\log \bar\alpha_t

    Where states are left at rate 1 on average, :math:`\bar\alpha_t` is about the chance that nothing has happened yet;
    scale R so that it reads like that. :math:`\bar\alpha_T = 0` is the end of all time: the stationary law exactly.

    Storage 16 T K² bytes (single steps and products), rows O(K) an entry, a reverse step O(K²). Entries are sums of
    positive terms, precise to the smallest.

    Args:
        rates: R, (K, K): off the diagonal at least 0, rows sum to 0; or a ``.npy`` or ``.safetensors`` file of it.
        num_steps: T.
        schedule: Gives :math:`\bar\alpha_t`. Hoogeboom's unsquared cosine by default; where a state swallows all, which
            must then be reached for the bound to be finite, :math:`1 - t/T`.
        law: That of x_T, (K,); solved for if not given, which needs states that can all be reached from one another, or
            one set of states that swallows all. With states in several parts it stands for the limit of each.

    Raises:
        ConfigError: If R is no matrix of rates (the message names the row or the entry), its stationary law is not
            unique, or a given law is not kept.

    References:
        Austin et al., 2021, appendix A.2.4 (exponentials of a generator).
        Campbell et al., *A Continuous Time Framework for Discrete Denoising Models*, 2022, section 3.

    >>> kernel = GeneratorTransition(torch.tensor([[-1.0, 1.0], [3.0, -3.0]]), num_steps=5)
    >>> kernel.stationary()
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(
        self,
        rates: Tensor | str | Path,
        num_steps: int,
        schedule: Schedule | None = None,
        law: Tensor | None = None,
    ) -> None:
        given = read_tensor(rates, "rates") if isinstance(rates, (str, Path)) else rates
        found = torch.as_tensor(given, dtype=torch.float64)
        self.rates = checked_rates(found)
        self.num_states = len(self.rates)
        self.num_steps = num_steps
        self.law = None if law is None else checked_law(law, "law")
        self._stationary = self._solve() if self.law is None else self._kept(self.law)
        forgets = bool((self._stationary > 0).all())
        self.schedule = schedule or (UnsquaredCosineSchedule() if forgets else ReciprocalSchedule())
        self.alpha_bars = Table(self.schedule.alpha_bars(num_steps))

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> GeneratorTransition:
        """Random rates from every state to every other, not symmetric."""
        generator = torch.Generator().manual_seed(num_states)
        rates = torch.rand(num_states, num_states, generator=generator, dtype=torch.float64).fill_diagonal_(0)
        rates = rates / rates.sum(1).mean()
        return cls(rates - rates.sum(1).diag(), num_steps)

    def stationary(self) -> Tensor:
        """See the base class."""
        return self._stationary

    def single(self, t: Tensor) -> DenseOperator:
        """See the base class."""
        return DenseOperator(self._steps[t - 1])

    def at_level(self, alpha_bar: Tensor) -> Tensor:
        r""":math:`e^{-\log(\bar\alpha) R}` at noise levels (N,), (N, K, K)."""
        out = self._stationary.expand(len(alpha_bar), self.num_states, -1).clone()
        finite = alpha_bar > 0
        out[finite] = expm(self.rates, -alpha_bar[finite].double().log())
        return flush(out)

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats at noise levels (N,) under the unigram law (K,); O(K³) a level."""
        parts = alpha_bar.split(max(1, CHUNK // self.num_states**2))
        return torch.cat([dense_information(self.at_level(part), frequencies) for part in parts])

    @cached_property
    def _steps(self) -> Table:
        self._check_size()
        before, after = self.alpha_bars.values[:-1], self.alpha_bars.values[1:]
        kept = torch.where(before > 0, after / before, 0.0)
        parts = kept.split(max(1, CHUNK // self.num_states**2))
        return Table(torch.cat([self.at_level(part) for part in parts]))

    def _solve(self) -> Tensor:
        fastest = float(-self.rates.diagonal().min())
        return solve_stationary(torch.eye(self.num_states).double()[None] + self.rates / fastest, "rates")

    def _kept(self, law: Tensor) -> Tensor:
        if len(law) != self.num_states:
            raise ConfigError(f"law has {len(law)} entries: the rates are of {self.num_states} states")
        if not keeps(law, torch.eye(self.num_states).double() + self.rates / -self.rates.diagonal().min()):
            raise ConfigError("law is not kept by the rates: leave it out, and it is solved for")
        return law


def checked_rates(rates: Tensor) -> Tensor:
    """Float64 (K, K) with rates off the diagonal and rows that sum to zero."""
    if rates.dim() != 2 or rates.shape[0] != rates.shape[1] or len(rates) < 2:
        raise ConfigError(f"rates has shape {tuple(rates.shape)}: give (K, K), K at least 2")
    rates = rates.detach().to("cpu", torch.float64)
    off = rates.clone().fill_diagonal_(0)
    wrong = (~((off >= 0) & rates.isfinite())).nonzero()
    if len(wrong):
        i, j = wrong[0].tolist()
        raise ConfigError(
            f"rates[{i}, {j}] is {rates[i, j].item():.6g}: off the diagonal rates are at least 0"
        )
    leave = off.sum(1)
    if float(leave.max()) == 0:
        raise ConfigError("rates are all 0: nothing would ever change")
    wrong = ((rates.sum(1)).abs() > 1e-6 * leave.max()).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ConfigError(
            f"rates: row {i} sums to {rates[i].sum().item():.6g}, not to 0: its diagonal must be {-leave[i].item():.6g}"
        )
    return off - leave.diag()
