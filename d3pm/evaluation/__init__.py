"""How good a model is: the bound on its bits per dimension, and the entropy it must beat."""

from d3pm.evaluation.bound import BoundReport, estimate_bound, evenly
from d3pm.evaluation.unigram import unigram_entropy

__all__ = ["BoundReport", "estimate_bound", "evenly", "unigram_entropy"]
