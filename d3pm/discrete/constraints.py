"""Hard constraints: which states each entry of the data may take."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError, D3PMError
from d3pm.guidance import Around
from d3pm.objectives import Network
from d3pm.process import Process
from d3pm.transitions.base import Transition
from d3pm.transitions.rank_one import RankOneTransition


class Constrained(Around):
    r"""A network that believes only in data where entry i takes one of its allowed states :math:`A_i`.

    .. math:: \tilde p_A(x_0^i | x_t) \propto \tilde p(x_0^i | x_t)\, \mathbf 1[x_0^i \in A_i]

    Under every kernel :math:`x_0` satisfies the constraint, because the last step draws from the belief; the states
    on the way need not. Entries are conditioned one by one: a single one follows :math:`q(x_0 | x_0 \in A)` exactly
    (under the absorbing kernel, or in the mixture form, with an exact belief), but several do not follow
    :math:`q(x_0 | x_0 \in A_1 \times A_2 \cdots)`: what is revealed first does not weigh how well the rest can still
    meet its constraints. Revealed one at a time in a random order :math:`\sigma`, the law is

    .. math:: \mathrm E_\sigma \prod_j
              \frac{q(x^{\sigma_j} | x^{\sigma_1} \ldots x^{\sigma_{j-1}})\, \mathbf 1[x^{\sigma_j} \in A_{\sigma_j}]}
                   {q(A_{\sigma_j} | x^{\sigma_1} \ldots x^{\sigma_{j-1}})}

    and likewise in the limit of many steps. Entries with one state left are a prompt: under the absorbing kernel the
    network sees them as if they were revealed already, so what they say about the others is never lost, and
    the product is over the rest alone.

    A kernel that moves by small steps may not lead from an allowed state to :math:`x_t`. Every step draws what one
    of the allowed states can have led to, so this happens only where the start is out of reach of all of them, in a
    chain too short to mix; then there is no such data, and the first call says so.

    Args:
        process: A :class:`DiscreteDiffusion`.
        network: Gives the logits; other wrappers go inside, :class:`~d3pm.discrete.truncation.Truncated` outside.
        allowed: bool (\*, K) for the entries (\*) of one sample, or (1, \*, K).

    Raises:
        ConfigError: If ``allowed`` is not bool or has not K states, or an entry has none left (the absorbing state
            does not count); when called, if the shape is not that of a sample.
        D3PMError: When called, if no allowed state can have led to :math:`x_t`, or the network rules all of them out.

    >>> from d3pm import AbsorbingTransition
    >>> process = DiscreteDiffusion(AbsorbingTransition(num_states=4, num_steps=10))
    >>> allowed = torch.tensor([[True, False, True, False]])
    >>> network = Constrained(process, lambda x_t, t: torch.zeros(*x_t.shape, 4), allowed)
    >>> network(torch.tensor([[3]]), torch.tensor([10]))
    tensor([[[0., -inf, 0., -inf]]])
    """

    cuts: ClassVar[bool] = True

    def __init__(self, process: Process, network: Network, allowed: Tensor) -> None:
        if not isinstance(process, DiscreteDiffusion):
            raise ConfigError(
                f"Constrained serves a DiscreteDiffusion, the process is a {type(process).__name__}: sample it "
                "without constraints"
            )
        if isinstance(network, Truncated):
            raise ConfigError(
                "network is Truncated, which may have cut what is allowed: put Truncated around Constrained"
            )
        states = _checked(process.transition, allowed)
        self.process, self.network, self.allowed = process, network, allowed
        self._only = torch.where(states.sum(-1) == 1, states.long().argmax(-1), -1)

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Logits (B, \\*, K), minus infinity where a state is not allowed."""
        allowed = self._for(x_t)
        logits = self.network(self._foreseen(x_t), t, **cond)
        if not isinstance(self.process.transition, RankOneTransition):  # there, everything leads to the noise
            _check_reach(self.process.transition, allowed, x_t, t)
        return _some_left(logits.masked_fill(~allowed, -torch.inf))

    def _foreseen(self, x_t: Tensor) -> Tensor:
        """Under the absorbing kernel, x_t with those masks lifted that hide what can be but one state."""
        mask = self.process.transition.absorbing_state
        if not self.process.transition.masks_only:
            return x_t
        only = self._only.to(x_t.device)
        return torch.where((x_t == mask) & (only >= 0), only, x_t)

    def _for(self, x_t: Tensor) -> Tensor:
        given, wanted = tuple(self.allowed.shape), (*x_t.shape[1:], self.process.num_states)
        if given not in (wanted, (1, *wanted)):
            raise ConfigError(f"allowed has shape {given}, a sample and its states {wanted}: make them equal")
        return self.allowed.to(x_t.device)


def _checked(transition: Transition, allowed: Tensor) -> Tensor:
    """The states that data may take, bool in the shape of ``allowed``."""
    if allowed.dtype != torch.bool:
        raise ConfigError(f"allowed is {allowed.dtype}: give bool, true for the states an entry may take")
    if allowed.dim() < 2 or allowed.shape[-1] != transition.num_states:
        raise ConfigError(
            f"allowed has shape {tuple(allowed.shape)}: give (entries of a sample, K={transition.num_states} states)"
        )
    states = allowed.clone()
    if transition.mask_state is not None:
        states[..., transition.mask_state] = False
    empty = (~states.any(-1)).nonzero()
    if len(empty):
        besides = "" if transition.mask_state is None else " besides the mask"
        raise ConfigError(
            f"allowed leaves entry {empty[0].tolist()} no state{besides}: allow it one at least"
        )
    return states


def _some_left(logits: Tensor) -> Tensor:
    """The logits themselves, refused where no state is left: what would be drawn from them is none."""
    lost = (~(logits > -torch.inf).any(-1)).nonzero()
    if len(lost):
        raise D3PMError(
            f"the network believes in no allowed state of entry {lost[0].tolist()}: allow others, or have it give "
            "them finite logits"
        )
    return logits


def _check_reach(transition: Transition, allowed: Tensor, x_t: Tensor, t: Tensor) -> None:
    """Refuse an x_t that no allowed state can have led to; O(K) an entry."""
    possible = transition.between(torch.zeros_like(t), t).cols(x_t) > 0
    lost = (~(possible & allowed).any(-1)).nonzero()
    if len(lost):
        entry = tuple(lost[0].tolist())
        raise D3PMError(
            f"no allowed state of entry {list(entry)} can have led to x_t={int(x_t[entry])} at t={int(t[entry[0]])} "
            f"under {type(transition).__name__}: allow states nearer to it, or take a kernel that mixes further"
        )
