"""Diffusion on discrete states (D3PM) and on real numbers (DDPM), behind one interface.

>>> import torch
>>> from d3pm import DiscreteDiffusion, UniformTransition
>>> process = DiscreteDiffusion(UniformTransition(num_states=5, num_steps=100))
>>> x0, t = torch.zeros(2, 8, dtype=torch.int64), torch.tensor([50, 100])
>>> process.marginal(x0, t).probs.shape
torch.Size([2, 8, 5])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d3pm.discrete.process import DiscreteDiffusion
    from d3pm.discrete.table import TableDiffusion
    from d3pm.gaussian.process import GaussianDiffusion
    from d3pm.model import DiffusionModel
    from d3pm.objectives import vlb_terms
    from d3pm.sampling import sample
    from d3pm.transitions import (
        AbsorbingTransition,
        BandDiagonalTransition,
        DiscretizedGaussianTransition,
        GeneratorTransition,
        HierarchicalTransition,
        HybridTransition,
        MarginalTransition,
        MatrixTransition,
        NearestNeighborTransition,
        SubstitutionTransition,
        UniformTransition,
    )

LAZY = {
    "DiffusionModel": "d3pm.model",
    "DiscreteDiffusion": "d3pm.discrete.process",
    "GaussianDiffusion": "d3pm.gaussian.process",
    "TableDiffusion": "d3pm.discrete.table",
    "sample": "d3pm.sampling",
    "vlb_terms": "d3pm.objectives",
}

__all__ = [
    "AbsorbingTransition",
    "BandDiagonalTransition",
    "DiffusionModel",
    "DiscreteDiffusion",
    "DiscretizedGaussianTransition",
    "GaussianDiffusion",
    "GeneratorTransition",
    "HierarchicalTransition",
    "HybridTransition",
    "MarginalTransition",
    "MatrixTransition",
    "NearestNeighborTransition",
    "SubstitutionTransition",
    "TableDiffusion",
    "UniformTransition",
    "sample",
    "vlb_terms",
]


def __getattr__(name: str) -> Any:
    """Import when asked for: torch costs seconds, and each wing stands without the other."""
    if name in __all__:
        return getattr(importlib.import_module(LAZY.get(name, "d3pm.transitions")), name)
    raise AttributeError(f"module 'd3pm' has no attribute {name!r}")
