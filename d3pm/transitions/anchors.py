r"""A graph through anchors: points are tied to a few anchors each, and to one another through these.

Z (K, r) holds the shares with which a point goes to its anchors; from an anchor one comes back to any of the points
tied to it, by their shares. With :math:`\Lambda = \mathrm{diag}(Z^\top \mathbf 1)` and :math:`F = Z \Lambda^{-1/2}`,

.. math:: A = F F^\top, \qquad e^{\tau (A - I)} = e^{-\tau} I + F \varphi_\tau(F^\top F) F^\top, \qquad
          \varphi_\tau(\sigma) = e^{-\tau} (e^{\tau\sigma} - 1) / \sigma

A is symmetric, doubly stochastic, positive semidefinite and of rank r: a Markov chain at every rank, which a spectrum
cut short is not.

References:
    Liu, He and Chang, *Large Graph Construction for Scalable Semi-Supervised Learning*, 2010, section 3.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from d3pm.draws import Streams
from d3pm.errors import ConfigError
from d3pm.tables import Table
from d3pm.transitions.heat import csr
from d3pm.transitions.neighbor_graph import components, nearest
from d3pm.transitions.symmetric import Chain

SERIES = 1.0
TERMS = 24
"""Up to the time 1 the exponential's series is summed: the rest is below 1e-24 of a term that counts."""


class AnchorJumps:
    """To one of a point's anchors, and from there to one of the points tied to it.

    Args:
        anchors: Each point's anchors, int64 (K, s); all of 0 … r - 1 occur.
        shares: Z's entries there, (K, s), rows of sum one.
    """

    def __init__(self, anchors: Tensor, shares: Tensor) -> None:
        self.num_states, self.anchors, self.shares = len(anchors), anchors, shares
        order = anchors.flatten().argsort(stable=True)
        self._points = torch.div(order, anchors.shape[1], rounding_mode="floor")
        self._out = Table(shares.cumsum(-1))
        self._back = Table(shares.flatten()[order].cumsum(0))  # anchor after anchor
        ends = self._back.values[anchors.flatten().bincount().cumsum(0) - 1]
        self._ends = Table(torch.cat([ends.new_zeros(1), ends]))

    def rates(self, x: Tensor) -> Tensor:
        """One jump per unit of time from anywhere, some of them back to where it came from."""
        return torch.ones(x.shape, dtype=torch.float64, device=x.device)

    def jump(self, x: Tensor, streams: Streams) -> Tensor:
        """Out and back; two draws."""
        u, v = streams.uniforms(), streams.uniforms()
        out = self._out[x]
        choice = (u.unsqueeze(-1) * out[:, -1:] >= out[:, :-1]).sum(-1)
        anchor = self.anchors.to(x.device)[x, choice]
        start, end = self._ends[anchor], self._ends[anchor + 1]
        place = torch.searchsorted(self._back.on(x.device), start + v * (end - start), right=True)
        return self._points.to(x.device)[place.clamp(max=len(self._points) - 1)]

    def factor(self) -> Tensor:
        """F, dense (K, r)."""
        ties = torch.zeros(self.num_states, int(self.anchors.max()) + 1, dtype=torch.float64)
        ties.scatter_add_(1, self.anchors, self.shares)
        return ties / ties.sum(0).sqrt()

    def dense(self) -> Tensor:
        """A - I, (K, K)."""
        factor = self.factor()
        return factor @ factor.T - torch.eye(self.num_states, dtype=torch.float64)


