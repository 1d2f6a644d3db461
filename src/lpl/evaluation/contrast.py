"""Contrast and saturation: whether samples are harsher or more colourful than the data.

Perceptual losses leave the posterior mean, which sharpens, and can over-contrast; a mean over images shows it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_images

REC709 = (0.2126, 0.7152, 0.0722)  # weights of red, green and blue in luma, ITU-R BT.709


def luminance(images: Tensor) -> Tensor:
    """BT.709 luma of images (B, 3, H, W) in [-1, 1]: (B, H, W) in [0, 1]."""
    weights = torch.tensor(REC709, dtype=images.dtype, device=images.device)
    return torch.einsum("bchw,c->bhw", (images + 1) / 2, weights)


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of the luminance of each image.

    Args:
        images: (B, 3, R, R) float in [-1, 1].

    Returns:
        (B,) float32 from 0 (flat) to 0.5 (half black, half white).
    """
    check_images(images)
    return luminance(images.float()).flatten(1).std(dim=1, correction=0)


def saturation(images: Tensor) -> Tensor:
    """Mean saturation of each image: (max − min) / max over the channels of a pixel, as in HSV; 0 where it is black.

    Args:
        images: (B, 3, R, R) float in [-1, 1].

    Returns:
        (B,) float32 in [0, 1].
    """
    check_images(images)
    low, high = ((images.float() + 1) / 2).aminmax(dim=1)
    return torch.where(high > 0, (high - low) / high, 0.0).flatten(1).mean(dim=1)
