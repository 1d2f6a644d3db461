"""What the measures accept, and the errors that say what was wrong."""

from __future__ import annotations

import torch
from torch import Tensor


class TooFewSamplesError(ValueError):
    """There are fewer samples than a measure needs; the message says how many there are and how many would do."""


def check_images(images: Tensor, name: str = "images") -> None:
    """Refuses anything but finite square RGB images in [-1, 1].

    Args:
        images: float tensor (B, 3, R, R).
        name: what the caller's user calls them.

    Raises:
        TypeError: not a tensor of floats.
        ValueError: another shape, values that are not finite, or values outside [-1, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name}: expected a float tensor with values in [-1, 1], got {kind}")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"{name}: expected square RGB images (B, 3, R, R), got shape {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError(f"{name}: some pixels are NaN or infinite")
    low, high = images.aminmax() if images.numel() else (torch.zeros(()), torch.zeros(()))
    if low < -1.001 or high > 1.001:
        raise ValueError(f"{name}: values must lie in [-1, 1], got {low.item():.4g} to {high.item():.4g}")


def check_features(features: Tensor, name: str = "features") -> Tensor:
    """Features as float64, after refusing what no measure can use.

    Args:
        features: float tensor (N, D).
        name: what the caller's user calls them.

    Returns:
        The same values as float64, (N, D).

    Raises:
        TypeError: not a tensor of floats.
        ValueError: another shape, no dimensions, or values that are not finite.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name}: expected a float tensor (N, D), got {kind}")
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (N, D), got {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ValueError(f"{name}: some features are NaN or infinite")
    return features.detach().double()


def check_feature_pair(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets of features as float64, after checking that they have the same number of dimensions."""
    samples, reference = check_features(samples, "samples"), check_features(reference, "reference")
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"samples have {samples.shape[1]} features an image and the reference {reference.shape[1]}: "
            "both must come from the same extractor"
        )
    return samples, reference


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] on the 8-bit grid of a PNG file: uint8, same shape."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_bytes(pixels: Tensor) -> Tensor:
    """8-bit pixels as float32 in [-1, 1], same shape."""
    return pixels.float() / 127.5 - 1
