"""Discrete-state diffusion (D3PM) for text and categorical data."""

from d3pm.transitions import AbsorbingTransition, MarginalTransition, MatrixTransition, UniformTransition
from d3pm.discrete.process import DiscreteDiffusion

__all__ = ["AbsorbingTransition", "DiscreteDiffusion", "MarginalTransition", "MatrixTransition", "UniformTransition"]
