"""The discrete wing: D3PM and what only it has.

A mirror of :mod:`d3pm.gaussian`; neither knows of the other. Samplers, guidance and constraints of categorical
data stand here, one idea a file.
"""

from d3pm.discrete.blocks import extend
from d3pm.discrete.classifier_guidance import ClassifierGuided
from d3pm.discrete.confidence import Confidence
from d3pm.discrete.constraints import Constrained
from d3pm.discrete.ddim import CategoricalDDIM
from d3pm.discrete.entropy_bounded import EntropyBounded
from d3pm.discrete.first_hitting import FirstHitting
from d3pm.discrete.greedy import Greedy
from d3pm.discrete.patterns import pattern
from d3pm.discrete.predictor_corrector import PredictorCorrector
from d3pm.discrete.process import DiscreteDiffusion
from d3pm.discrete.prompt_guidance import PromptGuidance
from d3pm.discrete.remasking import Remasking
from d3pm.discrete.table import TableDiffusion
from d3pm.discrete.tau_leaping import TauLeaping
from d3pm.discrete.truncation import Truncated
from d3pm.discrete.tweedie import Tweedie

__all__ = [
    "CategoricalDDIM",
    "ClassifierGuided",
    "Confidence",
    "Constrained",
    "DiscreteDiffusion",
    "EntropyBounded",
    "FirstHitting",
    "Greedy",
    "PredictorCorrector",
    "PromptGuidance",
    "Remasking",
    "TableDiffusion",
    "TauLeaping",
    "Truncated",
    "Tweedie",
    "extend",
    "pattern",
]
