r"""The k-nearest-neighbour graph of points, made connected, as a random walk and as a matrix.

Each of the K points is tied to its k nearest; the ties G are directed, the walk follows them both ways:
:math:`A = (G + G^\top) / 2k`. Every tie then has the same weight, and the average point loses what it has at rate 1.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d3pm.draws import Streams
from d3pm.errors import ConfigError
from d3pm.transitions.matrix import read_tensor

TIES = 8  # how many equally near points beyond the k-th are looked at


class NeighborGraph:
    r"""Ties between K points: a symmetric rate matrix that is never stored whole.

    Args:
        num_states: K.
        ties: Pairs (i, j), int64 (E, 2), each walked both ways; a pair may occur twice, as (i, j) and (j, i).
        weight: Jumps per unit of time along one tie, 1/(2k).
    """

    def __init__(self, num_states: int, ties: Tensor, weight: float) -> None:
        self.num_states, self.weight = num_states, weight
        both = torch.cat([ties, ties.flip(-1)])
        source, target = both[(both[:, 0] * num_states + both[:, 1]).sort().indices].unbind(-1)
        self.targets = target
        self.degrees = torch.bincount(source, minlength=num_states)
        self.starts = self.degrees.cumsum(0) - self.degrees

    def on(self, device: torch.device) -> NeighborGraph:
        """The same on a device; the copy is made once."""
        if device == self.targets.device:
            return self
        copies = self.__dict__.setdefault("_copies", {})
        if device not in copies:
            copy = object.__new__(NeighborGraph)
            copy.num_states, copy.weight = self.num_states, self.weight
            for name in ("targets", "degrees", "starts"):
                setattr(copy, name, getattr(self, name).to(device))
            copies[device] = copy
        return copies[device]

    def rates(self, x: Tensor) -> Tensor:
        """Jumps per unit of time out of the states x (N,)."""
        return self.on(x.device).degrees[x].double() * self.weight

    def jump(self, x: Tensor, streams: Streams) -> Tensor:
        """Along one of the ties of x (N,), all alike."""
        here = self.on(x.device)
        tie = (streams.uniforms() * here.degrees[x]).long()
        return here.targets[here.starts[x] + tie]

    def dense(self) -> Tensor:
        """R, (K, K)."""
        return 0 - torch.from_numpy(self.laplacian.toarray())

    @cached_property
    def laplacian(self):  # type: ignore[no-untyped-def] # scipy is imported where it is used
        r""":math:`-R = \mathrm{diag}(A \mathbf 1) - A`, a ``scipy.sparse.csr_array`` (K, K)."""
        from scipy.sparse import coo_array, diags_array

        source = torch.repeat_interleave(torch.arange(self.num_states), self.degrees)
        weights = np.full(len(self.targets), self.weight)
        ties = coo_array((weights, (source.numpy(), self.targets.numpy())), shape=(self.num_states,) * 2)
        return (diags_array(self.degrees.numpy() * self.weight) - ties).tocsr()


def neighbor_graph(points: Tensor, num_neighbors: int) -> NeighborGraph:
    """Tie every point to its nearest, and what then is not connected by the fewest and shortest ties possible.

    Args:
        points: (K, d).
        num_neighbors: k, from 1 to K - 1.

    Raises:
        ConfigError: If there are not that many other points, or two points are one.
    """
    num_states = len(points)
    if not 1 <= num_neighbors < num_states:
        raise ConfigError(
            f"num_neighbors is {num_neighbors}: of {num_states} states each has {num_states - 1} others, "
            f"choose it from 1 to {num_states - 1}"
        )
    near = nearest(points, points, min(num_neighbors + 1 + TIES, num_states))
    own = near == torch.arange(num_states).unsqueeze(-1)
    # Itself last; a search may miss it among points that are nearly one, and then one too many is left out below.
    near = near.gather(-1, own.byte().sort(dim=-1, stable=True).indices)[:, :num_neighbors]
    source = torch.arange(num_states).unsqueeze(-1).expand_as(near)
    ties = torch.stack([source, near], -1).flatten(0, 1)
    return NeighborGraph(num_states, torch.cat([ties, bridges(points, ties)]), 1 / (2 * num_neighbors))


def nearest(points: Tensor, to: Tensor, count: int) -> Tensor:
    """The ``count`` of ``points`` nearest to each of ``to``, int64 (N, count): near to far, of equals the first.

    The search is scikit-learn's; its candidates' distances are then taken anew, coordinate by coordinate, so that
    equally near points are known to be so.
    """
    from sklearn.neighbors import NearestNeighbors

    method = "kd_tree" if points.shape[-1] <= 16 else "brute"
    search = NearestNeighbors(n_neighbors=count, algorithm=method).fit(points.numpy())
    found = torch.from_numpy(search.kneighbors(to.numpy(), return_distance=False)).sort(-1).values
    chunks = zip(found.split(1024), to.split(1024), strict=True)
    away = torch.cat([((points[rows] - at.unsqueeze(1)) ** 2).sum(-1) for rows, at in chunks])
    return found.gather(-1, away.sort(dim=-1, stable=True).indices)


def bridges(points: Tensor, ties: Tensor) -> Tensor:
    """The ties (C - 1, 2) that make C separate parts one: of the smallest part its nearest pair outside, and again.

    Each is the shortest way out of some part, so that together they are a shortest spanning tree of the parts.
    """
    parts = components(len(points), ties)
    found = []
    while len(sizes := parts.bincount()) > 1:
        inside = parts == sizes.argmin()
        ours, others = inside.nonzero().squeeze(-1), (~inside).nonzero().squeeze(-1)
        near = others[nearest(points[others], points[ours], 1).squeeze(-1)]
        closest = int(((points[ours] - points[near]) ** 2).sum(-1).argmin())
        found.append(torch.stack([ours[closest], near[closest]]))
        parts = torch.where(inside, parts[near[closest]], parts).unique(return_inverse=True)[1]
    return torch.stack(found) if found else ties[:0]


def components(num_states: int, ties: Tensor) -> Tensor:
    """Which connected part each state is in, int64 (K,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(len(ties)), tuple(ties.T.numpy())), shape=(num_states,) * 2)
    return torch.from_numpy(connected_components(matrix, directed=False)[1]).long()


def checked_points(embeddings: Tensor | str | Path) -> Tensor:
    """Embeddings (K, d) in float64, all finite and no two alike."""
    if isinstance(embeddings, (str, Path)):
        embeddings = read_tensor(embeddings, "embeddings")
    points = torch.as_tensor(embeddings)
    if points.is_complex():
        raise ConfigError("embeddings are complex numbers: give real ones, e.g. both parts side by side")
    if not isinstance(embeddings, Tensor):
        points = torch.as_tensor(embeddings, dtype=torch.float64)
    if points.dim() != 2 or 0 in points.shape or len(points) < 2:
        raise ConfigError(
            f"embeddings has shape {tuple(points.shape)}: give (K, d), one row a state, of at least 2 states"
        )
    points = points.detach().to("cpu", torch.float64).contiguous()
    bad = (~points.isfinite()).any(-1).nonzero()
    if len(bad):
        raise ConfigError(f"embeddings: row {int(bad[0])} has a NaN or an infinity: give finite numbers")
    _, place, counts = points.unique(dim=0, return_inverse=True, return_counts=True)
    if int(counts.max()) > 1:
        first, second = (place == counts.argmax()).nonzero()[:2].squeeze(-1).tolist()
        raise ConfigError(
            f"embeddings: rows {first} and {second} are equal: leave one of them out, or tell them apart"
        )
    return points
