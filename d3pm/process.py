r"""The one interface: a process q destroys data step by step, and turns a belief into one step back.

The bound, the reverse loop, training, evaluation and saving are written against this class alone and serve
both wings. Times are int64 tensors (B,) in 0 … T with :math:`x_0` the data; steps are pairs s < t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from d3pm.data.base import Codec, DataSource
from d3pm.distributions import Distribution
from d3pm.specs import Part


class Process(Part, ABC):
    """A diffusion: no network and no hidden state inside.

    Attributes:
        num_steps: T.
        fractional: Whether times between whole steps have a meaning too; they are then float tensors.
        entrywise: Whether what a law says of an entry depends on what stands there alone, and in the same way
            everywhere, and costs no more if each entry is an example of its own.
    """

    num_steps: int
    fractional: ClassVar[bool] = False
    entrywise: bool = False

    @classmethod
    def example(cls) -> Sequence[Process]:
        """Small instances on which the contract tests run; none unless a process offers some."""
        return ()

    def __deepcopy__(self, memo: dict[int, object]) -> Process:
        """Itself: a process is a value, and copies of a model (such as the averaged one) share its tables."""
        return self

    @abstractmethod
    def prior(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Distribution:
        """:math:`p(x_T)` over a batch of the given shape."""

    @abstractmethod
    def marginal(self, x0: Tensor, t: Tensor) -> Distribution:
        r""":math:`q(x_t | x_0)`."""

    @abstractmethod
    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r""":math:`q(x_s | x_t, x_0)`, a point at :math:`x_0` for s = 0."""

    @abstractmethod
    def predict(self, output: Tensor, x_t: Tensor, t: Tensor) -> Distribution:
        r"""What the network's raw output says about :math:`x_0`."""

    @abstractmethod
    def reverse(self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r""":math:`p_\theta(x_s | x_t)`; the likelihood of the data at s = 0."""

    def predict_and_reverse(
        self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor
    ) -> tuple[Distribution, Distribution]:
        """What ``predict`` and ``reverse`` give; a process may let the two share their work."""
        return self.predict(output, x_t, t), self.reverse(output, x_t, s, t)

    def q_sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Corrupt the data: :math:`x_t \sim q(x_t | x_0)`."""
        return self.marginal(x0, t).sample(generator)

    def step(
        self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""One ancestral step, :math:`x_s \sim p_\theta(x_s | x_t)`; at s = 0 shown as the process prefers."""
        return self.reverse(output, x_t, s, t).sample(generator)

    def hold(
        self, x_s: Tensor, x0: Tensor, known: Tensor, s: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        r"""Put known data back into a sample on its way: noised to time s, or as the process prefers."""
        return torch.where(known, self.q_sample(x0, s, generator), x_s)

    def finished(self, x_t: Tensor) -> Tensor | None:
        """Rows that are what they will be, whatever a network says of them, bool (B,); None where that is never so."""
        return None

    def certain(self, x_t: Tensor, t: Tensor) -> Tensor | None:
        r"""Entries whose :math:`x_0` is plain from :math:`x_t`, bool (B, \*); None where there are none.

        Every loss is zero there, whatever a network says.
        """
        return None

    @property
    def doubt(self) -> float:
        """The expected share of entries that are not ``certain``, over all t = 1 … T; it rises with t."""
        return 1.0

    def suited(self, data: DataSource) -> Process:
        """The process with whatever was left open filled in from the data; itself where nothing was."""
        return self

    def check_network(self, network: torch.nn.Module, shape: Sequence[int]) -> None:
        """Refuse (ConfigError) a network that does not fit this process and data of this shape."""

    def check_codec(self, codec: Codec) -> None:
        """Refuse (ConfigError) data written in symbols that this process does not speak."""
