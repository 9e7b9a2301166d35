"""Whether drawn rows teach a classifier what real rows would: train on synthetic, test on real (TSTR)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

MOST_CATEGORIES = 255
"""Columns of more symbols are handed to the classifier as amounts."""


@dataclass(frozen=True)
class Score:
    """How well a classifier does on real rows.

    Attributes:
        accuracy: Share of right answers.
        auc: Area under the ROC curve, 0.5 for one that knows nothing; NaN unless the real rows have two classes.
    """

    accuracy: float
    auc: float


def tstr(
    train: Tensor,
    test: Tensor,
    target: int,
    cardinalities: Sequence[int],
    ordered: Sequence[bool] | None = None,
    seed: int = 0,
) -> Score:
    """Train a classifier of column ``target`` on ``train``, and test it on ``test``.

    The classifier is scikit-learn's ``HistGradientBoostingClassifier`` as it comes, without early stopping; it
    sees every other column as a category, or as an amount where the column is ordered. It does better with more
    rows, so that only tables of equally many rows should be compared.

    Args:
        train: Symbols, int64 (N, C): drawn rows, or real ones for the score to compare with.
        test: Symbols of real rows, int64 (M, C).
        target: Which column to predict.
        cardinalities: How many symbols each column has.
        ordered: Whether the symbols of a column are in order; none are if not given.
        seed: Of the classifier.

    References:
        Esteban, Hyland and Rätsch, *Real-valued (Medical) Time Series Generation with Recurrent Conditional
        GANs*, 2017, section 4.2.
    """
    keep = [column for column in range(train.shape[1]) if column != target]
    x, y = train[:, keep].numpy(), train[:, target].numpy()
    truth = test[:, target].numpy()
    classes = np.unique(y)
    if len(classes) == 1 or not keep:
        return Score(float((truth == np.bincount(y).argmax()).mean()), 0.5)  # nothing to learn
    by_amount = ordered or [False] * train.shape[1]
    categories = [not by_amount[c] and cardinalities[c] <= MOST_CATEGORIES for c in keep]
    belief = _fitted(x, y, categories, seed).predict_proba(test[:, keep].numpy())
    return Score(float((classes[belief.argmax(1)] == truth).mean()), _auc(belief, classes, truth))


def _fitted(x: np.ndarray, y: np.ndarray, categories: list[bool], seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    classifier = HistGradientBoostingClassifier(
        categorical_features=categories, early_stopping=False, random_state=seed
    )
    return classifier.fit(x, y)


def _auc(belief: np.ndarray, classes: np.ndarray, truth: np.ndarray) -> float:
    """Of two classes in ``truth``, by how likely the second of them is beside the first."""
    from sklearn.metrics import roc_auc_score

    found = np.unique(truth)
    if len(found) != 2:
        return math.nan
    likely = [belief[:, classes == label].sum(1) for label in found]  # 0 for a class never seen
    return float(roc_auc_score(truth == found[1], likely[1] - likely[0]))
