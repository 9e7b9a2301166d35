"""How good a model is: the bound on its bits per dimension and the entropy it must beat, or its accuracy.

Also how close what it draws comes to what is real: :func:`table_quality`, :func:`text_quality`,
:func:`picture_quality`; by the number of network calls: :func:`quality_curve`.
"""

from d3pm.evaluation.accuracy import AccuracyReport, estimate_accuracy
from d3pm.evaluation.bound import BoundReport, estimate_bound
from d3pm.evaluation.by_time import ByTime, bound_by_time
from d3pm.evaluation.examples import evenly
from d3pm.evaluation.features import ClassifierFeatures, Features, InceptionFeatures, PixelFeatures
from d3pm.evaluation.frechet import frechet
from d3pm.evaluation.judge import judge
from d3pm.evaluation.language_model import LanguageModel, LanguageScore
from d3pm.evaluation.picture_quality import PictureJudge, PictureNumbers, PictureQuality, picture_quality
from d3pm.evaluation.quality_curve import QualityCurve, quality_curve
from d3pm.evaluation.report import Report
from d3pm.evaluation.table_quality import TableQuality, table_quality
from d3pm.evaluation.text_quality import TextJudge, TextNumbers, TextQuality, TextReference, text_quality
from d3pm.evaluation.unigram import unigram_entropy

__all__ = [
    "AccuracyReport",
    "BoundReport",
    "ByTime",
    "ClassifierFeatures",
    "Features",
    "InceptionFeatures",
    "LanguageModel",
    "LanguageScore",
    "PictureJudge",
    "PictureNumbers",
    "PictureQuality",
    "PixelFeatures",
    "QualityCurve",
    "Report",
    "TableQuality",
    "TextJudge",
    "TextNumbers",
    "TextQuality",
    "TextReference",
    "bound_by_time",
    "estimate_accuracy",
    "estimate_bound",
    "evenly",
    "frechet",
    "judge",
    "picture_quality",
    "quality_curve",
    "table_quality",
    "text_quality",
    "unigram_entropy",
]
