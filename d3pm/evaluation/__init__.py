"""How good a model is: the bound on its bits per dimension and the entropy it must beat, or its accuracy.

Of tables also how close what it draws comes to real rows: :func:`table_quality`.
"""

from d3pm.evaluation.accuracy import AccuracyReport, estimate_accuracy
from d3pm.evaluation.bound import BoundReport, estimate_bound
from d3pm.evaluation.by_time import ByTime, bound_by_time
from d3pm.evaluation.examples import evenly
from d3pm.evaluation.judge import judge
from d3pm.evaluation.report import Report
from d3pm.evaluation.table_quality import TableQuality, table_quality
from d3pm.evaluation.unigram import unigram_entropy

__all__ = [
    "AccuracyReport",
    "BoundReport",
    "ByTime",
    "Report",
    "TableQuality",
    "bound_by_time",
    "estimate_accuracy",
    "estimate_bound",
    "evenly",
    "judge",
    "table_quality",
    "unigram_entropy",
]
