"""Wrappers around a network: the sampler never learns that its network is guided."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from d3pm.distributions import safe_divide
from d3pm.errors import ConfigError
from d3pm.objectives import Network


class Around:
    """A wrapper of a network: it hands on what a sampler asks about the network beside its output.

    Attributes:
        network: What it wraps.
        cuts: Whether it rules states out (logits of minus infinity). No line leads through those: guides go inside.
    """

    network: Network
    cuts: ClassVar[bool] = False

    @property
    def calls(self) -> int:
        """Network calls that one of its own costs."""
        return getattr(self.network, "calls", 1)

    @property
    def time_conditioned(self) -> bool:
        """Whether the network looks at the time."""
        return getattr(self.network, "time_conditioned", True)


class ClassifierFreeGuidance(Around):
    r"""Push the output away from the unconditional one: :math:`u + s\,(c - u)`.

    Scale 0 is unconditional, 1 conditional, above 1 exaggerated; Ho and Salimans' w is s - 1. On logits
    this tilts the belief to :math:`\tilde p_c^{\,s}\, \tilde p_u^{\,1-s}`; on
    :math:`\epsilon`, x0 or v it moves along the line.
    Two network calls a step (one for scale 1, and for scale 0 without ``channels``).

    Args:
        network: Trained with its condition dropped some of the time.
        scale: s.
        null: The keyword arguments that stand for "no condition"; alike for all rows, so no tensors of a batch.
        channels: Guide only the first so many channels (axis 1) and take the others from the conditional
            output: for networks that also give a variance. All if not given.
        rescale: In [0, 1], how far an example's guided output is drawn back to the spread of the conditional
            one: large scales overexpose pictures otherwise.

    Raises:
        ConfigError: If ``rescale`` is outside [0, 1], or ``network`` is a wrapper that rules states out.

    References:
        Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022, section 3.2.
        Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024, section 3.4 (rescaling).
    """

    def __init__(
        self,
        network: Network,
        scale: float,
        null: dict[str, Any],
        channels: int | None = None,
        rescale: float = 0.0,
    ) -> None:
        if not 0 <= rescale <= 1:
            raise ConfigError(f"rescale is {rescale}: choose it in [0, 1]")
        check_uncut(network, "ClassifierFreeGuidance")
        self.network, self.scale, self.null, self.channels = network, scale, null, channels
        self.rescale = rescale

    @property
    def calls(self) -> int:
        """Network calls that one of its own costs."""
        alone = self.scale == 1 or (self.scale == 0 and self.channels is None)
        return super().calls * (1 if alone else 2)

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The guided output, in the shape of the network's."""
        if self.scale == 1:
            return self.network(x_t, t, **cond)
        unconditional = self.network(x_t, t, **{**cond, **self.null})
        if self.scale == 0 and self.channels is None:
            return unconditional
        conditional = self.network(x_t, t, **cond)
        end = conditional.shape[1] if self.channels is None else self.channels
        u, c = unconditional[:, :end], conditional[:, :end]
        guided = rescaled(u + self.scale * (c - u), c, self.rescale)
        return torch.cat([guided, conditional[:, end:]], 1)


def check_uncut(network: Network, guide: str) -> None:
    """Refuse (ConfigError) to guide a network that rules states out: minus infinity less itself is no number."""
    if getattr(network, "cuts", False):
        raise ConfigError(
            f"network is {type(network).__name__}, which rules states out: put it around {guide}, not inside"
        )


def check_guidable(network: Network) -> None:
    """Refuse (ConfigError) a network that never saw data without their labels: it cannot say what u is.

    Wrappers are looked through; a network that does not tell its ``label_drop`` is let pass.
    """
    while hasattr(network, "network"):
        network = network.network
    if getattr(network, "label_drop", None) == 0:
        raise ConfigError(
            f"{type(network).__name__} was trained without label drop (label_drop is 0), so it does not know data of "
            "no class: train with network.init_args.label_drop 0.1, or leave --guidance at 1"
        )


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """``guided`` with an example's standard deviation moved by ``share`` towards that of ``conditional``."""
    if share == 0:
        return guided
    axes = tuple(range(1, guided.dim()))
    wanted, found = (x.std(axes, correction=0, keepdim=True) for x in (conditional, guided))
    return guided * (share * safe_divide(wanted, found) + 1 - share)
