"""Classifier guidance for states: a classifier of noisy data reweighs where each entry may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.distributions import Categorical, pick
from d3pm.errors import ConfigError
from d3pm.objectives import Network, full_precision
from d3pm.process import Process
from d3pm.sampling import Sampler

CHUNK = 2**20
"""How many states, of all candidates together, go through the classifier at once."""


@dataclass(frozen=True, eq=False)
class ClassifierGuided(Sampler):
    r"""Ancestral steps whose every entry is reweighed by what a classifier says of its candidates.

    .. math:: p(x_s^i = v | x_t, y) \propto p_\theta(x_s^i = v | x_t)\; p_\phi(y | x_t^{i \to v}, s)^\gamma

    where :math:`x_t^{i \to v}` is :math:`x_t` with entry i set to v and :math:`\gamma` is ``scale``. The classifier is
    asked at time s, that of the candidate: given :math:`x_s` the class does not depend on :math:`x_t`, so for one
    entry, an exact belief (in the mixture form) and an exact classifier the samples follow :math:`p(x_0 | y)` exactly,
    in any number of steps. Of several entries the others still are at time t and move independently; under the
    absorbing kernel each entry's law is still exact for scale 1 (there the noise of the others tells the classifier
    nothing), otherwise it is off by the length of a step. Either way the error of the joint law falls as one over the
    number of steps. At s = 0 the classifier must know clean data: at time 0.

    ``"exact"`` evaluates every candidate, at most L K rows of the classifier a step for an example: entries with one
    place to go are left out. ``"first_order"`` takes :math:`\log p_\phi(y | x_t^{i \to v}) - \log p_\phi(y | x_t)
    \approx (e_v - x_t^i) \cdot \nabla \log p_\phi(y | x_t)` from one pass forth and back, for which the classifier
    must take floats (B, \*, K); it is exact for a class score that is linear in the one-hots. Network calls are as
    for ancestral sampling. Scales other than 1 also change how fast an absorbing kernel reveals.

    Serves every :class:`~d3pm.discrete.process.DiscreteDiffusion`.

    Args:
        classifier: ``classifier(x_t, t)`` gives logits (B, number of classes).
        labels: The wanted classes, (B,).
        scale: :math:`\gamma`; 0 is ancestral sampling, without the classifier.
        method: ``"exact"`` or ``"first_order"``.

    Raises:
        ConfigError: If the method is neither or labels are no row of whole numbers; when sampling, if there is not
            one label a sample, or a label is no class.

    References:
        Schiff et al., *Simple Guidance Mechanisms for Discrete Diffusion Models*, 2024, arXiv 2412.10193 (D-CBG).
    """

    classifier: Network
    labels: Tensor
    scale: float = 1.0
    method: Literal["exact", "first_order"] = "exact"

    def __post_init__(self) -> None:
        if self.method not in ("exact", "first_order"):
            raise ConfigError(f"method is {self.method!r}: choose 'exact' or 'first_order'")
        if self.labels.dim() != 1 or self.labels.is_floating_point():
            raise ConfigError(
                f"labels are {self.labels.dtype} {tuple(self.labels.shape)}: give one whole number a sample, (B,)"
            )

    def check_process(self, process: Process) -> None:
        """See the base class."""
        if not isinstance(process, DiscreteDiffusion):
            raise ConfigError(
                f"ClassifierGuided reweighs the states of a DiscreteDiffusion, the process is a "
                f"{type(process).__name__}: take Ancestral, or that process's own guidance"
            )

    def step(
        self,
        process: Process,
        network: Network,
        x_t: Tensor,
        s: Tensor,
        t: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """See the base class."""
        self.check_process(process)
        if len(self.labels) != len(x_t):
            raise ConfigError(
                f"there are {len(self.labels)} labels for {len(x_t)} samples: give one label a sample"
            )
        output = network(x_t, t)
        with full_precision(x_t):
            if self.scale == 0:
                return process.step(output, x_t, s, t, generator)
            return self.law(process, output, x_t, s, t).sample(generator)

    def law(self, process: Process, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Categorical:
        """What a step draws from, (B, \\*, K)."""
        plain = process.reverse(output, x_t, s, t).log_probs  # type: ignore[attr-defined]
        possible = plain > -torch.inf
        likelihood = self._exact(possible, x_t, s) if self.method == "exact" else self._linear(plain, x_t, s)
        guided = plain + self.scale * likelihood.to(plain.dtype).masked_fill(~possible, 0.0)
        lost = (guided == -torch.inf).all(-1, keepdim=True)  # nowhere to go from here leads to the class
        return Categorical(torch.where(lost, plain, guided))

    def _exact(self, possible: Tensor, x_t: Tensor, s: Tensor) -> Tensor:
        r""":math:`\log p(y | x_t^{i \to v})` where entry i may go to v and elsewhere too, otherwise 0."""
        moves = (possible & (possible.sum(-1, keepdim=True) > 1)).flatten(1, -2)  # (B, entries, K)
        rows, entries, states = moves.nonzero().unbind(-1)
        found = []
        for part in torch.arange(len(rows), device=x_t.device).split(max(1, CHUNK // x_t[0].numel())):
            candidates = x_t[rows[part]].flatten(1)
            candidates.scatter_(1, entries[part, None], states[part, None])
            found.append(self._log_likelihood(candidates.view(-1, *x_t.shape[1:]), s[rows[part]], rows[part]))
        values = torch.cat(found) if found else x_t.new_zeros(0, dtype=torch.float32)
        return values.new_zeros(moves.shape).index_put_((rows, entries, states), values).view(possible.shape)

    def _linear(self, plain: Tensor, x_t: Tensor, s: Tensor) -> Tensor:
        r""":math:`(e_v - x_t^i) \cdot \nabla \log p(y | x_t)` for every entry and state."""
        every = torch.arange(len(x_t), device=x_t.device)
        with torch.enable_grad():
            one_hot = F.one_hot(x_t, plain.shape[-1]).to(plain.dtype).requires_grad_()
            chosen = self._log_likelihood(one_hot, s, every).sum()
            gradient = torch.autograd.grad(chosen, one_hot)[0]
        return gradient - pick(gradient, x_t).unsqueeze(-1)

    def _log_likelihood(self, x: Tensor, s: Tensor, rows: Tensor) -> Tensor:
        """Of the labels of ``rows`` (N,) for states or floats x (N, …) at times s (N,)."""
        logits = self.classifier(x, s)
        labels = self.labels.to(x.device)
        if x.device.type == "cpu" and not bool(((labels >= 0) & (labels < logits.shape[-1])).all()):
            raise ConfigError(
                f"labels go from {int(labels.min())} to {int(labels.max())}, the classifier knows classes "
                f"0 .. {logits.shape[-1] - 1}: give one of them"
            )
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return pick(logits.log_softmax(-1, dtype=dtype), labels[rows])
