"""Images decoded once and kept as bytes, from which every training step cuts its own random crops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

HEADROOM = 1.5  # stored over needed size: a picture resampled twice to nearly the same size would be soft


class CropMemory:
    """Images in memory, and random square crops of them.

    An image is shrunk when it comes in, so far that the smallest crop still has 1.5 times `resolution` pixels a side.
    With three bytes a pixel it then takes 6.75 (resolution / min_scale)² bytes, times its aspect ratio.

    Args:
        images: RGB images of any sizes, at least one.
        resolution: pixels a side of the crops.
        min_scale: smallest crop as a share of the image's short side, in (0, 1]; the share is drawn evenly from
            [min_scale, 1]. Crops are never enlarged, except of images that are smaller than `resolution`.
        flip: mirror every other crop, at random.

    Raises:
        ValueError: there are no images.
    """

    def __init__(
        self, images: Iterable[Image.Image], resolution: int, min_scale: float = 1.0, flip: bool = True
    ) -> None:
        self.resolution = resolution
        self.min_scale = min_scale
        self.flip = flip
        self._images = [self._stored(image) for image in images]
        if not self._images:
            raise ValueError("images: got none; at least one is needed to train on")

    def __len__(self) -> int:
        return len(self._images)

    def crops(self, count: int, generator: torch.Generator) -> Tensor:
        """Random crops of random images, float32 (count, 3, R, R) in [−1, 1]; the CPU generator decides everything."""
        choices = torch.randint(len(self), (count,), generator=generator)
        draws = torch.rand(count, 4, generator=generator).tolist()
        crops = torch.stack([self._crop(int(i), draw) for i, draw in zip(choices, draws, strict=True)])
        return crops.div_(127.5).sub_(1.0)

    @property
    def stored_bytes(self) -> int:
        """Memory that the images take."""
        return sum(image.numel() for image in self._images)

    def _stored(self, image: Image.Image) -> Tensor:
        target = round(HEADROOM * self.resolution / self.min_scale)
        short = min(image.size)
        if short > target:
            width, height = (round(side * target / short) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()

    def _crop(self, index: int, draw: Sequence[float]) -> Tensor:
        """One crop with values in [0, 255]; `draw` holds four numbers in [0, 1): size, top, left and mirror."""
        image = self._images[index]
        height, width = image.shape[-2:]
        short = min(height, width)
        smallest = max(round(self.min_scale * short), min(self.resolution, short))
        side = smallest + int(draw[0] * (short - smallest + 1))
        top, left = int(draw[1] * (height - side + 1)), int(draw[2] * (width - side + 1))
        crop = image[:, top : top + side, left : left + side].float()
        if side != self.resolution:
            size = (self.resolution, self.resolution)
            crop = functional.interpolate(crop[None], size, mode="bicubic", antialias=True)[0].clamp(0, 255)
        return crop.flip(-1) if self.flip and draw[3] < 0.5 else crop
