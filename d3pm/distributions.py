r"""The laws a process speaks in: each can be sampled, scored, compared and pointed at its mode.

Every method is element-wise over the batch and its dimensions; nothing is summed here. A categorical law
keeps its states on the last axis and lives in log-space where :math:`-\infty` is a legitimate value: a
state that cannot occur is never given an epsilon of mass.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """What a process returns: a law over one tensor, element by element, in nats."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (or log-density) of ``x``, element-wise."""

    def kl(self, other: Distribution) -> Tensor:
        r""":math:`\mathrm{KL}(\text{self} \,\|\, \text{other})`, element-wise, in closed form."""

    @property
    def mode(self) -> Tensor:
        """The most likely value."""


def uniforms(shape: torch.Size, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Float64 uniforms in [0, 1): 53 random bits, so that rare events keep their rate.

    They are drawn where the generator lives and moved, so a CPU generator serves any device.
    """
    source = generator.device if generator is not None else device
    return torch.rand(shape, generator=generator, device=source, dtype=torch.float64).to(device)


def draw(probs: Tensor, u: Tensor) -> Tensor:
    r"""Invert the cumulative law: ``probs`` (N, K) unnormalised, ``u`` (N,) in [0, 1), gives int64 (N,).

    The sums run in float64, so a token of probability :math:`10^{-9}` is drawn at its rate, which float32
    Gumbel or exponential races do not achieve. A state of probability zero is never drawn. Cost O(K) a row.

    >>> draw(torch.tensor([[0.0, 0.5, 0.0, 0.5]]), torch.tensor([0.5]))
    tensor([3])
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    total = cumulative[..., -1]
    # u < 1 does not imply u * total < total after rounding: stay strictly below it.
    point = torch.minimum(u.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point.unsqueeze(-1), right=True).squeeze(-1)


def pick(table: Tensor, index: Tensor) -> Tensor:
    """``table[..., index]``: (\\*, K) and int (\\*) give (\\*)."""
    return table.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def safe_log(p: Tensor) -> Tensor:
    r""":math:`\log p` with :math:`\log 0 = -\infty` and a gradient of zero there instead of NaN."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).log(), -math.inf)


def safe_divide(a: Tensor | float, b: Tensor) -> Tensor:
    """``a / b`` where b > 0, zero elsewhere; never NaN, on the way back either."""
    positive = b > 0
    return torch.where(positive, a / torch.where(positive, b, 1.0), 0.0)


def log_add(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log(e^a + e^b)`, minus infinity where both are, and with a gradient of zero there instead of NaN."""
    neither = (a == -math.inf) & (b == -math.inf)
    total = torch.logaddexp(a.masked_fill(neither, 0.0), b.masked_fill(neither, 0.0))
    return total.masked_fill(neither, -math.inf)


class Categorical:
    r"""A categorical law on the last axis, from unnormalised log-probabilities (B, \*, K).

    Subclasses with structure override what they can do faster; the dense forms here are their slow twins.

    >>> law = Categorical(torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64))
    >>> law.probs
    tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    >>> law.kl(law)
    tensor([0.], dtype=torch.float64)
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @cached_property
    def log_probs(self) -> Tensor:
        """Normalised log-probabilities (B, \\*, K); one pass over K."""
        dtype = torch.promote_types(self.logits.dtype, torch.float32)
        return self.logits.log_softmax(-1, dtype=dtype)

    @property
    def probs(self) -> Tensor:
        """Probabilities (B, \\*, K)."""
        return self.log_probs.exp()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One int64 draw per entry, (B, \\*); exact down to the rarest state."""
        probs = self.probs
        u = uniforms(probs.shape[:-1], probs.device, generator)
        return draw(probs.flatten(0, -2), u.flatten()).view(u.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of the states ``x`` (B, \\*), in nats."""
        return pick(self.log_probs, x)

    def kl(self, other: Distribution) -> Tensor:
        """KL divergence to another law, (B, \\*) in nats and the other's dtype; infinite where support is missing."""
        assert isinstance(other, Categorical), "a categorical law is compared with a categorical law"
        p, q = self.log_probs, other.log_probs
        possible = p > -math.inf
        zero = p.new_zeros(())
        ratio = torch.where(possible, p, zero) - torch.where(possible, q, zero)
        terms = (torch.where(possible, p, zero).exp() * ratio).masked_fill(~possible, 0.0)
        return terms.sum(-1).to(q.dtype)

    @property
    def mode(self) -> Tensor:
        """The most likely state, (B, \\*)."""
        return self.log_probs.argmax(-1)


class Normal:
    r"""A diagonal Gaussian :math:`\mathcal N(\text{mean}, \text{std}^2)`; ``std`` broadcasts against ``mean``.

    Where ``std`` is zero the law is a point, and its divergence to any law P is :math:`-\log P(\text{mean})`:
    this is how the last step of the bound, :math:`L_0`, needs no case of its own.

    >>> Normal(torch.zeros(2), torch.ones(2)).kl(Normal(torch.ones(2), torch.ones(2)))
    tensor([0.5000, 0.5000])
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean
        self.std = std.to(mean.dtype).expand_as(mean)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """``mean + std * noise``."""
        source = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=source, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats; infinite at the point of a law without spread."""
        z = (x - self.mean) / self.std
        return -0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)

    def kl(self, other: Distribution) -> Tensor:
        """KL divergence to another Gaussian; ``-other.log_prob(mean)`` where this law is a point."""
        point = self.std == 0
        if not isinstance(other, Normal):
            return -other.log_prob(self.mean)
        ratio = torch.where(point, torch.ones_like(self.std), self.std / other.std)
        shift = (self.mean - other.mean) / other.std
        spread = 0.5 * (ratio**2 - 1 + shift**2) - ratio.log()
        return torch.where(point, -other.log_prob(self.mean), spread)

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean
