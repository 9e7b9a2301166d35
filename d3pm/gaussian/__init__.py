"""The Gaussian wing: DDPM and what only it has.

A mirror of :mod:`d3pm.discrete`; neither knows of the other. Samplers that read more than the reverse step (DDIM,
Heun, DPM-Solver++), losses on the noise, guidance by gradients and the view as a stochastic differential
equation stand here, one idea a file.
"""

from d3pm.gaussian.classifier_guidance import ClassifierGuidance, GuidedAncestral
from d3pm.gaussian.ddim import DDIM, invert, reconstruct, slerp
from d3pm.gaussian.dpm_solver import DPMSolver
from d3pm.gaussian.euler_maruyama import euler_maruyama
from d3pm.gaussian.heun import Heun
from d3pm.gaussian.levels import noise_levels
from d3pm.gaussian.likelihood import log_likelihood
from d3pm.gaussian.objectives import (
    ContinuousSimpleError,
    LearnedVarianceHybrid,
    MeanError,
    NoiseError,
    SimpleError,
)
from d3pm.gaussian.ode import ode_sample
from d3pm.gaussian.predictor_corrector import predictor_corrector
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.rate_distortion import RateDistortion, rate_distortion
from d3pm.gaussian.score import score_of
from d3pm.gaussian.sde import SDE, VESDE, VPSDE, SubVPSDE
from d3pm.gaussian.tabulated import TabulatedSchedule
from d3pm.gaussian.threshold import Clip, DynamicThreshold, Threshold

__all__ = [
    "DDIM",
    "SDE",
    "VESDE",
    "VPSDE",
    "ClassifierGuidance",
    "Clip",
    "ContinuousSimpleError",
    "DPMSolver",
    "DynamicThreshold",
    "GaussianDiffusion",
    "GuidedAncestral",
    "Heun",
    "LearnedVarianceHybrid",
    "MeanError",
    "NoiseError",
    "RateDistortion",
    "SimpleError",
    "SubVPSDE",
    "TabulatedSchedule",
    "Threshold",
    "euler_maruyama",
    "invert",
    "log_likelihood",
    "noise_levels",
    "ode_sample",
    "predictor_corrector",
    "rate_distortion",
    "reconstruct",
    "score_of",
    "slerp",
]
