"""Sliced Wasserstein distance between patches of Laplacian pyramids: how alike two sets of images look, scale by scale.

Reference: Karras et al., *Progressive Growing of GANs*, ICLR 2018, section 5. No network is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import TooFewSamplesError, check_images

Normalization = Literal["each", "reference"]
Floats = npt.NDArray[np.float32]

SMALLEST_LEVEL = 16  # pixels a side; the pyramid ends before it would get smaller
DIRECTION_BLOCK = 32  # directions projected at a time, which bounds the memory
SCALE = 1e3  # results are printed times a thousand, as in the paper


@dataclass(frozen=True)
class PatchSettings:
    """How patches are drawn and projected.

    Attributes:
        patch_size: pixels a side, at every level.
        patches_per_image: drawn at every level, at random places.
        max_images: where a set is larger, patches come from a random choice of this many of its images.
        directions: random projections the distance is averaged over.
    """

    patch_size: int = 7
    patches_per_image: int = 64
    max_images: int = 2048
    directions: int = 256

    def __post_init__(self) -> None:
        for name in ("patch_size", "patches_per_image", "max_images", "directions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class SlicedWasserstein:
    """Distances times 1000.

    Attributes:
        levels: distance by side of the pyramid level in pixels, finest first.
        mean: their mean.
    """

    levels: dict[int, float] = field(default_factory=dict)
    mean: float = 0.0


def sliced_wasserstein(
    samples: Tensor,
    reference: Tensor,
    settings: PatchSettings | None = None,
    normalization: Normalization = "each",
    seed: int = 0,
) -> SlicedWasserstein:
    """Sliced Wasserstein distance of two sets of images.

    Args:
        samples: (N, 3, R, R) float in [-1, 1].
        reference: (M, 3, R, R) float in [-1, 1]; N and M may differ.
        settings: of the patches; the defaults if None.
        normalization: "each" scales each set's patches to zero mean and unit variance by channel, as in the paper, and
            so does not see contrast or sharpness; "reference" scales both by the reference's statistics, and does.
        seed: of places, choice of images and directions; equal seeds give equal results.

    Returns:
        The distance at every level and its mean, times 1000.

    Raises:
        TypeError, ValueError: images that are not (B, 3, R, R) floats in [-1, 1], of different sizes, or smaller than
            a patch.
    """
    settings = settings or PatchSettings()
    if samples.shape[1:] != reference.shape[1:]:
        raise ValueError(f"samples are {tuple(samples.shape[1:])} and reference images {tuple(reference.shape[1:])}")
    drawn = []
    for name, images in (("samples", samples), ("reference", reference)):
        check_images(images, name)
        sampler = PatchSampler(settings, seed)
        sampler.add(images)
        drawn.append(sampler.finish())
    return compare_patches(drawn[0], drawn[1], settings.directions, (normalization,), seed)[normalization]


def compare_patches(
    samples: Mapping[int, Tensor],
    reference: Mapping[int, Tensor],
    directions: int = PatchSettings.directions,
    normalizations: Sequence[Normalization] = ("each",),
    seed: int = 0,
) -> dict[Normalization, SlicedWasserstein]:
    """Sliced Wasserstein distances of patches that `PatchSampler` drew.

    Args:
        samples: patches (n, 3, p, p) by side of the level.
        reference: patches (m, 3, p, p) by side of the level; the same levels.
        directions: number of random projections.
        normalizations: see `sliced_wasserstein`; several share the work on the reference.
        seed: of the directions.

    Returns:
        The distance at every level and its mean, times 1000, by normalization.
    """
    if list(samples) != list(reference):
        raise ValueError(f"samples have pyramid levels {list(samples)} and the reference {list(reference)}")
    levels = {
        side: _compare_level(patches, reference[side], directions, normalizations, seed)
        for side, patches in samples.items()
    }
    results: dict[Normalization, SlicedWasserstein] = {}
    for index, normalization in enumerate(normalizations):
        by_side = {side: distances[index] for side, distances in levels.items()}
        results[normalization] = SlicedWasserstein(by_side, float(np.mean(list(by_side.values()))))
    return results


def _compare_level(
    samples: Tensor, reference: Tensor, directions: int, normalizations: Sequence[Normalization], seed: int
) -> list[float]:
    """Mean 1-D distance over the directions, times 1000, by normalization."""
    common = _normalized(reference, reference)
    points = [_normalized(samples, reference if how == "reference" else samples) for how in normalizations]
    totals = np.zeros(len(points))
    vectors = _directions(common.shape[1], directions, seed)
    for start in range(0, directions, DIRECTION_BLOCK):
        block = vectors[start : start + DIRECTION_BLOCK]
        # numpy sorts with vector instructions: three times as fast as torch on a CPU.
        ordered = np.sort(block @ common.T, axis=1)
        totals += [sorted_wasserstein(np.sort(block @ each.T, axis=1), ordered).sum() for each in points]
    return [float(total) for total in SCALE * totals / directions]


class PatchSampler:
    """Draws patches at every level of the Laplacian pyramids of a stream of images.

    What is drawn from image i depends on the seed and i alone, so neither batch size nor device matters. Where more
    than `max_images` come along, the ones kept are those with the smallest of their random keys: an even choice over
    the whole stream whose length need not be known.
    """

    def __init__(self, settings: PatchSettings, seed: int = 0) -> None:
        self.settings, self.seed = settings, seed
        self._seen = 0
        self._limit = np.inf  # keys above this can no longer be among the smallest
        self._keys: list[float] = []
        self._patches: dict[int, list[Tensor]] = {}

    def add(self, images: Tensor) -> None:
        """Takes the next images, float (B, 3, R, R) in [-1, 1]."""
        sides = pyramid_sides(images.shape[-1], self.settings.patch_size)
        draws = [np.random.default_rng([self.seed, self._seen + i]) for i in range(len(images))]
        self._seen += len(images)
        keys = [float(draw.random()) for draw in draws]
        kept = [i for i, key in enumerate(keys) if key < self._limit]
        self._keys += [keys[i] for i in kept]
        for side, level in zip(sides, laplacian_pyramid(images[kept], len(sides)), strict=True):
            if kept:
                corners = np.stack([self._corners(draws[i], side) for i in kept])
                patches = extract_patches(level, torch.from_numpy(corners), self.settings.patch_size)
                # Half precision is far finer than the 8-bit grid. Clones, for a view would hold the whole batch.
                self._patches.setdefault(side, []).extend(patch.clone() for patch in patches.half().cpu())
        if len(self._keys) >= 2 * self.settings.max_images:
            self._thin()

    def finish(self) -> dict[int, Tensor]:
        """The patches drawn: float16 (n, 3, p, p) by side of the level, finest first."""
        if not self._keys:
            raise TooFewSamplesError("patches need at least one image, got none")
        self._thin()
        return {side: torch.cat(patches) for side, patches in self._patches.items()}

    def _corners(self, draw: np.random.Generator, side: int) -> npt.NDArray[np.int64]:
        return draw.integers(0, side - self.settings.patch_size + 1, size=(self.settings.patches_per_image, 2))

    def _thin(self) -> None:
        """Keeps the images with the smallest keys, in the order they came."""
        if len(self._keys) <= self.settings.max_images:
            return
        kept = np.sort(np.argsort(self._keys)[: self.settings.max_images])
        self._keys = [self._keys[i] for i in kept]
        self._patches = {side: [patches[i] for i in kept] for side, patches in self._patches.items()}
        self._limit = max(self._keys)


def pyramid_sides(resolution: int, patch_size: int = PatchSettings.patch_size) -> list[int]:
    """Sides of the pyramid's levels in pixels: halved, rounding up, for as long as they stay at 16 or more.

    Raises:
        ValueError: a level would be smaller than a patch.
    """
    sides = [resolution]
    while (sides[-1] + 1) // 2 >= SMALLEST_LEVEL:
        sides.append((sides[-1] + 1) // 2)
    if sides[-1] < patch_size:
        raise ValueError(
            f"images of {resolution}×{resolution} pixels have a pyramid level below patch_size={patch_size}"
        )
    return sides


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Band-pass images from fine to coarse, and the low-pass rest: each level minus the next one enlarged.

    Args:
        images: float (B, C, H, W).
        levels: how many, the low-pass rest included.

    Returns:
        `levels` tensors; their sum, each enlarged to the first, is the images again.
    """
    pyramid = []
    for _ in range(levels - 1):
        smaller = _blur(images)[..., ::2, ::2]
        pyramid.append(images - _enlarge(smaller, images.shape[-2:]))
        images = smaller
    return [*pyramid, images]


