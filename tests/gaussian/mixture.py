"""The analytic oracle: data from a Gaussian mixture, for which everything a perfect network knows is in closed form.

Nothing here knows how the package computes. Everything is float64 and exact; formulas in x_t are differentiable.

>>> law = Mixture([[-0.5], [0.5]], [0.1, 0.2], [0.3, 0.7])
>>> law.mean
tensor([0.2000], dtype=torch.float64)
>>> law.diffused(0.0).std  # nothing is left of the data
tensor([1.], dtype=torch.float64)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import kstest
from torch import Tensor

Level = Tensor | float


def tensor(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sum over n of weights[n] N(means[n], diag(stds[n]^2)); the component is the class label.

    Data are (B, D); (B, C, H, W) with C H W = D is read entry by entry and keeps its shape. Stds may be zero (points).
    A noise level ``alpha_bar`` is a float or (B,).
    """

    means: Tensor  # (N, D)
    stds: Tensor  # (N, D)
    weights: Tensor  # (N,)

    def __init__(self, means: Sequence | Tensor, stds: Sequence | Tensor, weights: Sequence | Tensor) -> None:
        means, stds, weights = tensor(means), tensor(stds), tensor(weights)
        stds = stds.unsqueeze(-1) if stds.dim() == 1 else stds
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "stds", stds.expand_as(means).clone())
        object.__setattr__(self, "weights", weights / weights.sum())

    # ---- the law itself

    @property
    def num_components(self) -> int:
        return len(self.means)

    @property
    def num_dims(self) -> int:
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """(D, D)."""
        away = self.means - self.mean
        return torch.diag(self.weights @ self.stds**2) + (self.weights * away.T) @ away

    @property
    def std(self) -> Tensor:
        """(D,)."""
        return self.covariance.diagonal().sqrt()

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Data (n, D) and the components (n,) they came from."""
        labels = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.num_dims, dtype=torch.float64, generator=generator)
        return self.means[labels] + self.stds[labels] * noise, labels

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, D)."""
        return self.sample_labelled(n, generator)[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of examples, (B,) nats."""
        return self._log_joint(x, 1.0).logsumexp(-1)

    def cdf(self, x: Tensor) -> Tensor:
        """One dimension: P(X <= x), any shape."""
        assert self.num_dims == 1, "project to one dimension first"
        z = (tensor(x).unsqueeze(-1) - self.means[:, 0]) / self.stds[:, 0]
        return torch.special.ndtr(z) @ self.weights

    def entropy(self, points: int = 20001) -> float:
        """One dimension: differential entropy in nats by the trapezoidal rule (spectrally accurate on densities)."""
        reach = 12 * float(self.stds.max())
        x = torch.linspace(float(self.means.min()) - reach, float(self.means.max()) + reach, points)
        log_p = self.log_prob(x.double().unsqueeze(-1))
        return float(-torch.trapezoid(log_p.exp() * log_p, x.double()))

    # ---- other laws made of it

    def diffused(self, alpha_bar: Level) -> "Mixture":
        """The law of x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps, for one level."""
        abar = tensor(alpha_bar)
        return Mixture(abar.sqrt() * self.means, (abar * self.stds**2 + 1 - abar).sqrt(), self.weights)

    def noised(self, scale: Level, std: Level) -> "Mixture":
        """The law of scale x_0 + std eps."""
        scale, std = tensor(scale), tensor(std)
        return Mixture(scale * self.means, (scale**2 * self.stds**2 + std**2).sqrt(), self.weights)

    def component(self, y: int) -> "Mixture":
        """The law given the label."""
        return Mixture(self.means[y : y + 1], self.stds[y : y + 1], [1.0])

    def project(self, direction: Sequence[float] | Tensor) -> "Mixture":
        """The law of <direction, x>, in one dimension."""
        u = tensor(direction)
        return Mixture((self.means @ u)[:, None], (self.stds**2 @ u**2).sqrt(), self.weights)

    # ---- what a perfect network knows

    def _level(self, alpha_bar: Level) -> Tensor:
        """(B or 1, 1, 1)."""
        return tensor(alpha_bar).reshape(-1, 1, 1)

    def _log_joint(self, x_t: Tensor, alpha_bar: Level, labels: Tensor | None = None) -> Tensor:
        """Log p(n, x_t), (B, N); components other than the label have -inf (labels = N: all are possible)."""
        abar = self._level(alpha_bar)
        x = tensor(x_t).flatten(1).unsqueeze(1)
        variance = abar * self.stds**2 + 1 - abar
        square = (x - abar.sqrt() * self.means) ** 2 / variance
        log_joint = self.weights.log() - 0.5 * (square + variance.log() + math.log(2 * math.pi)).sum(-1)
        if labels is None:
            return log_joint
        others = torch.arange(self.num_components) != labels[:, None]
        return log_joint.masked_fill(others & (labels[:, None] < self.num_components), -math.inf)

    def posterior(
        self, x_t: Tensor, alpha_bar: Level, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q(x_0 | x_t), a mixture an example: weights (B, N), means (B, N, D), stds (B, N, D)."""
        abar = self._level(alpha_bar)
        x = tensor(x_t).flatten(1).unsqueeze(1)
        variance = self.stds**2
        total = abar * variance + 1 - abar
        gain = abar.sqrt() * variance / total
        means = self.means + gain * (x - abar.sqrt() * self.means)
        stds = (variance * (1 - abar) / total).sqrt()
        return self._log_joint(x_t, alpha_bar, labels).softmax(-1), means, stds.expand_as(means)

    def x0(self, x_t: Tensor, alpha_bar: Level, labels: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t] (given the label), in the shape of x_t."""
        weights, means, _ = self.posterior(x_t, alpha_bar, labels)
        return (weights.unsqueeze(-1) * means).sum(1).reshape(x_t.shape)

    def score(self, x_t: Tensor, alpha_bar: Level, labels: Tensor | None = None) -> Tensor:
        """Gradient of log p(x_t) (given the label), in the shape of x_t."""
        abar = self._level(alpha_bar)
        x = tensor(x_t).flatten(1).unsqueeze(1)
        pull = (abar.sqrt() * self.means - x) / (abar * self.stds**2 + 1 - abar)
        weights = self._log_joint(x_t, alpha_bar, labels).softmax(-1)
        return (weights.unsqueeze(-1) * pull).sum(1).reshape(x_t.shape)

    def eps(self, x_t: Tensor, alpha_bar: Level, labels: Tensor | None = None) -> Tensor:
        """E[eps | x_t] (given the label), in the shape of x_t; 0 where there is no noise."""
        left = (1 - tensor(alpha_bar)).sqrt().reshape(-1, *[1] * (x_t.dim() - 1))
        return -left * self.score(x_t, alpha_bar, labels)

    def label_log_probs(self, x_t: Tensor, alpha_bar: Level) -> Tensor:
        """Log p(label | x_t), (B, N): the exact noisy classifier, differentiable in x_t."""
        return self._log_joint(x_t, alpha_bar).log_softmax(-1)

    def label_prob(self, x_t: Tensor, alpha_bar: Level, y: Tensor) -> Tensor:
        """p(label = y | x_t), (B,)."""
        return self.label_log_probs(x_t, alpha_bar).exp().gather(-1, y[:, None]).squeeze(-1)

    def network(self, process) -> Callable[..., Tensor]:
        """``network(x_t, t, labels=None)`` in the prediction of a ``GaussianDiffusion``; labels = N is the null class.

        Only x_t and t go in; ``network.calls`` counts.
        """

        def network(x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            network.calls += 1
            x0 = self.x0(x_t, process.alpha_bar(t), labels)
            return process.target(x0, tensor(x_t), t).to(x_t.dtype)

        network.calls = 0
        return network

    def classifier(self, process) -> Callable[[Tensor, Tensor], Tensor]:
        """``classifier(x_t, t)``: logits (B, N), the exact classifier of noisy data."""
        return lambda x_t, t: self.label_log_probs(x_t, process.alpha_bar(t))

    # ---- comparing samples with it

    def ks(self, x: Tensor, direction: Sequence[float] | Tensor | None = None) -> float:
        """The p-value of the Kolmogorov–Smirnov test of examples (B, D) along a direction (not needed if D = 1)."""
        direction = tensor([1.0] if direction is None else direction)
        law = self.project(direction)
        values = (tensor(x).flatten(1) @ direction).numpy()
        return float(kstest(values, lambda v: law.cdf(tensor(v)).numpy()).pvalue)
