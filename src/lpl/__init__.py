"""The latent perceptual loss for latent diffusion models, and the training, sampling and evaluation around it.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025 (arXiv 2411.04873).
"""

from .autoencoders import DecoderFeatures
from .diffusion import DDPM, FlowOT
from .losses import LatentPerceptualLoss, outlier_mask

__version__ = "0.1.0"

__all__ = ["DDPM", "DecoderFeatures", "FlowOT", "LatentPerceptualLoss", "outlier_mask"]
