r"""First hitting: mask diffusion in continuous time, with one network call for every mask and none besides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.discrete.masks import absorbing, beliefs, lost, masked_entries, time_when, whole_time
from d3pm.distributions import draw, uniforms
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler
from d3pm.transitions.absorbing import AbsorbingTransition


@dataclass(frozen=True)
class FirstHitting(Sampler):
    r"""The limit of ancestral sampling as its steps become many and small, drawn exactly.

    Each of the n masks of a row at time t leaves on its own, so the first to go does so at t' < t with

    .. math:: 1 - \bar\alpha_{t'} = (1 - \bar\alpha_t)\, u^{1/n}, \qquad u \sim U(0, 1),

    and is each of them with equal chance. Its state is drawn from :math:`\tilde p(\cdot | x_t)`; then n - 1 are left.
    Serves the absorbing kernel, with any :math:`\bar\alpha_T`: the chain starts where the prior does.

    A row costs as many network calls as it has masks, whatever the grid, so one step [T, 0] is enough; on a finer grid
    the law is the same, and ``watch`` sees more. What is drawn is the law of the model, as from ancestral
    sampling: with an exact belief it is the data's, which ancestral sampling in S steps misses by O(1/S).

    Args:
        fractional: Whether the network is told t' itself (float64), for networks trained on such times. Otherwise it
            is told the step that t' falls into, int64 in 1 … T, as an ancestral chain of all T steps would tell it.

    Raises:
        ConfigError: From ``check_process``, if the kernel is not the absorbing one.

    References:
        Zheng et al., *Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling*, 2024, section 4 (arXiv 2409.02908).
    """

    fractional: bool = False

    def check_process(self, process: Process) -> None:
        """See the base class."""
        absorbing(process, self)

    def default_steps(self, process: Process) -> int:
        """See the base class: one."""
        return 1

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class; the reveals of all rows go side by side, each at a time of its own."""
        kernel, x = absorbing(process, self), x_t
        level, end = lost(kernel, t), lost(kernel, s)
        while True:
            masked = masked_entries(kernel, x)
            masks = masked.sum(1)
            when, which, what = (uniforms(x.shape[:1], x.device, generator) for _ in range(3))
            level = next_level(level, masks, when)
            rows = (masks > 0) & ((level > end) | (s == 0))
            if not bool(rows.any()):
                return x  # what a row's clock showed beyond s is forgotten: the law has no memory
            output = network(x, self._told(kernel, level), rows=rows)
            with full_precision(x):
                places = nth(masked, which)[rows]
                x = x.put(places, draw(beliefs(kernel, output, places).softmax(-1), what[rows]))

    def _told(self, kernel: AbsorbingTransition, level: Tensor) -> Tensor:
        t = time_when(kernel, level)
        return t if self.fractional else whole_time(kernel, t)


def next_level(level: Tensor, masks: Tensor, u: Tensor) -> Tensor:
    r""":math:`1 - \bar\alpha` at the next reveal: the largest of n uniforms below ``level``; 0 without masks; (B,)."""
    return level * u ** masks.double().reciprocal()


def nth(masked: Tensor, u: Tensor) -> Tensor:
    """One masked entry of each row (B, L), all alike likely for u (B,) in [0, 1): its place in the flattened batch."""
    count = masked.sum(1)
    number = torch.minimum((u * count).long(), count - 1)
    place = torch.searchsorted(masked.cumsum(1), (number + 1)[:, None])[:, 0]
    return torch.arange(len(masked), device=masked.device) * masked.shape[1] + place
