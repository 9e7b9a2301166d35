r"""How fast the data is destroyed: :math:`\bar\alpha(u)`, the share that survives at time :math:`u = t/T`.

A schedule is a frozen value shared by both wings. In the discrete wing :math:`\bar\alpha_t` is the chance
that a token has not been resampled by step t; in the Gaussian wing it is the signal's share of the variance.
Tables are float64 with T+1 entries and :math:`\bar\alpha_0 = 1`.
"""

from d3pm.schedules.base import Schedule, betas_from, check_steps, survival
from d3pm.schedules.mutual_information import Erasure, MutualInformationSchedule
from d3pm.schedules.named import (
    CosineSchedule,
    LinearSchedule,
    PolynomialSchedule,
    ReciprocalSchedule,
    SigmoidSchedule,
    UnsquaredCosineSchedule,
    ZeroTerminalSNR,
)

__all__ = [
    "CosineSchedule",
    "Erasure",
    "LinearSchedule",
    "MutualInformationSchedule",
    "PolynomialSchedule",
    "ReciprocalSchedule",
    "Schedule",
    "SigmoidSchedule",
    "UnsquaredCosineSchedule",
    "ZeroTerminalSNR",
    "betas_from",
    "check_steps",
    "survival",
]
