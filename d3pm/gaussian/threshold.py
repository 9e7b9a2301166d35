r"""What keeps an estimate of :math:`x_0` where pictures live, in [-1, 1]."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.specs import Part


class Threshold(Part, ABC):
    r"""A map of :math:`\hat x_0` (B, \*) into [-1, 1]."""

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """The estimate, kept in range."""


@dataclass(frozen=True)
class Clip(Threshold):
    """Cut at -1 and 1.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020, section 3.2 and their code.
    """

    def __call__(self, x0: Tensor) -> Tensor:
        """See the base class."""
        return x0.clamp(-1, 1)


@dataclass(frozen=True)
class DynamicThreshold(Threshold):
    r"""Cut at :math:`\pm s` and divide by it, :math:`s = \max(1, \text{quantile}_p |\hat x_0|)` of each example.

    Under strong guidance, estimates saturate; this pulls them back instead of flattening them.

    Args:
        quantile: p in (0, 1].

    References:
        Saharia et al. (Imagen), 2022, section 2.3.
    """

    quantile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"DynamicThreshold quantile is {self.quantile}: choose it in (0, 1]")

    def __call__(self, x0: Tensor) -> Tensor:
        """See the base class; sorts an example's entries, O(D log D)."""
        flat = x0.flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
        ordered = flat.sort(1).values  # torch.quantile refuses more than 2^24 entries
        place = self.quantile * (flat.shape[1] - 1)
        low, share = int(place), place - int(place)
        high = min(low + 1, flat.shape[1] - 1)
        bound = torch.lerp(ordered[:, low], ordered[:, high], share).clamp(min=1).to(x0.dtype)
        bound = bound.view(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-bound, bound) / bound
