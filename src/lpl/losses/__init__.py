"""Losses: the latent perceptual loss, its weight, and the losses and weightings that it is compared with."""

from .gate import GatedTerms
from .latent_lpips import LatentLPIPS
from .latent_vgg import LatentVGG
from .matching import VarianceMatchedWeight
from .normalization import NORMALIZATIONS
from .outliers import outlier_mask
from .perceptual import LatentPerceptualLoss, PerceptualTerms
from .self_perceptual import SelfPerceptualLoss
from .timesteps import gated_weights, min_snr_weights

__all__ = [
    "NORMALIZATIONS",
    "GatedTerms",
    "LatentLPIPS",
    "LatentPerceptualLoss",
    "LatentVGG",
    "PerceptualTerms",
    "SelfPerceptualLoss",
    "VarianceMatchedWeight",
    "gated_weights",
    "min_snr_weights",
    "outlier_mask",
]
