"""Diffusion and flows: noise processes, the denoiser, samplers and likelihoods, on any backbone."""

from geomol.diffusion.bond_head import BondHead, pairs_of
from geomol.diffusion.cloud import Cloud, gaussian_cloud, zero_mean
from geomol.diffusion.coupling import optimal_transport
from geomol.diffusion.denoiser import Denoiser, Estimate
from geomol.diffusion.eps_model import EpsModel, EpsNetwork, eps_of_denoiser
from geomol.diffusion.fit import fit_backbone
from geomol.diffusion.levels import PROCESSES, Flow, Karras, Levels, Variational, build_levels, levels_config
from geomol.diffusion.likelihood import NLL, estimate_nll, nll_terms
from geomol.diffusion.loss import Clean, LossTerms, LossWeights, loss_terms, variational_terms
from geomol.diffusion.samplers import EVALUATIONS, SAMPLERS, Churn, Denoise
from geomol.diffusion.scaling import FeatureScaling, check_scaling
from geomol.diffusion.schedules import (
    LearnedSchedule,
    Schedule,
    TableSchedule,
    cosine_schedule,
    make_schedule,
    polynomial_schedule,
)
from geomol.diffusion.sizes import SizePrior
from geomol.diffusion.variational import Sampled, diffuse, final_step, reverse_step, sample_ancestral
from geomol.diffusion.variational_loss import TrainingTerms, draw_steps, training_terms

__all__ = [
    "EVALUATIONS",
    "NLL",
    "PROCESSES",
    "SAMPLERS",
    "BondHead",
    "Churn",
    "Clean",
    "Cloud",
    "Denoise",
    "Denoiser",
    "EpsModel",
    "EpsNetwork",
    "Estimate",
    "FeatureScaling",
    "Flow",
    "Karras",
    "LearnedSchedule",
    "Levels",
    "LossTerms",
    "LossWeights",
    "Sampled",
    "Schedule",
    "SizePrior",
    "TableSchedule",
    "TrainingTerms",
    "Variational",
    "build_levels",
    "check_scaling",
    "cosine_schedule",
    "diffuse",
    "draw_steps",
    "eps_of_denoiser",
    "estimate_nll",
    "final_step",
    "fit_backbone",
    "gaussian_cloud",
    "levels_config",
    "loss_terms",
    "make_schedule",
    "nll_terms",
    "optimal_transport",
    "pairs_of",
    "polynomial_schedule",
    "reverse_step",
    "sample_ancestral",
    "training_terms",
    "variational_terms",
    "zero_mean",
]