def extract_patches(level: Tensor, corners: Tensor, size: int) -> Tensor:
    """Patches (B, P, C, size, size) of images (B, C, H, W) whose upper left corners (B, P, 2) are rows and columns."""
    windows = level.unfold(2, size, 1).unfold(3, size, 1)  # (B, C, rows, columns, size, size), a view
    corners = corners.to(level.device)
    batch = torch.arange(len(level), device=level.device)[:, None]
    return windows[batch, :, corners[..., 0], corners[..., 1]]


def _blur(images: Tensor) -> Tensor:
    """The binomial filter (1 4 6 4 1)/16 along rows and columns, mirrored at the borders."""
    channels = images.shape[1]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)


def _enlarge(images: Tensor, size: torch.Size) -> Tensor:
    """Twice the size: zeros between the pixels, then the filter, times 4 for the zeros."""
    spread = images.new_zeros(*images.shape[:2], *size)
    spread[..., ::2, ::2] = images
    return 4 * _blur(spread)


def _normalized(patches: Tensor, statistics_of: Tensor) -> Floats:
    """Patches as points (n, 3·p·p) with the mean and deviation of `statistics_of` taken out of each channel."""
    deviation, mean = torch.std_mean(statistics_of.float(), dim=(0, 2, 3), keepdim=True, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)  # a constant channel has nothing to scale
    return ((patches.float() - mean) / deviation).flatten(1).numpy()


def _directions(dimensions: int, count: int, seed: int) -> Floats:
    """Random unit vectors (count, dimensions)."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def sorted_wasserstein(
    samples: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Exact Wasserstein-1 distance between the rows of two arrays, each row a set of numbers in ascending order.

    W1 is the area between the two quantile functions. Both are step functions: constant between multiples of 1/n and
    of 1/m, so the area is a sum over the union of those steps.

    Args:
        samples: (rows, n).
        reference: (rows, m); m may differ from n.

    Returns:
        Distances (rows,), float64.
    """
    n, m = samples.shape[1], reference.shape[1]
    if n == m:
        return np.abs(samples - reference).mean(axis=1, dtype=np.float64)
    steps = np.union1d(np.arange(n, dtype=np.int64) * m, np.arange(m, dtype=np.int64) * n)  # of 1/(n·m)
    widths = (np.diff(steps, append=n * m) / (n * m)).astype(samples.dtype)
    return np.abs(samples.take(steps // m, axis=1) - reference.take(steps // n, axis=1)) @ widths
