r"""The laws a process speaks in: each can be sampled, scored, compared and pointed at its mode.

Every method is element-wise over the batch and its dimensions; nothing is summed here. A categorical law
keeps its states on the last axis and lives in log-space where :math:`-\infty` is a legitimate value: a
state that cannot occur is never given an epsilon of mass.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from d3pm.cached import cached_property
from d3pm.draws import normals, uniforms


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


def exp_(x: Tensor) -> Tensor:
    r""":math:`e^x` in place; in float32 off by about :math:`2^{-24} (1 + 1.3 |x|)` of itself.

    On a CPU by way of :math:`2^x`, which PyTorch works out in vectors; its :math:`e^x` goes through a library, which
    takes nearly three times as long on some of them.
    """
    return x.mul_(1 / math.log(2)).exp2_() if x.device.type == "cpu" else x.exp_()


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
        noise = normals(self.mean.shape, self.mean.device, generator, self.mean.dtype)
        return self.mean + self.std * noise

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


class DiscretizedNormal(Normal):
    r"""A Gaussian rounded to ``levels`` even steps in [-1, 1]: the decoder of pictures.

    The probability of level x is the mass between its neighbours' midpoints; the outermost bins reach to
    infinity, so the levels' masses sum to one whatever mean and std are. Both tails are computed in log-space
    from the side where they are small: no clamp, and a gradient at any distance.

    Args:
        mean: Any shape.
        std: Broadcasts against ``mean``, positive.
        levels: How many values an entry can take: 256 for 8-bit pictures.
        form: ``"exact"``, or ``"tanh"`` for the approximation
            :math:`\Phi(z) \approx \frac12 (1 + \tanh(\sqrt{2/\pi}\,(z + 0.044715 z^3)))` clamped at 1e-12, as
            published scores were computed.
        where: Bool, broadcasts: elsewhere the law is the Gaussian itself, a density. Everywhere if not given.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, section 3.3, eq. 13.

    >>> law = DiscretizedNormal(torch.tensor(0.3), torch.tensor(0.5), levels=3)
    >>> sum(law.log_prob(torch.tensor(x)).exp() for x in (-1.0, 0.0, 1.0))
    tensor(1.)
    """

    def __init__(
        self, mean: Tensor, std: Tensor, levels: int, form: str = "exact", where: Tensor | None = None
    ) -> None:
        super().__init__(mean, std)
        self.levels, self.form = levels, form
        everywhere = torch.ones((), dtype=torch.bool, device=mean.device)
        self.where = (everywhere if where is None else where).expand_as(mean)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, rounded to its level where the law is discrete."""
        x = super().sample(generator)
        half = (self.levels - 1) / 2
        rounded = ((x.clamp(-1, 1) + 1) * half).round() / half - 1
        return torch.where(self.where, rounded, x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass of the level of ``x`` in nats; log-density where the law is continuous."""
        half = 1 / (self.levels - 1)
        low, high = ((x + edge - self.mean) / self.std for edge in (-half, half))
        mass = log_mass_tanh if self.form == "tanh" else log_mass
        value = mass(low, high, first=x < half - 1, last=x > 1 - half)
        return torch.where(self.where, value, super().log_prob(x))


def log_mass(low: Tensor, high: Tensor, first: Tensor, last: Tensor) -> Tensor:
    r""":math:`\log(\Phi(h) - \Phi(l))`; ``first`` and ``last`` open the interval to the left and right.

    An interval right of zero is mirrored: where both tails are small their logarithms still differ, and
    :math:`\log(e^a - e^b) = a + \log(-\mathrm{expm1}(b - a))` loses nothing.
    """
    mirror = low + high > 0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    open_low, open_high = torch.where(mirror, last, first), torch.where(mirror, first, last)
    upper = torch.special.log_ndtr(high)
    gap = torch.special.log_ndtr(low) - upper
    # Where the bin is open the gap is not used, and may vanish: its logarithm must not reach the gradient.
    inside = upper + torch.log(-torch.expm1(torch.where(open_low, -1.0, gap)))
    to_the_right = torch.special.log_ndtr(-low)
    both = torch.zeros_like(upper)
    closed_right = torch.where(open_low, upper, inside)
    return torch.where(open_high, torch.where(open_low, both, to_the_right), closed_right)


def log_mass_tanh(low: Tensor, high: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The same with the published approximation of the normal law, and its clamp at 1e-12."""

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    above, below = cdf(high), cdf(low)
    inside = torch.where(first, above, torch.where(last, 1 - below, above - below))
    return inside.clamp(min=1e-12).log()
