"""From pictures to tensors and back: the crop, the resize, and the scale of [-1, 1]."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SMALLEST_CROP = 0.8  # a random crop's side over the image's shorter side, at the least


def crop_and_resize(
    image: Image.Image,
    resolution: int,
    crop: Literal["center", "random"] = "center",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cuts the largest centered square, or a random square, and resizes it with an antialiased bicubic filter.

    A random square has a side uniform in [0.8, 1] times the image's shorter side and lies anywhere within the image.
    An image smaller than the resolution is enlarged.

    Args:
        image: RGB, of any size.
        resolution: pixels a side of the result.
        crop: "center" or "random".
        generator: where a random crop is drawn from, on the CPU; torch's global one if None.

    Returns:
        float32 of shape (3, resolution, resolution) in [-1, 1].

    Raises:
        ValueError: the resolution is not positive, or the crop is neither.
    """
    if resolution < 1:
        raise ValueError(f"resolution: got {resolution}, takes a positive number of pixels")
    if crop not in ("center", "random"):
        raise ValueError(f"crop: got {crop!r}, takes 'center' or 'random'")
    size_share, x_share, y_share = 1.0, 0.5, 0.5
    if crop == "random":
        drawn: list[float] = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        size_share, x_share, y_share = SMALLEST_CROP + (1 - SMALLEST_CROP) * drawn[0], drawn[1], drawn[2]
    size = size_share * min(image.size)
    left, upper = x_share * (image.width - size), y_share * (image.height - size)
    box = (left, upper, min(left + size, image.width), min(upper + size, image.height))  # sums may round past the edge
    return to_tensor(image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as float32 of shape (3, H, W) in [-1, 1].

    Raises:
        ValueError: the picture is not RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"image: got mode {image.mode!r}, takes 'RGB'")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels.float().div(127.5).sub(1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """A tensor of shape (3, H, W) in [-1, 1] as an RGB picture; values outside are clamped.

    Raises:
        ValueError: the shape is another, or values are not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}, takes (3, H, W)")
    values = image.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("image: holds NaN or infinite values")
    pixels = values.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
