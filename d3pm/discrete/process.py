"""D3PM: a categorical diffusion from any transition."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.distributions import Categorical
from d3pm.errors import ConfigError, D3PMError
from d3pm.process import Process
from d3pm.transitions.absorbing import AbsorbingTransition
from d3pm.transitions.base import ReverseForm, Transition
from d3pm.transitions.matrix import MatrixTransition
from d3pm.transitions.uniform import UniformTransition


class DiscreteDiffusion(Process):
    r"""Diffusion on int64 states (B, \*) under a transition; the network's output is logits (B, \*, K).

    The belief :math:`\tilde p(x_0 | x_t)` is a softmax over the states data can take and that can have led to
    :math:`x_t`; the reverse step is built from it in one of two named forms, both the belief itself at s = 0:

    - ``"d3pm"``: :math:`p(x_s | x_t) \propto \sum_x q(x_s, x_t | x)\, \tilde p(x)`, eq. 4 of the paper;
    - ``"mixture"``: :math:`\sum_x q(x_s | x_t, x)\, \tilde p(x)`, the exact reverse step of an exact belief.

    They agree for the absorbing kernel and differ for the others, so the form is saved with a model. Laws of
    q alone are float64; what involves the output has its dtype, float32 at least.

    Args:
        transition: The kernel.
        reverse_form: ``"d3pm"`` or ``"mixture"``.
        checked: Whether ``posterior`` refuses a pair that cannot occur; otherwise it is undefined there. None
            checks on the CPU only: elsewhere the check would make the device wait for the host.

    Raises:
        ConfigError: If the form is neither.

    References:
        Austin et al., 2021, sections 2 and 3.

    >>> process = DiscreteDiffusion(AbsorbingTransition(num_states=4, num_steps=10))
    >>> x0, t = torch.tensor([[0, 1, 2]]), torch.tensor([10])
    >>> process.q_sample(x0, t)
    tensor([[3, 3, 3]])
    """

    def __init__(
        self, transition: Transition, reverse_form: ReverseForm = "d3pm", checked: bool | None = None
    ) -> None:
        if reverse_form not in ("d3pm", "mixture"):
            raise ConfigError(f"reverse_form is {reverse_form!r}: choose 'd3pm' or 'mixture'")
        self.transition = transition
        self.reverse_form: ReverseForm = reverse_form
        self.checked = checked
        self.num_steps = transition.num_steps
        self.num_states = transition.num_states
        self.entrywise = transition.entrywise

    @classmethod
    def example(cls) -> Sequence[DiscreteDiffusion]:
        """Structured and dense kernels in both forms; in the last, masks are not the only noise."""
        kernels = [kind.example(4, 5) for kind in (AbsorbingTransition, UniformTransition, MatrixTransition)]
        kernels.append(MatrixTransition(_masks_and_noise(5)))
        return [cls(kernel, form) for kernel in kernels for form in ("d3pm", "mixture")]

    def prior(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Categorical:
        """See the base class: the stationary law at every entry."""
        return self.transition.prior(tuple(shape), torch.device(device))

    def marginal(self, x0: Tensor, t: Tensor) -> Categorical:
        """See the base class."""
        return self.transition.marginal(x0, t)

    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Categorical:
        """See the base class.

        Raises:
            D3PMError: In checked mode, if :math:`q(x_t | x_0) = 0` somewhere: such a pair has no posterior.
        """
        if self.checked or (
            self.checked is None and x_t.device.type == "cpu" and not torch.compiler.is_compiling()
        ):
            self._check_reachable(x0, x_t, t)
        return self.transition.posterior(x0, x_t, s, t)

    def predict(self, output: Tensor, x_t: Tensor, t: Tensor) -> Categorical:
        """See the base class: the belief."""
        return self.transition.belief(output, x_t, t)

    def reverse(self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Categorical:
        """See the base class."""
        return self.transition.reverse(output, x_t, s, t, self.reverse_form)

    def predict_and_reverse(
        self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor
    ) -> tuple[Categorical, Categorical]:
        """See the base class: the belief that a reverse step was made from, which remembers what it worked out."""
        reverse = self.reverse(output, x_t, s, t)
        return getattr(reverse, "belief", None) or self.predict(output, x_t, t), reverse

    def q_sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class; O(1) a token and no (B, \\*, K) tensor where the kernel's structure allows."""
        if x0.is_floating_point():
            raise D3PMError(f"x0 is {x0.dtype}: a DiscreteDiffusion is of states, give whole numbers")
        return self.transition.from_start(t).sample(x0, generator)

    def hold(
        self, x_s: Tensor, x0: Tensor, known: Tensor, s: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See the base class; where noise is masks alone, known entries stand unmasked from the start."""
        if self.transition.masks_only:
            return torch.where(known, x0, x_s)
        return super().hold(x_s, x0, known, s, generator)

    def finished(self, x_t: Tensor) -> Tensor | None:
        """See the base class: rows without a mask, where noise is masks alone."""
        mask = self.transition.absorbing_state
        if mask is None or not self.transition.masks_only:
            return None
        return (x_t != mask).reshape(len(x_t), -1).all(1)

    def certain(self, x_t: Tensor, t: Tensor) -> Tensor | None:
        """See the base class: what is not masked, where noise is masks alone."""
        mask = self.transition.absorbing_state
        return x_t != mask if mask is not None and self.transition.masks_only else None

    @cached_property
    def doubt(self) -> float:  # type: ignore[override] # a number, reckoned once
        """See the base class: the mean chance to be masked."""
        if not isinstance(self.transition, AbsorbingTransition):
            return 1.0
        return float((1 - self.transition.alpha_bars.values[1:]).mean())

    def check_network(self, network: torch.nn.Module, shape: Sequence[int]) -> None:
        """Refuse a network that speaks of another number of states."""
        given = getattr(network, "num_states", None)
        if given is not None and given != self.num_states:
            raise ConfigError(
                f"network.num_states is {given}, the transition has num_states={self.num_states}: make them equal"
            )

    def check_codec(self, codec: Codec) -> None:
        """Refuse data whose symbols are not the kernel's states, a mask of the kernel's own aside."""
        if codec.real:
            raise ConfigError(
                "process is a DiscreteDiffusion, but the data are real numbers: take a GaussianDiffusion, or symbols "
                "(of pictures: data.discrete true)"
            )
        symbols, mask = codec.num_symbols, self.transition.mask_state
        wanted = symbols + (mask is not None and mask != _own_mask(codec))
        if self.num_states != wanted:
            sized = "num_states" in inspect.signature(type(self.transition)).parameters
            remedy = f"set num_states to {wanted}" if sized else f"give the kernel {wanted} states"
            raise ConfigError(
                f"process: num_states is {self.num_states}, but the data has {symbols} symbols"
                f"{' and the kernel a mask' if mask is not None else ''}: {remedy}"
            )
        if mask is not None and wanted > symbols != mask:
            raise ConfigError(
                f"process: mask_index is {mask}, which the data uses: leave it at -1, the last state"
            )

    def _check_reachable(self, x0: Tensor, x_t: Tensor, t: Tensor) -> None:
        reachable = self.transition.reachable(x0, x_t, t)
        if not bool(reachable.all()):
            entry = tuple((~reachable).nonzero()[0].tolist())
            raise D3PMError(
                f"posterior: x_t={int(x_t[entry])} cannot come from x_0={int(x0[entry])} at t={int(t[entry[0]])} "
                f"(entry {list(entry)}): draw x_t with q_sample from the same x_0 and t"
            )


def _masks_and_noise(num_steps: int) -> Tensor:
    """Steps on three symbols and a mask that swallows them, while they turn into each other too, (T, 4, 4)."""
    step = torch.tensor(
        [[0.6, 0.2, 0.0, 0.2], [0.1, 0.6, 0.1, 0.2], [0.1, 0.1, 0.6, 0.2], [0.0, 0.0, 0.0, 1.0]]
    )
    last = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(4, 4)
    return torch.stack([step] * (num_steps - 1) + [last]).double()


def _own_mask(codec: Codec) -> int | None:
    """The mask that is among the codec's symbols already: that of a tokenizer made for masked language models."""
    return getattr(getattr(codec, "tokenizer", None), "mask_token_id", None)
