r"""Muon for the matrices inside a network's blocks, AdamW for everything else: one optimizer.

Muon replaces the averaged gradient of a matrix by the nearest matrix with orthonormal rows or columns, so that no
direction of its input is learned faster than another. It is meant for matrices between hidden layers; embeddings,
the head, convolutions, norms and biases stay with AdamW.

References:
    Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024; Liu et al., *Muon is Scalable for
    LLM Training*, 2025, section 2.2 (updates as large as AdamW's).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from d3pm.errors import ConfigError

FUSED = ("cpu", "cuda")
"""Where AdamW has a kernel that takes all parameters at once."""


class MuonAdamW(Optimizer):
    """Muon and AdamW under one roof: one list of groups, one state, one ``state_dict``.

    Each group says in ``by`` which of the two takes its steps, so that a schedule scales both rates and what is loaded
    from a checkpoint goes where it came from. AdamW's groups come first: theirs is the rate that logs show.

    Args:
        matrices: Groups for Muon: dicts with ``params``, all of them matrices, and options of ``torch.optim.Muon``.
        others: Groups for AdamW, with options of ``torch.optim.AdamW``.
    """

    def __init__(self, matrices: Iterable[dict[str, Any]], others: Iterable[dict[str, Any]]) -> None:
        parts = {"adamw": AdamW(others), "muon": torch.optim.Muon(matrices)}
        groups = [{**group, "by": name} for name, part in parts.items() for group in part.param_groups]
        super().__init__(groups, {"lr": groups[0]["lr"]})
        self.parts: dict[str, Optimizer] = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, part in self.parts.items():
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["by"] == name]
            part.step()
        return loss


def muon_adamw(
    model: nn.Module, rate: float, muon_rate: float | None, weight_decay: float, decayed: Collection[str]
) -> MuonAdamW:
    """The optimizer of a model: Muon for its hidden matrices, AdamW for the rest.

    Args:
        model: What is trained.
        rate: AdamW's learning rate.
        muon_rate: Muon's, in the same measure: its updates are as large as those of AdamW at this rate. ``rate`` if
            None.
        weight_decay: Decoupled, of both.
        decayed: Names of the parameters that decay.

    Raises:
        ConfigError: If there are no hidden matrices.
    """
    hidden = hidden_matrices(model)
    if not hidden:
        raise ConfigError(
            "training.optimizer is muon, but the network has no matrices inside a list of blocks: take adamw"
        )
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    fused = all(parameter.device.type in FUSED for parameter in trained.values())

    def group(*, muon: bool, decays: bool, **options: Any) -> dict[str, Any]:
        names = [name for name in trained if (name in hidden) == muon and (name in decayed) == decays]
        decay = weight_decay if decays else 0.0
        return {"params": [trained[name] for name in names], "weight_decay": decay, **options}

    matrices = [
        group(
            muon=True,
            decays=decays,
            lr=rate if muon_rate is None else muon_rate,
            adjust_lr_fn="match_rms_adamw",
        )
        for decays in (True, False)
    ]
    others = [group(muon=False, decays=decays, lr=rate, fused=fused) for decays in (True, False)]
    return MuonAdamW([each for each in matrices if each["params"]], others)


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights of linear layers inside lists of blocks.

    >>> blocks = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)])
    >>> hidden_matrices(nn.ModuleDict({"embedding": nn.Embedding(9, 4), "blocks": blocks, "head": nn.Linear(4, 9)}))
    {'blocks.0.weight'}
    """
    blocks = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and name.startswith(blocks)
    }