class AnchorChain(Chain):
    """The chain through anchors, :math:`R = A - I`: a row costs O(K s + r²) after any time.

    Storage O(K s + r²), besides O(K r) while it is made. Up to the time 1 entries are sums of positive terms.
    """

    def __init__(self, jumps: AnchorJumps) -> None:
        super().__init__(jumps)
        factor = jumps.factor()
        self._inner = Table(factor.T @ factor)
        values, vectors = torch.linalg.eigh(self._inner.values)
        self._values, self._vectors = Table(values.clamp(0, 1)), Table(vectors)
        self._entries = Table(factor.gather(1, jumps.anchors) * _first(jumps.anchors))
        self._sparse: dict[torch.device, Tensor] = {}
        self._rank = factor.shape[1]

    def rows(self, x: Tensor, tau: Tensor) -> Tensor:
        """See the base class."""
        inner = torch.zeros(len(x), self._rank, dtype=torch.float64, device=x.device)
        inner.scatter_add_(1, self._anchors(x.device)[x], self._entries[x])
        rows = self._back(self._middle(inner, tau))
        return rows.scatter_add_(1, x.unsqueeze(-1), (-tau).exp().unsqueeze(-1))

    def apply(self, law: Tensor, tau: Tensor) -> Tensor:
        """See the base class."""
        inner = torch.zeros(len(law), self._rank, dtype=torch.float64, device=law.device)
        anchors, entries = self._anchors(law.device), self._entries.on(law.device)
        for i in range(anchors.shape[1]):
            inner.index_add_(1, anchors[:, i], law * entries[:, i])
        return self._back(self._middle(inner, tau)) + (-tau).exp().unsqueeze(-1) * law

    def _middle(self, inner: Tensor, tau: Tensor) -> Tensor:
        r""":math:`\varphi_\tau(F^\top F)`, applied to rows (N, r)."""
        short = int((tau <= SERIES).sum())
        return torch.cat(
            [self._series(inner[:short], tau[:short]), self._spectral(inner[short:], tau[short:])]
        )

    def _series(self, inner: Tensor, tau: Tensor) -> Tensor:
        total, tau = torch.zeros_like(inner), tau.unsqueeze(-1)
        for n in range(TERMS if len(tau) else 0, 0, -1):  # Horner's rule: all terms are positive
            total = (total @ self._inner.on(tau.device) + inner) * (tau / n)
        return total * (-tau).exp()

    def _spectral(self, inner: Tensor, tau: Tensor) -> Tensor:
        values, vectors, tau = self._values.on(tau.device), self._vectors.on(tau.device), tau.unsqueeze(-1)
        tiny = values * tau < 1e-8
        phi = (
            torch.where(tiny, tau, torch.expm1(values * tau) / torch.where(tiny, 1.0, values)) * (-tau).exp()
        )
        large = (tau * (values - 1)).exp() - (-tau).exp()  # the same, where the first would overflow
        phi = torch.where(values * tau < 1, phi, large / values.clamp(min=1e-300))
        return ((inner @ vectors) * phi) @ vectors.T

    def _back(self, inner: Tensor) -> Tensor:
        """Rows (N, r) times F transposed, (N, K): few products an entry, since F is sparse."""
        if inner.device not in self._sparse:
            self._sparse[inner.device] = self._csr.to(inner.device)
        return (self._sparse[inner.device] @ inner.T.contiguous()).T

    def _anchors(self, device: torch.device) -> Tensor:
        return self.jumps.anchors.to(device)  # type: ignore[attr-defined]

    @cached_property
    def _csr(self) -> Tensor:
        from scipy.sparse import coo_array

        anchors = self._anchors(torch.device("cpu"))
        rows = torch.arange(self.num_states).unsqueeze(-1).expand_as(anchors)
        index = (rows.flatten().numpy(), anchors.flatten().numpy())
        return csr(
            coo_array((self._entries.values.flatten().numpy(), index), (self.num_states, self._rank)).tocsr()
        )


def anchor_chain(points: Tensor, count: int, ties: int) -> AnchorChain:
    r"""The chain through ``count`` anchors, ``ties`` of them for every point.

    The anchors are centres found by k-means from a fixed start. A tie's weight is :math:`1 / (d^2 + \overline{d^2})`
    of the distance d, so that none vanishes. What is then not connected is joined by the fewest further ties, each the
    shortest way out of some part. An anchor to which no point is tied is left out.

    Args:
        points: (K, d).
        count: r, from 2 to K.
        ties: s, at most r.

    Raises:
        ConfigError: If r or s is out of range.
    """
    if not 2 <= count <= len(points):
        raise ConfigError(f"anchors is {count}: choose it from 2 to the number of states, {len(points)}")
    if not 1 <= ties <= count:
        raise ConfigError(f"num_neighbors is {ties}: of {count} anchors choose from 1 to {count}")
    centers = _centers(points, count)
    anchors = nearest(centers, points, ties)
    while (more := _bridge(points, centers, anchors)) is not None:
        anchors = torch.cat([anchors, more], 1)
    away = torch.stack([((centers[column] - points) ** 2).sum(-1) for column in anchors.T], 1)
    weights = _first(anchors) / (away + away.mean().clamp(min=1e-300))
    anchors = anchors.unique(return_inverse=True)[1].view_as(anchors)
    return AnchorChain(AnchorJumps(anchors, weights / weights.sum(-1, keepdim=True)))


def _centers(points: Tensor, count: int) -> Tensor:
    from sklearn.cluster import KMeans

    if count == len(points):
        return points
    return torch.from_numpy(KMeans(count, n_init=1, random_state=0).fit(points.numpy()).cluster_centers_)


def _first(anchors: Tensor) -> Tensor:
    """Which entries of (K, s) are not met earlier in their row: columns of bridges repeat where they add nothing."""
    repeats = [(anchors[:, :i] == anchors[:, i : i + 1]).any(1) for i in range(anchors.shape[1])]
    return ~torch.stack(repeats, 1)


def _bridge(points: Tensor, centers: Tensor, anchors: Tensor) -> Tensor | None:
    """A further anchor for one point of the smallest part, their first again for all others; None if it is whole."""
    size = len(points)
    ties = torch.stack([torch.arange(size).unsqueeze(-1).expand_as(anchors), anchors + size], -1)
    part = components(size + len(centers), ties.flatten(0, 1))
    counts = part[:size].bincount(minlength=len(part))
    if int((counts > 0).sum()) == 1:
        return None
    smallest = torch.where(counts > 0, counts, size + 1).argmin()
    ours = (part[:size] == smallest).nonzero().squeeze(-1)
    met = counts[part[size:]] > 0
    others = (met & (part[size:] != smallest)).nonzero().squeeze(-1)
    near = others[nearest(centers[others], points[ours], 1).squeeze(-1)]
    closest = int(((points[ours] - centers[near]) ** 2).sum(-1).argmin())
    more = anchors[:, :1].clone()
    more[ours[closest]] = near[closest]
    return more
