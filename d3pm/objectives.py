r"""The variational bound, written once against :class:`Process`, and the losses trained on.

.. math::
    L = \underbrace{\mathrm{KL}(q(x_T|x_0) \,\|\, p(x_T))}_{\text{prior}}
      + \sum_{t=2}^{T}
        \underbrace{\mathrm{E}\,\mathrm{KL}(q(x_{t-1}|x_t,x_0) \,\|\, p_\theta(x_{t-1}|x_t))}_{\text{diffusion}}
      \underbrace{- \mathrm{E} \log p_\theta(x_0|x_1)}_{\text{reconstruction}}

The posterior at s = 0 is a point at the data, whose divergence *is* the negative log-likelihood: the last
term needs no case of its own. Everything is in nats, summed over the entries of an example. Entries whose
``attention_mask`` is 0 count for nothing.

References:
    Sohl-Dickstein et al., 2015; Ho et al., 2020, section 2; Austin et al., 2021, section 2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from d3pm.deferred import EntryLoss, capacity_for, may_defer, piecewise
from d3pm.draws import evenly, integers, uniforms, whole
from d3pm.errors import ConfigError
from d3pm.process import Process
from d3pm.specs import Part
from d3pm.tables import before

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class VLB:
    """The variational bound of a batch, in nats; each example on its own.

    Attributes:
        prior: (B,), the divergence of :math:`x_T` from the prior.
        diffusion: (B, T-1), column i is the term of t = i + 2; or (B, M) weighted samples of them.
        reconstruction: (B,), the term of t = 1.
        num_dims: Entries an example has, (B,).
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    num_dims: Tensor

    @property
    def total(self) -> Tensor:
        """The bound on :math:`-\\log p(x_0)`, (B,) in nats."""
        return self.prior + self.diffusion.sum(-1) + self.reconstruction

    def bits_per_dim(self) -> Tensor:
        """The bound in bits per entry, (B,); bits per character for characters."""
        return self.total / (self.num_dims * math.log(2))

    def by_time(self) -> tuple[Tensor, Tensor]:
        """The terms of t = 1 … T, and what has been paid before each: :math:`L_T` and the terms above t.

        Both float64 (T,) on the CPU, in bits per entry: the batch's sum of nats over its sum of entries.
        """
        to_bits = 1 / (self.num_dims.double().sum() * math.log(2))
        terms = torch.cat([self.reconstruction[:, None], self.diffusion], 1).double().sum(0) * to_bits
        above = terms.flip(0).cumsum(0).flip(0) - terms
        return terms.cpu(), (self.prior.double().sum() * to_bits + above).cpu()

    def standard_error(self) -> float:
        """Of the mean of :meth:`bits_per_dim` over the batch; the draws of times and noise are in it."""
        bits = self.bits_per_dim().double()
        return float(bits.std() / math.sqrt(len(bits))) if len(bits) > 1 else math.nan

    @staticmethod
    def cat(parts: list[VLB]) -> VLB:
        """Join batches."""
        return VLB(*(torch.cat([getattr(p, f) for p in parts]) for f in VLB.__dataclass_fields__))


def entries(x0: Tensor, cond: dict[str, Any]) -> Tensor:
    """Which entries count, 1.0 or 0.0, broadcastable to x0."""
    mask = cond.get("attention_mask")
    return torch.ones_like(x0, dtype=torch.float64) if mask is None else mask.double().expand_as(x0)


def per_example(values: Tensor, weights: Tensor) -> Tensor:
    """Sum what counts: (B, \\*) to (B,). An entry that does not count may be anything, NaN included."""
    values = torch.where(weights > 0, values, values.new_zeros(()))
    return values.reshape(len(values), -1).sum(1)


def batch_time(t: int | float, x0: Tensor) -> Tensor:
    """One time for the whole batch, (B,): int64, or float64 between whole steps."""
    dtype = torch.int64 if isinstance(t, int) else torch.float64
    return torch.full((len(x0),), t, dtype=dtype, device=x0.device)


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which no product is rounded: autocast is for networks, never for probabilities."""
    return torch.autocast(x.device.type, enabled=False)


def prior_term(process: Process, x0: Tensor) -> Tensor:
    """:math:`L_T` of every entry, (B, \\*)."""
    noised = process.marginal(x0, batch_time(process.num_steps, x0))
    return noised.kl(process.prior(x0.shape, x0.device))


def step_term(process: Process, output: Tensor, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(q(x_s|x_t,x_0) \| p_\theta(x_s|x_t))` of every entry, (B, \*); :math:`L_0` at s = 0."""
    return process.posterior(x0, x_t, s, t).kl(process.reverse(output, x_t, s, t))


