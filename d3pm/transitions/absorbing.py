"""Mask diffusion."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from d3pm.errors import ConfigError
from d3pm.schedules import ReciprocalSchedule, Schedule
from d3pm.transitions.base import ReverseForm
from d3pm.transitions.belief import Belief
from d3pm.transitions.laws import PointLaw
from d3pm.transitions.operators import expand
from d3pm.transitions.rank_one import RankOneTransition
from d3pm.transitions.reveal import Reveal


class AbsorbingTransition(RankOneTransition):
    r"""Mask diffusion: each token jumps to the mask :math:`m` and stays there.

    .. math::
        Q_t = (1 - \beta_t)\, I + \beta_t\, \mathbf{1} e_m^\top, \qquad
        Q_{s+1} \cdots Q_t = a\, I + (1 - a)\, \mathbf{1} e_m^\top, \quad a = \bar\alpha_t / \bar\alpha_s

    A masked token is revealed between t and s at the rate :math:`(\bar\alpha_s - \bar\alpha_t)/(1 - \bar\alpha_t)`,
    drawn from the belief; an unmasked one is certain. Both reverse forms agree. No matrix is stored:
    corruption costs O(1) a token, the bound one cross-entropy over the masked tokens. The stationary law is
    :math:`e_m`, reached exactly iff :math:`\beta_T = 1`; otherwise the prior's part of the bound is infinite.

    Args:
        num_states: :math:`K`, the mask included, at least 2.
        num_steps: T, at least 1.
        schedule: How fast; :math:`\beta_t = 1/(T - t + 1)` by default.
        mask_index: Which state is the mask; counted from the end if negative.

    Raises:
        ConfigError: If ``mask_index`` is not a state. The message names the range.

    References:
        Austin et al., *Structured Denoising Diffusion Models in Discrete State-Spaces*, 2021, section 3.1.

    >>> AbsorbingTransition(num_states=128_000, num_steps=1000).absorbing_state
    127999
    """

    masks_only: ClassVar[bool] = True

    def __init__(
        self, num_states: int, num_steps: int, schedule: Schedule | None = None, mask_index: int = -1
    ) -> None:
        if num_states < 2:
            raise ConfigError(
                f"num_states is {num_states}: mask diffusion needs the mask and at least 1 symbol"
            )
        if not -num_states <= mask_index < num_states:
            raise ConfigError(f"mask_index is {mask_index}: choose one of {-num_states} .. {num_states - 1}")
        self.mask_index = mask_index
        self.mask = mask_index % num_states
        super().__init__(PointLaw(num_states, self.mask), num_steps, schedule or ReciprocalSchedule())
        self.law: PointLaw

    def _reveal_rate(self, s: Tensor, t: Tensor, like: Tensor) -> Tensor:
        before, after = self.alpha_bars[s], self.alpha_bars[t]
        lost = (1 - after).clamp_(min=torch.finfo(torch.float64).tiny)  # where it is 0, so is what is divided
        return expand((before - after).div_(lost), like)

    def prior(self, shape: tuple[int, ...], device: torch.device) -> Reveal:  # type: ignore[override]
        """See the base class; all mask."""
        masks = torch.full(shape, self.mask, device=device)
        never = torch.zeros((1,) * len(shape), dtype=torch.float64, device=device)
        return Reveal(self.law, masks, never, masks)

    def marginal(self, x0: Tensor, t: Tensor) -> Reveal:  # type: ignore[override]
        """See the base class; the token with chance alpha-bar, else the mask."""
        masks = torch.full_like(x0, self.mask)
        return Reveal(self.law, masks, expand(self.alpha_bars[t], x0), x0)

    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Reveal:  # type: ignore[override]
        """See the base class; a masked token is revealed as the data, an unmasked one stays."""
        return Reveal(self.law, x_t, self._reveal_rate(s, t, x_t), x0, (s, t))

    def belief(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Belief:
        """See the base class; certain where unmasked, and never the mask."""
        return Belief(logits, x_t, known=x_t != self.mask, excluded=self.mask)

    def reverse(  # type: ignore[override]
        self, logits: Tensor, x_t: Tensor, s: Tensor, t: Tensor, form: ReverseForm
    ) -> Reveal:
        """See the base class; the same in both forms."""
        rate, belief = self._reveal_rate(s, t, x_t), self.belief(logits, x_t, t)
        return Reveal(self.law, x_t, rate, belief, (s, t))
