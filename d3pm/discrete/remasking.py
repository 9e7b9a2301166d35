r"""Remasking: what has been revealed may be hidden again, so that mistakes are mended; the marginals stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from d3pm.discrete.masks import absorbing, lost_between, masked_entries, whole_time
from d3pm.distributions import safe_divide, uniforms
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler


@dataclass(frozen=True)
class Remasking(Sampler):
    r"""Reverse steps with the marginals :math:`q(x_s | x_0)` of the absorbing kernel, whatever :math:`\sigma`.

    .. math::
        p(x_s | x_t) = \begin{cases} (1 - \sigma)\, e_{x_t} + \sigma\, e_m & x_t \ne m \\
        \frac{\bar\alpha_s - (1 - \sigma) \bar\alpha_t}{1 - \bar\alpha_t}\, \tilde p +
        \frac{1 - \bar\alpha_s - \sigma \bar\alpha_t}{1 - \bar\alpha_t}\, e_m & x_t = m \end{cases}, \qquad
        0 \le \sigma \le \sigma_{max} = \min\Big(1, \frac{1 - \bar\alpha_s}{\bar\alpha_t}\Big)

    At :math:`\sigma = 0` it is ancestral sampling, draw for draw. Above, entries that were drawn from a poor belief are
    drawn again when more stands around them, so steps help beyond one an entry, where ancestral sampling has little
    left to gain. It mends a belief's errors and not those of large steps: in enumerated worlds an exact belief is
    followed best at :math:`\sigma = 0`. At s = 0 nothing is remasked. One network call a step; a row that was finished
    and is remasked is looked at again. Serves the absorbing kernel.

    - ``"cap"``: :math:`\sigma = \min(\eta, \sigma_{max})`;
    - ``"rescale"``: :math:`\sigma = \eta\, \sigma_{max}`;
    - ``"loop"``: the chain runs down to time ``hold`` T without remasking, stays there for a while with
      :math:`\sigma = \min(\eta, \sigma_{max})`, and then runs down to 0. Step times are read on another clock c: the
      chain is at the time that is linear in c through :math:`(T, T)`, (``t_on`` T, ``hold`` T),
      (``t_off`` T, ``hold`` T) and (0, 0). Entries are remasked in steps that lie between the two middle ones.

    Args:
        strategy: ``"cap"``, ``"rescale"`` or ``"loop"``.
        eta: In [0, 1]. An entry is remasked up to about ``eta`` S times in S steps, which says what is much.
        t_on: Where on the clock "loop" begins to wait, as a share of T; others do not look at it.
        t_off: Where it ends to.
        hold: The time at which it waits, as a share of T: 0.1 is where 9 of 10 entries stand, on a linear schedule.

    Raises:
        ConfigError: If the strategy is none of these, ``eta`` is outside [0, 1], or not 0 < t_off < t_on < 1 or not
            0 < hold < 1; from ``check_process``, if the kernel is not the absorbing one.

    References:
        Wang et al., *Remasking Discrete Diffusion Models with Inference-Time Scaling*, 2025, sections 3 and 4
        (arXiv 2503.00307).
    """

    strategy: Literal["cap", "rescale", "loop"] = "cap"
    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    hold: float = 0.1

    def __post_init__(self) -> None:
        if self.strategy not in ("cap", "rescale", "loop"):
            raise ConfigError(f"Remasking strategy is {self.strategy!r}: choose 'cap', 'rescale' or 'loop'")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"Remasking eta is {self.eta}: choose it in [0, 1]")
        if not 0 < self.t_off < self.t_on < 1:
            raise ConfigError(
                f"Remasking t_on is {self.t_on} and t_off {self.t_off}: choose 0 < t_off < t_on < 1"
            )
        if not 0 < self.hold < 1:
            raise ConfigError(f"Remasking hold is {self.hold}: choose it in (0, 1)")

    def check_process(self, process: Process) -> None:
        """See the base class."""
        absorbing(process, self)

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class; two stages, to move or not and then where to."""
        kernel = absorbing(process, self)
        time_s, time_t = (self.time(c, kernel.num_steps) for c in (s, t))
        told = whole_time(kernel, time_t)
        output = network(x_t, told)
        with full_precision(x_t):
            before, after = (1 - lost_between(kernel, time) for time in (time_s, time_t))
            sigma = self.sigma(before, after) * self.remasks(s, t, kernel.num_steps)
            masked = masked_entries(kernel, x_t)
            chance = torch.where(masked, reveal_rate(before, after, sigma)[:, None], sigma[:, None])
            moves = uniforms(x_t.shape, x_t.device, generator) < chance.view(x_t.shape)
            hidden = torch.where(moves, kernel.mask, x_t)
            belief = kernel.belief(output, x_t, told)
            return belief.sample_where(moves & masked.view(x_t.shape), hidden, generator)

    def time(self, clock: Tensor, num_steps: int) -> Tensor:
        """Where the chain is when the clock shows c (B,), float64 (B,): c itself, but for "loop"."""
        c = clock.double()
        if self.strategy != "loop":
            return c
        wait = self.hold * num_steps
        on, off = self.t_on * num_steps, self.t_off * num_steps
        down = wait + (c - on) / (num_steps - on) * (num_steps - wait)
        return torch.where(c > on, down, (c / off).clamp(max=1) * wait)

    def remasks(self, s: Tensor, t: Tensor, num_steps: int) -> Tensor:
        """Whether entries are remasked from t to s on the clock, bool (B,)."""
        if self.strategy != "loop":
            return torch.ones_like(s, dtype=torch.bool)
        return (t <= self.t_on * num_steps) & (s >= self.t_off * num_steps)

    def sigma(self, before: Tensor, after: Tensor) -> Tensor:
        r""":math:`\sigma` between :math:`\bar\alpha_s` and :math:`\bar\alpha_t`, float64 (B,)."""
        most = largest_sigma(before, after)
        return self.eta * most if self.strategy == "rescale" else most.clamp(max=self.eta)


def largest_sigma(before: Tensor, after: Tensor) -> Tensor:
    r""":math:`\min(1, (1 - \bar\alpha_s) / \bar\alpha_t)`, float64 (B,); 0 at s = 0, whatever :math:`\bar\alpha_t`.

    Where :math:`\bar\alpha_t = 0` and nothing has been revealed, it is 1 and means nothing.
    """
    room = 1 - before
    return torch.where(room >= after, (room > 0).double(), safe_divide(room, after))


def reveal_rate(before: Tensor, after: Tensor, sigma: Tensor) -> Tensor:
    r"""The chance of a mask to go, :math:`(\bar\alpha_s - (1 - \sigma) \bar\alpha_t) / (1 - \bar\alpha_t)`, (B,)."""
    return safe_divide(before - (1 - sigma) * after, 1 - after)
