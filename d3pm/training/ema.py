"""The exponential moving average of a model's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    r"""A copy of a model that follows it, :math:`\theta' \leftarrow d\,\theta' + (1 - d)\,\theta`.

    The decay is warmed up, :math:`d_n = \min(d, \frac{1 + n}{10 + n})` at step :math:`n`, so that short
    runs are not held back by their random first weights. There is no state besides the weights: ``n`` is the
    trainer's step, so a resumed run goes on exactly. Where both are divided among processes alike (see
    :mod:`d3pm.training.sharded`), each averages the part it holds.

    Args:
        model: The model to follow. Its copy is ``ema.model``, in evaluation mode and without gradients.
        decay: :math:`d`; 0 makes the copy equal to the model after every step.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.model: M = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow ``model`` after its optimizer step number ``step`` (0, 1, …)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(_held(self.model), _held(model), 1 - decay)
        for (name, kept), seen in zip(self.model.named_buffers(), model.buffers(), strict=True):
            if not name.startswith("constants."):  # a model's kernels: maybe large, and never trained
                kept.copy_(seen)


def _held(model: nn.Module) -> list[Tensor]:
    """What this process holds of each parameter."""
    return [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