def scored(
    loss: EntryLoss,
    process: Process,
    network: Network,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    cond: dict[str, Any],
    *,
    even: bool = False,
) -> Tensor:
    """One network call, and the ``loss`` of what it says, summed over the entries that count: (B,).

    Args:
        loss: ``loss(output, x0, x_t, t)``, entry by entry.
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        x0: Data (B, \\*).
        x_t: The same at the times t.
        t: Times (B,).
        cond: Passed to the network.
        even: Whether the times are spread evenly over the chain, which bounds how many entries are in doubt.
    """
    weights = entries(x0, cond)
    if not may_defer(process, network):
        output = network(x_t, t, **cond)
        with full_precision(x_t):
            return per_example(loss(output, x0, x_t, t), weights)
    hidden: Any = network(x_t, t, defer=True, **cond)
    known = process.certain(x_t, t)
    doubt = weights > 0 if known is None else (weights > 0) & ~known
    share = process.doubt if even else 1.0
    with full_precision(x_t):
        capacity = capacity_for(share, len(x0), x0.numel())
        return per_example(piecewise(loss, hidden, x0, x_t, t, doubt, capacity), weights)


def _term_at(
    process: Process,
    network: Network,
    x0: Tensor,
    t: Tensor,
    generator: torch.Generator | None,
    cond: dict[str, Any],
) -> Tensor:
    def term(output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return step_term(process, output, x0, x_t, before(t), t)

    return scored(term, process, network, x0, process.q_sample(x0, t, generator), t, cond)


def vlb_terms(
    process: Process, network: Network, x0: Tensor, *, generator: torch.Generator | None = None, **cond: Any
) -> VLB:
    """Every term of the bound, each with one draw of :math:`x_t`: T network calls.

    Args:
        process: The diffusion.
        network: ``network(x_t, t, **cond)``.
        x0: Data (B, \\*).
        generator: Source of the draws.
        **cond: Passed to the network; ``attention_mask`` (B, \\*) also says which entries count.

    Returns:
        The bound; its ``total`` is an unbiased estimate over the draws of :math:`x_t`. Wrap the call in
        ``torch.no_grad()`` unless the gradient is wanted: T graphs are kept otherwise.
    """
    terms = [
        _term_at(process, network, x0, batch_time(t, x0), generator, cond)
        for t in range(1, process.num_steps + 1)
    ]
    return _assemble(process, x0, cond, terms[0], torch.stack(terms, -1)[:, 1:])


def vlb_estimate(
    process: Process,
    network: Network,
    x0: Tensor,
    *,
    num_times: int = 16,
    generator: torch.Generator | None = None,
    **cond: Any,
) -> VLB:
    """The bound from ``num_times`` stratified times an example, unbiased: ``num_times`` + 1 network calls.

    The reconstruction is always taken; of the T - 1 others, one is drawn in each of ``num_times`` equal strata
    and weighted. With ``num_times`` >= T - 1 every term is taken, as in :func:`vlb_terms`. Arguments as there.
    """
    num_terms = process.num_steps - 1
    if num_times < 1:
        raise ConfigError(f"num_times is {num_times}: take at least 1")
    if num_times >= num_terms:
        return vlb_terms(process, network, x0, generator=generator, **cond)
    first = _term_at(process, network, x0, batch_time(1, x0), generator, cond)
    terms = []
    for stratum in range(num_times):
        place = (stratum + uniforms(x0.shape[:1], x0.device, generator)) / num_times
        t = 2 + (place * num_terms).long().clamp(max=num_terms - 1)
        terms.append(_term_at(process, network, x0, t, generator, cond) * (num_terms / num_times))
    return _assemble(process, x0, cond, first, torch.stack(terms, -1))


def _assemble(process: Process, x0: Tensor, cond: dict[str, Any], first: Tensor, rest: Tensor) -> VLB:
    weights = entries(x0, cond)
    prior = per_example(prior_term(process, x0), weights).to(first.dtype)
    return VLB(prior, rest, first, per_example(weights, weights).to(first.dtype))


def stratified(x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Times u in [0, 1), float64 (B,): one in each of B equal strata, and parts of a batch are spread evenly too.

    Each is uniform, so estimates stay unbiased; together they cover [0, 1) evenly, which takes most of the
    variance out of a batch's loss. The order of the strata is that of :func:`~d3pm.draws.evenly`, turned on by a random
    number of places.
    """
    batch, mine, everyone = whole(len(x0), generator)
    size, device = torch.Size([batch]), x0.device
    turn = integers(max(batch, 1), torch.Size([1]), device, everyone)
    strata = (evenly(batch, device) + turn) % batch
    place = (strata + uniforms(size, device, everyone)) / batch
    return place[mine].clamp(max=math.nextafter(1.0, 0.0))


class Objective(Part, ABC):
    """A loss of an example, in nats, from one time drawn for it.

    Attributes:
        is_bound: Whether its mean is the bound itself, and may be read as such.
        classifies: Whether it trains a classifier, which has neither a bound nor samples.
    """

    is_bound: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    @property
    def even(self) -> bool:
        """Whether the times drawn for a batch are those of :func:`stratified`."""
        return type(self).draw is Objective.draw

    def __call__(
        self,
        process: Process,
        network: Network,
        x0: Tensor,
        *,
        generator: torch.Generator | None = None,
        **cond: Any,
    ) -> Tensor:
        """Draw a stratified t an example, corrupt, call the network once: losses (B,)."""
        t, x_t = self.draw(process, x0, generator)
        return scored(partial(self.at, process), process, network, x0, x_t, t, cond, even=self.even)

    def check_process(self, process: Process) -> None:
        """Refuse (ConfigError) a process on which this loss makes no sense."""

    def count(self, x0: Tensor, cond: dict[str, Any]) -> Tensor:
        """How many entries an example's loss is the sum over, (B,)."""
        weights = entries(x0, cond)
        return per_example(weights, weights)

    def draw(self, process: Process, x0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Times as the network is told them, (B,), and the data corrupted to them."""
        t = 1 + (stratified(x0, generator) * process.num_steps).long()
        return t, process.q_sample(x0, t, generator)

    @abstractmethod
    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The loss of every entry (B, \\*) at times t (B,), weighted so that its mean over t is the aim."""


@dataclass(frozen=True)
class VariationalBound(Objective):
    r"""T times the bound's term at t: its mean over t is the bound without :math:`L_T`, which has no parameters."""

    is_bound: ClassVar[bool] = True

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        return process.num_steps * step_term(process, output, x0, x_t, before(t), t)


@dataclass(frozen=True)
class CrossEntropy(Objective):
    r""":math:`-\log \tilde p_\theta(x_0 | x_t)`: the belief alone, every t alike."""

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        return -process.predict(output, x_t, t).log_prob(x0)


@dataclass(frozen=True)
class AuxiliaryBound(Objective):
    r""":math:`L_\lambda`: each term of the bound gets :math:`\lambda` times the cross-entropy of its own time.

    .. math:: L_\lambda = L_{vb} + \lambda \sum_t \mathrm E[-\log \tilde p_\theta(x_0 | x_t)]

    The paper writes the second part as one expectation; its authors' code adds :math:`\lambda` times the
    cross-entropy to a single :math:`L_{t-1}`, which is this sum, and what the published :math:`\lambda` mean.

    Args:
        weight: :math:`\lambda`; 0.01 on absorbing text, 0.001 on images.

    References:
        Austin et al., 2021, eq. 5 and section 5.
    """

    weight: float = 0.01

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        s = before(t)
        belief, reverse = process.predict_and_reverse(output, x_t, s, t)
        term = process.posterior(x0, x_t, s, t).kl(reverse)
        return process.num_steps * (term - self.weight * belief.log_prob(x0))


@dataclass(frozen=True)
class Hybrid(Objective):
    """One loss plus ``weight`` times another, at the same time, from the same network call.

    Times are the whole numbers 1 … T; a continuous-time bound then becomes a sum over them.

    Args:
        base: A loss.
        auxiliary: What is added.
        weight: How much of it.
    """

    base: Objective
    auxiliary: Objective
    weight: float

    def __post_init__(self) -> None:
        for part in (self.base, self.auxiliary):
            if isinstance(part, torch.nn.Module):
                raise ConfigError(
                    f"Hybrid of {type(part).__name__}: it draws its own times and remembers; put it around the Hybrid"
                )

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        extra = self.auxiliary.at(process, output, x0, x_t, t)
        return self.base.at(process, output, x0, x_t, t) + self.weight * extra


__all__ = [
    "VLB",
    "AuxiliaryBound",
    "CrossEntropy",
    "Hybrid",
    "Objective",
    "VariationalBound",
    "vlb_estimate",
    "vlb_terms",
]
