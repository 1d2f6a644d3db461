"""The latent perceptual loss for latent diffusion models, and the training, sampling and evaluation around it.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025 (arXiv 2411.04873).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autoencoders import DecoderFeatures
    from .diffusion import DDPM, FlowOT
    from .losses import LatentPerceptualLoss, outlier_mask

__version__ = "0.1.0"

__all__ = ["DDPM", "DecoderFeatures", "FlowOT", "LatentPerceptualLoss", "outlier_mask"]

_HOMES = {
    "DDPM": "diffusion",
    "DecoderFeatures": "autoencoders",
    "FlowOT": "diffusion",
    "LatentPerceptualLoss": "losses",
    "outlier_mask": "losses",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: the command line's help need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
