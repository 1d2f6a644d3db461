"""The ways of shrinking and enlarging that Figure 11 compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders import Autoencoder
from .damage import SSIM_WINDOW
from .inputs import AnalysisError

Method = Literal["pixel-bilinear", "latent-nearest", "latent-bilinear", "latent-bicubic"]

METHODS: tuple[Method, ...] = ("pixel-bilinear", "latent-nearest", "latent-bilinear", "latent-bicubic")
SCALES = (1.3, 1.5, 2.0, 3.0, 4.0)
SMALLEST = 2  # positions a side left of a latent: fewer have nothing to interpolate between


@dataclass(frozen=True)
class Variant:
    """One way of shrinking and enlarging.

    Attributes:
        method: in pixels or latents, and the interpolation.
        scale: s asked for.
        side: pixels or latent positions a side after shrinking, the side over s, rounded.
    """

    method: Method
    scale: float
    side: int

    @property
    def name(self) -> str:
        """For files and messages."""
        return f"{self.method}-{self.scale:g}"


def plan_variants(
    latent_side: int, resolution: int, scales: Sequence[float], methods: Sequence[Method] = METHODS
) -> tuple[Variant, ...]:
    """The variants to make, once every scale is known to make sense for images of this size.

    Raises:
        AnalysisError: no scale, one twice, a scale of 1 or less, one that leaves the latent as it is or fewer than 2
            positions a side, or images too small to be judged.
    """
    if not scales:
        raise AnalysisError("scales: got none, takes numbers above 1, such as 1.5 2 4")
    for scale in scales:
        if scales.count(scale) > 1:
            raise AnalysisError(f"scales: got {scale:g} more than once")
    if resolution < SSIM_WINDOW:
        raise AnalysisError(f"resolution: got {resolution}, structural similarity needs {SSIM_WINDOW} pixels or more")
    for scale in scales:
        _check_scale(scale, latent_side, resolution)
    sides = {method: resolution if method == "pixel-bilinear" else latent_side for method in methods}
    return tuple(Variant(method, scale, round(sides[method] / scale)) for method in methods for scale in scales)


def _check_scale(scale: float, latent_side: int, resolution: int) -> None:
    if not scale > 1:
        raise AnalysisError(f"scales: got {scale:g}, takes numbers above 1: images are shrunk by 1/s")
    shrunk, factor = round(latent_side / scale), resolution // latent_side
    if shrunk < SMALLEST:
        needed = int(np.ceil((SMALLEST - 0.5) * scale)) * factor
        raise AnalysisError(
            f"scales: images of {resolution}×{resolution} pixels are too small for s = {scale:g}: their latents, "
            f"{latent_side}×{latent_side}, would keep {shrunk}×{shrunk} positions; take s of at most "
            f"{latent_side / SMALLEST:g}, or images of about {needed} pixels a side"
        )
    if shrunk == latent_side:
        raise AnalysisError(
            f"scales: s = {scale:g} leaves latents of {latent_side}×{latent_side} as they are; take a larger s or "
            "larger images"
        )


def shrink_and_enlarge(values: Tensor, side: int, mode: str) -> Tensor:
    """Resizes (B, C, H, W) to side×side and back, with plain interpolation: corners not aligned, no antialiasing."""
    options = {} if mode == "nearest" else {"align_corners": False}
    small = F.interpolate(values, size=(side, side), mode=mode, **options)
    return F.interpolate(small, size=values.shape[-2:], mode=mode, **options)


def degrade(autoencoder: Autoencoder, images: Tensor, latents: Tensor, variant: Variant) -> Tensor:
    """The latents of a variant, (B, C, h, w); images that were shrunk as pixels are encoded again."""
    space, mode = variant.method.split("-")
    if space == "pixel":
        return autoencoder.encode(shrink_and_enlarge(images, variant.side, mode))[0]
    return shrink_and_enlarge(latents, variant.side, mode)
