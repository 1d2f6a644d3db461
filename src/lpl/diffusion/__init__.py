"""Paths from data to noise, samplers along them, and guidance."""

from .paths import DDPM, DiffusionPath, FlowOT, make_path
from .schedulers import coefficients, predicted_latent

__all__ = ["DDPM", "DiffusionPath", "FlowOT", "coefficients", "make_path", "predicted_latent"]
