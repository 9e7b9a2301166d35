r"""Training a classifier on noisy data: what steers a diffusion that was trained without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.objectives import Network, Objective
from d3pm.process import Process


@dataclass(frozen=True)
class Classification(Objective):
    r""":math:`-\log p_\theta(y | x_t)` of an example's ``labels`` y, at one stratified time an example.

    The network is a classifier: ``network(x_t, t)`` gives logits (B, number of classes). It works under any
    process, has no bound and gives no samples.

    References:
        Dhariwal and Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021, section 4.
    """

    classifies: ClassVar[bool] = True

    def __call__(
        self,
        process: Process,
        network: Network,
        x0: Tensor,
        *,
        generator: torch.Generator | None = None,
        **cond: Any,
    ) -> Tensor:
        """Losses (B,) in nats."""
        labels = cond.pop("labels", None)
        if labels is None:
            raise ConfigError("objective Classification: the data has no labels; set data.labels to true")
        t, x_t = self.draw(process, x0, generator)
        logits = network(x_t, t, **cond)
        if logits.dim() != 2:
            raise ConfigError(
                f"objective Classification: the network gives {tuple(logits.shape)}, not logits (B, classes): take "
                "an ImageClassifier"
            )
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def count(self, x0: Tensor, cond: dict[str, Any]) -> Tensor:
        """See the base class: one label an example."""
        return torch.ones(len(x0), device=x0.device)

    def at(self, process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Not defined: a classifier's loss needs labels."""
        raise ConfigError("objective Classification cannot be added to another loss: use it alone")
