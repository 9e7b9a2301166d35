"""One question for every model: what is it worth on held-out data?"""

from typing import Any

from torch.utils.data import Dataset

from d3pm.evaluation.accuracy import estimate_accuracy
from d3pm.evaluation.bound import estimate_bound
from d3pm.evaluation.report import Report
from d3pm.model import DiffusionModel


def judge(model: DiffusionModel, data: Dataset, **options: Any) -> Report:
    """The bound for a model of the data, the accuracy for a classifier of it: its objective says which it is.

    Options are those of :func:`estimate_bound`.
    """
    estimate = estimate_accuracy if model.objective.classifies else estimate_bound
    return estimate(model, data, **options)
