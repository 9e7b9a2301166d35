"""Discrete-state diffusion (D3PM) for text and categorical data.

>>> import torch
>>> process = DiscreteDiffusion(UniformTransition(num_states=5, num_steps=100))
>>> x0, t = torch.zeros(2, 8, dtype=torch.int64), torch.tensor([50, 100])
>>> process.marginal(x0, t).probs.shape
torch.Size([2, 8, 5])
"""

from typing import TYPE_CHECKING, Any

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.objectives import vlb_terms
from d3pm.sampling import sample
from d3pm.transitions import AbsorbingTransition, MarginalTransition, MatrixTransition, UniformTransition

if TYPE_CHECKING:
    from d3pm.model import DiffusionModel

__all__ = [
    "AbsorbingTransition",
    "DiffusionModel",
    "DiscreteDiffusion",
    "MarginalTransition",
    "MatrixTransition",
    "UniformTransition",
    "sample",
    "vlb_terms",
]


def __getattr__(name: str) -> Any:
    """Import :class:`DiffusionModel` when asked for: transformers costs seconds."""
    if name == "DiffusionModel":
        from d3pm.model import DiffusionModel

        return DiffusionModel
    raise AttributeError(f"module 'd3pm' has no attribute {name!r}")
