"""Losses: the latent perceptual loss, its weight, and weightings over timesteps that it is compared with."""

from .matching import VarianceMatchedWeight
from .normalization import NORMALIZATIONS
from .outliers import outlier_mask
from .perceptual import LatentPerceptualLoss, PerceptualTerms
from .timesteps import gated_weights, min_snr_weights

__all__ = [
    "NORMALIZATIONS",
    "LatentPerceptualLoss",
    "PerceptualTerms",
    "VarianceMatchedWeight",
    "gated_weights",
    "min_snr_weights",
    "outlier_mask",
]
