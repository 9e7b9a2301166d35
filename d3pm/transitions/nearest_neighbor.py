"""Words turn into similar words: diffusion along the nearest neighbours of an embedding."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d3pm.distributions import Categorical
from d3pm.errors import ConfigError
from d3pm.schedules import Schedule, UnsquaredCosineSchedule
from d3pm.tables import Table
from d3pm.transitions.anchors import anchor_chain
from d3pm.transitions.base import Transition
from d3pm.transitions.cooccurrence import cooccurrence_embeddings
from d3pm.transitions.diffusing_information import Information
from d3pm.transitions.heat import Heat
from d3pm.transitions.neighbor_graph import checked_points, neighbor_graph
from d3pm.transitions.operators import expand
from d3pm.transitions.symmetric import Chain, SymmetricOperator


class NearestNeighborTransition(Transition):
    r"""A state jumps to its nearest neighbours, and to those whose neighbour it is, on a clock that the schedule winds.

    .. math::
        A = (G + G^\top) / 2k, \qquad R = A - \mathrm{diag}(A \mathbf 1), \qquad
        Q_{s+1} \cdots Q_t = e^{(a_t - a_s) R}, \qquad a_t = -\varrho \log \bar\alpha_t

    with G the k-nearest-neighbour graph of the embeddings (Euclidean; of equally near states the first). The average
    state is left at rate 1, so with :math:`\varrho = 1` :math:`\bar\alpha_t` is about the chance that nothing has
    happened. R is symmetric, so the stationary law is uniform: reached exactly if :math:`\bar\alpha_T = 0`, else as
    far as :math:`e^{-a_T \lambda}` for the slowest rate :math:`\lambda` of R. What neighbours share takes long to
    forget: let a :class:`~d3pm.schedules.MutualInformationSchedule` choose the times, or raise ``rate``.

    A graph in parts would have many stationary laws. It is made one by the fewest further ties, each the shortest way
    out of some part, so that every word can become every other and the uniform law holds exactly; to refuse such
    embeddings would refuse most of them at small k.

    No K x K matrix of any time is kept. With a graph all is exact: a row is a polynomial in the sparse matrix, and
    after long times a sum of modes, see :class:`~d3pm.transitions.heat.Heat`. With ``anchors`` states are neighbours
    through r anchors instead, another chain, whose rows cost O(K) after any time; see
    :class:`~d3pm.transitions.anchors.AnchorChain`.

    Samples are walks along the graph, in memory independent of K. The chain leaks a little, see ``symmetric``.

    Args:
        embeddings: (K, d), one row a state; or a ``.npy`` or ``.safetensors`` file of it. Rows of length one compare
            directions; ``scripts/cooccurrence.py`` writes such a file for a text.
        num_steps: T.
        num_neighbors: k; with anchors, how many of them a state is tied to. By default five, or as many as there are.
        schedule: Gives :math:`\bar\alpha_t`; Hoogeboom's unsquared cosine by default.
        anchors: How many anchors to go through; None for the graph itself.
        rate: :math:`\varrho`, how fast the clock runs.

    Raises:
        ConfigError: If the embeddings cannot be read, have another shape, a row that is not finite or two that are
            equal, if k or the number of anchors does not fit K, or the rate is not above 0.

    References:
        Austin et al., 2021, appendix A.2.4; Liu, He and Chang, *Large Graph Construction for Scalable Semi-Supervised
        Learning*, 2010 (anchors).

    >>> line = torch.tensor([[0.0], [1.0], [2.1]])
    >>> kernel = NearestNeighborTransition(line, num_steps=10, num_neighbors=1)
    >>> kernel.rates()
    tensor([[-1.0000,  1.0000,  0.0000],
            [ 1.0000, -1.5000,  0.5000],
            [ 0.0000,  0.5000, -0.5000]], dtype=torch.float64)
    """

    entrywise = True

    def __init__(
        self,
        embeddings: Tensor | str | Path,
        num_steps: int,
        num_neighbors: int | None = None,
        schedule: Schedule | None = None,
        anchors: int | None = None,
        rate: float = 1.0,
    ) -> None:
        self.embeddings = checked_points(embeddings)
        self.num_states, self.num_steps = len(self.embeddings), num_steps
        self.num_neighbors = (
            min(5, (anchors or self.num_states) - 1) if num_neighbors is None else num_neighbors
        )
        self.schedule = schedule or UnsquaredCosineSchedule()
        self.anchors, self.rate = anchors, rate
        if not 0 < rate < torch.inf:
            raise ConfigError(f"rate is {rate}: it must be above 0")
        self.alpha_bars = Table(self.schedule.alpha_bars(num_steps))
        self._clock = Table(self.elapsed(self.alpha_bars.values))
        self.chain: Chain = (
            Heat(neighbor_graph(self.embeddings, self.num_neighbors))
            if anchors is None
            else anchor_chain(self.embeddings, anchors, self.num_neighbors)
        )

    @classmethod
    def from_cooccurrence(
        cls,
        tokens: Tensor | np.ndarray,
        num_steps: int,
        num_states: int | None = None,
        window: int = 5,
        dim: int = 64,
        **options: Any,
    ) -> NearestNeighborTransition:
        """The kernel of a stream of tokens (N,) or of counts (K, K): states are near that stand in like places.

        Args:
            tokens: See :func:`~d3pm.transitions.cooccurrence.cooccurrence_embeddings`.
            num_steps: T.
            num_states: See there.
            window: See there.
            dim: See there.
            **options: Further arguments of the constructor.
        """
        return cls(cooccurrence_embeddings(tokens, num_states, window, dim), num_steps, **options)

    @classmethod
    def example(cls, num_states: int, num_steps: int) -> NearestNeighborTransition:
        """Random points in three dimensions."""
        generator = torch.Generator().manual_seed(num_states)
        return cls(torch.randn(num_states, 3, generator=generator, dtype=torch.float64), num_steps)

    def rates(self) -> Tensor:
        r""":math:`\varrho R`, dense (K, K) and without the leak: to look at."""
        return self.rate * self.chain.jumps.dense()

    def elapsed(self, alpha_bar: Tensor) -> Tensor:
        r""":math:`-\varrho \log \bar\alpha`, infinity at 0."""
        return (-self.rate * alpha_bar.double().log()).clamp(min=0)

    def stationary(self) -> Tensor:
        """Uniform."""
        return torch.full((self.num_states,), 1 / self.num_states, dtype=torch.float64)

    def between(self, s: Tensor, t: Tensor) -> SymmetricOperator:
        """See the base class; O(B)."""
        before, after = self._clock[s], self._clock[t]
        elapsed = torch.where(after < torch.inf, after - before, torch.inf)  # at the end of all time it stays
        return SymmetricOperator(self.chain, elapsed.masked_fill(s == t, 0.0))

    def reachable(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See the base class; O(1): everywhere, once any time has passed."""
        return (expand(self._clock[t], x0) > 0) | (x0 == x_t)

    def belief(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Categorical:
        """See the base class; no column is computed for it."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        still = expand(self._clock[t] == 0, logits)
        moved = torch.arange(self.num_states, device=x_t.device) != x_t.unsqueeze(-1)
        return Categorical(logits.masked_fill(still & moved, -torch.inf))

    def information(self, alpha_bar: Tensor, frequencies: Tensor) -> Tensor:
        r""":math:`I(x_t; x_0)` in nats at noise levels (N,) under the unigram law (K,).

        Up to K = 256 from the matrices, O(K³) a level. Beyond, interpolated in a table of 64 of them, made once for a
        law; see :class:`~d3pm.transitions.diffusing_information.Information`.
        """
        return self._information(self.elapsed(alpha_bar), frequencies)

    @cached_property
    def _information(self) -> Information:
        return Information(self.chain, 750 * self.rate)
