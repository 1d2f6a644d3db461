"""Losses: the latent perceptual loss, what it is compared with, and weightings over timesteps."""

from .normalization import NORMALIZATIONS
from .outliers import outlier_mask
from .perceptual import LatentPerceptualLoss, PerceptualTerms

__all__ = ["NORMALIZATIONS", "LatentPerceptualLoss", "PerceptualTerms", "outlier_mask"]
