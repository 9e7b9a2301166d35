"""The slow, obvious side of every comparison: dense float64 matrices, Bayes' rule, sums over all states.

Nothing here knows how the package computes; it uses only ``between(t-1, t).dense()`` and ``stationary()``.
"""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.stats import chi2
from torch import Tensor

import d3pm


def concrete_subclasses(base: type) -> list[type]:
    """Every concrete subclass that lives in the package, so that a newcomer is tested unasked."""
    for module in pkgutil.walk_packages(d3pm.__path__, "d3pm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def descend(cls: type) -> Iterator[type]:
        for child in cls.__subclasses__():
            yield child
            yield from descend(child)

    found = {
        cls for cls in descend(base) if cls.__module__.startswith("d3pm.") and not inspect.isabstract(cls)
    }
    return sorted(found, key=lambda cls: cls.__qualname__)


def times(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def chi_square(counts: Tensor, probs: Tensor) -> float:
    """The p-value of rows of ``counts`` (R, K) under the laws ``probs`` (R, K), all rows in one statistic.

    States of probability zero must not occur at all; states that are expected less than five times are pooled.
    """
    assert not counts[probs == 0].any(), "a state of probability zero was drawn"
    statistic, freedom = 0.0, 0
    for row, law in zip(counts.double(), probs, strict=True):
        expected = row.sum() * law
        frequent = expected >= 5
        observed = torch.cat([row[frequent], row[~frequent].sum()[None]])
        expected = torch.cat([expected[frequent], expected[~frequent].sum()[None]])
        observed, expected = observed[expected > 0], expected[expected > 0]
        statistic += float(((observed - expected) ** 2 / expected).sum())
        freedom += len(expected) - 1
    return float(chi2.sf(statistic, freedom)) if freedom else 1.0


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Sum over the last axis of p log(p/q), with 0 log 0 = 0; gradients reach ``q`` only where p > 0."""
    ratio = torch.where(p > 0, torch.where(p > 0, q, 1.0), 1.0) / torch.where(p > 0, p, 1.0)
    return -(p * ratio.log()).sum(-1)


@dataclass(frozen=True)
class Chain:
    """One entry's forward chain as T dense matrices."""

    steps: Tensor  # (T, K, K)
    stationary: Tensor  # (K,)
    absorbing: int | None = None

    @classmethod
    def of(cls, transition) -> "Chain":
        t = torch.arange(1, transition.num_steps + 1)
        return cls(transition.between(t - 1, t).dense(), transition.stationary(), transition.mask_state)

    @property
    def num_steps(self) -> int:
        return self.steps.shape[0]

    @property
    def num_states(self) -> int:
        return self.steps.shape[1]

    @property
    def data_states(self) -> list[int]:
        return [x for x in range(self.num_states) if x != self.absorbing]

    def between(self, s: int, t: int) -> Tensor:
        product = torch.eye(self.num_states, dtype=torch.float64)
        for step in self.steps[s:t]:
            product = product @ step
        return product

    def possible(self, x_t: int, t: int) -> Tensor:
        """Which data states can have led to x_t."""
        possible = self.between(0, t)[:, x_t] > 0
        if self.absorbing is not None:
            possible[self.absorbing] = False
        return possible

    def pairs(self, t: int) -> list[tuple[int, int]]:
        """All (x_0, x_t) that occur."""
        reach = self.between(0, t)
        return [(i, j) for i in self.data_states for j in range(self.num_states) if reach[i, j] > 0]

    def posterior(self, x0: int, x_t: int, s: int, t: int) -> Tensor:
        joint = self.between(0, s)[x0] * self.between(s, t)[:, x_t]
        return joint / joint.sum()

    def belief(self, logits: Tensor, x_t: int, t: int) -> Tensor:
        return torch.softmax(logits.double().masked_fill(~self.possible(x_t, t), -torch.inf), -1)

    def reverse(self, logits: Tensor, x_t: int, s: int, t: int, form: str) -> Tensor:
        """p(x_s | x_t): equation 4 of Austin et al. ("d3pm") or the posteriors averaged by belief ("mixture")."""
        belief = self.belief(logits, x_t, t)
        if s == 0:
            return belief
        if form == "mixture":
            possible = self.possible(x_t, t).nonzero().flatten().tolist()
            return sum(belief[x] * self.posterior(x, x_t, s, t) for x in possible)
        joint = (belief @ self.between(0, s)) * self.between(s, t)[:, x_t]
        return joint / joint.sum()


def random_law(chain: Chain, length: int, seed: int, sparse: bool = False) -> Tensor:
    """A random law of words (K^length,) with entries in the data states; ``sparse`` forbids some words."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(chain.num_states**length, generator=generator, dtype=torch.float64) + 0.05
    words = all_words(chain.num_states, length)
    if chain.absorbing is not None:
        weights[(words == chain.absorbing).any(-1)] = 0
    if sparse:
        weights[weights.nonzero().flatten()[1::3]] = 0
    return weights / weights.sum()


def all_words(num_states: int, length: int) -> Tensor:
    """Every word (K^length, length), in the order of Kronecker products."""
    return torch.tensor(list(itertools.product(range(num_states), repeat=length)))


@dataclass(frozen=True)
class World:
    """A data law over words of ``length`` entries, destroyed by a chain: everything about it by enumeration."""

    chain: Chain
    length: int
    law: Tensor  # (S,), S = K ** length

    @cached_property
    def words(self) -> Tensor:
        return all_words(self.chain.num_states, self.length)

    @property
    def num_steps(self) -> int:
        return self.chain.num_steps

    @property
    def entropy(self) -> float:
        return float(torch.special.entr(self.law).sum())

    def power(self, one: Tensor) -> Tensor:
        """Independent entries: the Kronecker power of a law (K,) or a matrix (K, K)."""
        result = one
        for _ in range(self.length - 1):
            result = torch.kron(result, one)
        return result

    @cached_property
    def prior(self) -> Tensor:
        return self.power(self.chain.stationary)

    def forward(self, s: int, t: int) -> Tensor:
        return self.power(self.chain.between(s, t))

    def index(self, x: Tensor) -> Tensor:
        """Words (B, length) -> their place (B,) in ``words``."""
        place = torch.zeros(x.shape[0], dtype=torch.int64)
        for column in x.unbind(-1):
            place = place * self.chain.num_states + column
        return place

    def exact_logits(self) -> Tensor:
        """The exact belief, log q(x_0^i = k | x_t = w), (T, S, L, K); -1e30 is log 0, zeros where w cannot occur."""
        value = torch.nn.functional.one_hot(self.words, self.chain.num_states).double()  # (S, L, K)
        tables = []
        for t in range(1, self.num_steps + 1):
            joint = self.law[:, None] * self.forward(0, t)  # (x_0, x_t)
            total = joint.sum(0)
            belief = torch.einsum("xw,xlk->wlk", joint / torch.where(total > 0, total, 1.0), value)
            logits = torch.where(belief > 0, belief, 1.0).log().masked_fill(belief == 0, -1e30)
            tables.append(torch.where((total > 0)[:, None, None], logits, 0.0))
        return torch.stack(tables)

    def random_logits(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (self.num_steps, len(self.words), self.length, self.chain.num_states)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def network(self, logits: Tensor):
        """The tables (T, S, length, K) as a network; it remembers the times it was asked about."""

        def network(x_t: Tensor, t: Tensor) -> Tensor:
            network.asked.append(int(t.flatten()[0]))
            return logits[t.long() - 1, self.index(x_t)]

        network.asked = []
        return network

    def reverse(self, logits: Tensor, s: int, t: int, form: str) -> Tensor:
        """p(x_s | x_t) as a matrix (x_t, x_s); zero rows for words that cannot be at time t."""
        rows = []
        for place, word in enumerate(self.words.tolist()):
            row = torch.ones(1, dtype=torch.float64)
            for i, x_t in enumerate(word):
                if not self.chain.possible(x_t, t).any():
                    row = torch.kron(row, torch.zeros(self.chain.num_states, dtype=torch.float64))
                    continue
                row = torch.kron(row, self.chain.reverse(logits[t - 1, place, i], x_t, s, t, form))
            rows.append(row)
        return torch.stack(rows)

    def bound(self, logits: Tensor, form: str) -> float:
        """E_q[log q(x_{1:T} | x_0) - log p(x_{0:T})], literally summed over all S^(T+1) paths."""
        weight, log_ratio = self.law, torch.zeros_like(self.law)
        for t in range(1, self.num_steps + 1):
            forward, reverse = self.forward(t - 1, t), self.reverse(logits, t - 1, t, form)
            weight = weight[..., None] * forward
            log_ratio = log_ratio[..., None] + forward.log() - reverse.T.log()
        log_ratio = log_ratio - self.prior.log()
        return float((weight * log_ratio)[weight > 0].sum())

    def model_law(self, logits: Tensor, grid: list[int], form: str) -> Tensor:
        """p(x_0) of the reverse chain that visits the times of ``grid``, from T down to 0."""
        law = self.prior
        for t, s in itertools.pairwise(grid):
            law = law @ self.reverse(logits, s, t, form)
        return law

    def conditional_correlation(self) -> float:
        """Sum over t of the total correlation of x_{t-1} given x_t: what independent entries cost the bound."""
        total = 0.0
        for t in range(1, self.num_steps + 1):
            joint = (self.law @ self.forward(0, t - 1))[:, None] * self.forward(t - 1, t)  # (x_{t-1}, x_t)
            given = joint.sum(0)
            conditional = (joint / torch.where(given > 0, given, 1.0)).T  # (x_t, x_{t-1})
            value = torch.nn.functional.one_hot(self.words, self.chain.num_states).double()
            product = torch.ones_like(conditional)
            for i in range(self.length):
                product = product * (conditional @ value[:, i])[:, self.words[:, i]]
            total += float((given * kl(conditional, product)).sum())
        return total
