"""The matrices Q: operators keep their structure, kernels say how data is destroyed; one kernel a file."""

from d3pm.transitions.absorbing import AbsorbingTransition
from d3pm.transitions.band_diagonal import BandDiagonalTransition
from d3pm.transitions.base import Transition
from d3pm.transitions.discretized_gaussian import DiscretizedGaussianTransition
from d3pm.transitions.generator import GeneratorTransition
from d3pm.transitions.hierarchical import HierarchicalTransition
from d3pm.transitions.hybrid import HybridTransition
from d3pm.transitions.information import retained
from d3pm.transitions.marginal import MarginalTransition
from d3pm.transitions.matrix import MatrixTransition
from d3pm.transitions.nearest_neighbor import NearestNeighborTransition
from d3pm.transitions.operators import DenseOperator, Operator, RankOneOperator
from d3pm.transitions.substitution import SubstitutionTransition
from d3pm.transitions.toeplitz import ToeplitzOperator
from d3pm.transitions.uniform import UniformTransition

__all__ = [
    "AbsorbingTransition",
    "BandDiagonalTransition",
    "DenseOperator",
    "DiscretizedGaussianTransition",
    "GeneratorTransition",
    "HierarchicalTransition",
    "HybridTransition",
    "MarginalTransition",
    "MatrixTransition",
    "NearestNeighborTransition",
    "Operator",
    "RankOneOperator",
    "SubstitutionTransition",
    "ToeplitzOperator",
    "Transition",
    "UniformTransition",
    "retained",
]
