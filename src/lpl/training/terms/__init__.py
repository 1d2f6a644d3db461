"""Perceptual terms: losses on ẑ0 that are added to the diffusion loss.

One file a kind. A further kind is a section of the recipe (`lpl.objective_sections`), one class here that is made from
that section and `TermParts`, and one line in `PERCEPTUAL_TERMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...config import (
    CustomTermConfig,
    LatentLPIPSConfig,
    PerceptualConfig,
    PerceptualTermConfig,
    SelfPerceptualConfig,
)
from .base import LatentPrediction, PerceptualTerm, TermError, TermParts, Terms, TermValues, TrainingBatch
from .custom import CustomTerm
from .latent_lpips import LatentLPIPSTerm
from .latent_perceptual import LatentPerceptualTerm
from .self_perceptual import SelfPerceptualTerm

# By the recipe's section that describes them.
PERCEPTUAL_TERMS: dict[type[PerceptualTermConfig], Callable[[Any, TermParts], PerceptualTerm]] = {
    PerceptualConfig: LatentPerceptualTerm,
    LatentLPIPSConfig: LatentLPIPSTerm,
    SelfPerceptualConfig: SelfPerceptualTerm,
    CustomTermConfig: CustomTerm,
}

__all__ = [
    "PERCEPTUAL_TERMS",
    "LatentPrediction",
    "PerceptualTerm",
    "TermError",
    "TermParts",
    "TermValues",
    "Terms",
    "TrainingBatch",
]
