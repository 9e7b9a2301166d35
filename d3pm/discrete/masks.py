r"""What the samplers of mask diffusion share: which kernel they serve, how many masks go when, and reading the masked.

Under the absorbing kernel time is told by the number of masks: of those a row starts with at time t, a share
:math:`(1 - \bar\alpha_s) / (1 - \bar\alpha_t)` is left at time s on average.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.process import Process
from d3pm.sampling import Sampler
from d3pm.transitions.absorbing import AbsorbingTransition

AT_ONCE = 2**22
"""How many probabilities are made at a time where a number an entry is wanted of them."""
ROUNDING = 1e-12
"""By what share a level or a time may be off after a few float64 operations."""


def absorbing(process: Process, sampler: Sampler, instead: str = "Ancestral") -> AbsorbingTransition:
    """The kernel, if it is the absorbing one.

    Raises:
        ConfigError: If it is another: ``sampler`` serves mask diffusion only, ``instead`` serves this process.
    """
    if isinstance(process, DiscreteDiffusion) and isinstance(process.transition, AbsorbingTransition):
        return process.transition
    given = process.transition if isinstance(process, DiscreteDiffusion) else process
    raise ConfigError(
        f"sampler: {type(sampler).__name__} serves a DiscreteDiffusion with an AbsorbingTransition only, and this is "
        f"a {type(given).__name__}: take {instead}"
    )


def masked_entries(kernel: AbsorbingTransition, x_t: Tensor) -> Tensor:
    """Where the mask stands, bool (B, L): the entries of a row in one line."""
    return (x_t == kernel.mask).reshape(len(x_t), -1)


def lost(kernel: AbsorbingTransition, t: Tensor) -> Tensor:
    r""":math:`1 - \bar\alpha_t`, float64 (B,), for whole times t (B,); between them see :func:`lost_between`."""
    return 1 - kernel.alpha_bars[t]


def lost_between(kernel: AbsorbingTransition, t: Tensor) -> Tensor:
    r""":math:`1 - \bar\alpha` at float64 times (B,), linear between whole ones."""
    before = t.floor().long().clamp(max=kernel.num_steps - 1)
    low, high = lost(kernel, before), lost(kernel, before + 1)
    return torch.lerp(low, high, (t - before).double())  # exact at whole times


def time_when(kernel: AbsorbingTransition, level: Tensor) -> Tensor:
    r"""The time, float64 (B,), at which :math:`1 - \bar\alpha` rises to ``level`` (B,): inverts :func:`lost_between`.

    >>> time_when(AbsorbingTransition(num_states=3, num_steps=10), torch.tensor([0.0, 0.25, 1.0]).double())
    tensor([ 0.0000,  2.5000, 10.0000], dtype=torch.float64)
    """
    table = 1 - kernel.alpha_bars.on(level.device)
    # A level that rounding has put above the table's own belongs to that time, and not to the next.
    after = torch.searchsorted(table, level * (1 - ROUNDING)).clamp(1, kernel.num_steps)
    share = safe_divide(level - table[after - 1], table[after] - table[after - 1])
    return (after - 1) + share.clamp(0, 1)


def whole_time(kernel: AbsorbingTransition, t: Tensor) -> Tensor:
    """The step that float times (B,) fall into, int64 in 1 … T: what the network is told of it in training."""
    return (t - ROUNDING * kernel.num_steps).ceil().long().clamp(1, kernel.num_steps)


class Pace:
    r"""How many masks each row should have at a time: those it began with, in proportion to :math:`1 - \bar\alpha`.

    Counted from the start of a run, so that rounding does not add up over the steps; a row whose prompt stands has
    fewer masks, and loses them at the same pace.

    Args:
        kernel: Of the process.
        masks: Masks of each row at the start, int64 (B,).
        t: The time of the start, (B,).
    """

    def __init__(self, kernel: AbsorbingTransition, masks: Tensor, t: Tensor) -> None:
        self.kernel = kernel
        self.density = safe_divide(masks.double(), lost(kernel, t))

    def left(self, s: Tensor) -> Tensor:
        """Masks left at s (B,), rounded down: int64 (B,), 0 at s = 0."""
        return (self.density * lost(self.kernel, s) + 1e-9).floor().long()

    def time(self, masks: Tensor) -> Tensor:
        """The step in which so many ``masks`` (B,) are left, int64 (B,)."""
        return whole_time(self.kernel, time_when(self.kernel, safe_divide(masks.double(), self.density)))


def of_entries(
    kernel: AbsorbingTransition, output: Tensor, where: Tensor, measure: Callable[[Tensor], Tensor]
) -> Tensor:
    """A number for each belief asked for, float64 (B, L); 0 elsewhere.

    Only the logits of these entries are read, and never more than ``AT_ONCE`` of them normalised at a time.

    Args:
        kernel: Its mask has no part in the belief.
        output: Logits (B, \\*, K).
        where: Which entries, bool (B, L).
        measure: From log-beliefs (N, K) to numbers (N,).
    """
    places = where.reshape(-1).nonzero()[:, 0]
    out = torch.zeros(where.numel(), dtype=torch.float64, device=output.device)
    for some in places.split(max(1, AT_ONCE // kernel.num_states)):
        out[some] = measure(beliefs(kernel, output, some).log_softmax(-1)).double()
    return out.view(where.shape)


def beliefs(kernel: AbsorbingTransition, output: Tensor, places: Tensor) -> Tensor:
    """The logits (N, K) of ``places`` (N,) in the flattened batch, without the mask's; float32 at least."""
    logits = output.reshape(-1, kernel.num_states)[places]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits[:, kernel.mask] = -torch.inf
    return logits
