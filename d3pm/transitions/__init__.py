"""The matrices Q: operators keep their structure, kernels say how data is destroyed; one kernel a file."""

from d3pm.transitions.absorbing import AbsorbingTransition
from d3pm.transitions.base import Transition
from d3pm.transitions.marginal import MarginalTransition
from d3pm.transitions.matrix import MatrixTransition
from d3pm.transitions.operators import DenseOperator, Operator, RankOneOperator
from d3pm.transitions.uniform import UniformTransition

__all__ = [
    "AbsorbingTransition",
    "DenseOperator",
    "MarginalTransition",
    "MatrixTransition",
    "Operator",
    "RankOneOperator",
    "Transition",
    "UniformTransition",
]
