"""Latents on disk: the posterior's mean and standard deviation of every image, read as they are needed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import LplError

CACHE_FORMAT = 1  # raised whenever older caches can't be read any more


class CacheError(LplError, RuntimeError):
    """A latent cache that can't be read or used; the message names the folder."""


@dataclass(frozen=True)
class CacheKey:
    """Everything the content of a cache depends on; two equal keys mean the same latents.

    Attributes:
        source: fingerprint of the images, their order and labels.
        autoencoder: fingerprint of the weights and configuration.
        precision: in which the autoencoder encoded.
        resolution: pixels a side.
        crop: "center" or "random".
        crops_per_image: entries for each image.
        flips: whether the mirror images are cached too.
        format: of the files.
    """

    source: str
    autoencoder: str
    precision: str
    resolution: int
    crop: str
    crops_per_image: int
    flips: bool
    format: int = CACHE_FORMAT


@dataclass(frozen=True)
class CacheInfo:
    """The content of `cache.json`.

    Attributes:
        key: what the cache depends on.
        classes: names of the classes.
        images: number of images read.
        skipped: number of unreadable images, which `skipped.txt` names.
        count: number of entries, crops_per_image for each image read.
        class_counts: number of entries of each class.
        latent_shape: (C, h, w).
        deterministic: whether every standard deviation is zero, and none is stored.
        channel_mean: mean of each latent channel over entries, flips and positions.
        channel_std: its standard deviation over the same, that within the posterior included.
        seconds: time taken by encoding.
    """

    key: CacheKey
    classes: list[str]
    images: int
    skipped: int
    count: int
    class_counts: list[int]
    latent_shape: tuple[int, int, int]
    deterministic: bool
    channel_mean: list[float]
    channel_std: list[float]
    seconds: float

    def write(self, folder: Path) -> None:
        """Writes `cache.json`."""
        (folder / "cache.json").write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> CacheInfo:
        """Reads `cache.json`.

        Raises:
            CacheError: it is missing, damaged, or of another format.
        """
        file = folder / "cache.json"
        if not file.is_file():
            raise CacheError(f"{folder} is not a latent cache: it has no cache.json")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values["key"]["format"] != CACHE_FORMAT:
                raise CacheError(
                    f"{folder} is a latent cache of format {values['key']['format']}, and this version reads "
                    f"{CACHE_FORMAT}; delete the folder to have it built anew"
                )
            values["latent_shape"] = tuple(values["latent_shape"])
            return cls(**{**values, "key": CacheKey(**values["key"])})
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{file} is damaged ({error}); delete the folder to have it built anew") from error


class LatentCache:
    """Latents of a data set, memory-mapped: nothing is read before it is asked for.

    Entry i is one crop of one image; `latents(i, flip)` is a sample of the autoencoder's posterior for that crop or for
    its mirror image. Build one with `build_latent_cache`, or open an existing one.

    Attributes:
        folder: where the files lie.
        info: how the cache came about, and its statistics.
        labels: int64 of shape (N,).

    Example:
        >>> cache = LatentCache.open(folder)
        >>> indices = batch_indices(len(cache), 64, seed=0, step=0)
        >>> latents, labels = cache.latents(indices, generator=seeded_generator(0, 0)), cache.labels[indices]
    """

    def __init__(self, folder: Path, info: CacheInfo) -> None:
        self.folder = folder
        self.info = info
        entries = (info.count, 1 + info.key.flips, *info.latent_shape)
        self._mean = self._map("mean", np.dtype(np.float16), entries)
        self._std = None if info.deterministic else self._map("std", np.dtype(np.float16), entries)
        self.labels = torch.from_numpy(np.array(self._map("labels", np.dtype(np.int64), (info.count,))))

    @classmethod
    def open(cls, folder: str | Path) -> LatentCache:
        """Opens a complete cache.

        Raises:
            CacheError: there is none, or it is damaged.
        """
        return cls(Path(folder), CacheInfo.read(Path(folder)))

    def __len__(self) -> int:
        return self.info.count

    @property
    def classes(self) -> list[str]:
        """Names of the classes; labels are positions in this list."""
        return self.info.classes

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.info.latent_shape

    @property
    def channel_mean(self) -> Tensor:
        """Mean of each channel, float32 of shape (C,); near 0 where the autoencoder's scaling suits the data."""
        return torch.tensor(self.info.channel_mean)

    @property
    def channel_std(self) -> Tensor:
        """Standard deviation of each channel, float32 of shape (C,); near 1 where the scaling suits the data."""
        return torch.tensor(self.info.channel_std)

    def latents(self, indices: Tensor, flips: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Samples of the posterior, mean + std · ε.

        Args:
            indices: entries, integers of shape (B,), in any order.
            flips: which to take mirrored, bool of shape (B,); none if None.
            generator: where ε ~ N(0, I) is drawn from, on the CPU; the posterior's mean is returned if None.

        Returns:
            float32 of shape (B, C, h, w).

        Raises:
            ValueError: an argument has another shape or type, or mirror images are asked for and not cached.
            IndexError: an index is outside the cache.
        """
        places = self._check_places(indices, flips)
        mean = _gather(self._mean, *places)
        if generator is None or self._std is None:
            return mean
        return mean + _gather(self._std, *places) * torch.randn(mean.shape, generator=generator)

    def _check_places(self, indices: Tensor, flips: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(f"indices: got {indices.dtype} of shape {tuple(indices.shape)}, takes integers (B,)")
        if bool(((indices < 0) | (indices >= len(self))).any()):
            raise IndexError(f"indices: from {int(indices.min())} to {int(indices.max())}; takes 0 to {len(self) - 1}")
        flips = torch.zeros(len(indices), dtype=torch.bool) if flips is None else flips
        if flips.shape != indices.shape or flips.dtype != torch.bool:
            raise ValueError(f"flips: got {flips.dtype} of shape {tuple(flips.shape)}, takes bool ({len(indices)},)")
        if bool(flips.any()) and not self.info.key.flips:
            raise ValueError(f"flips: the cache {self.folder} holds no mirror images; build it with data.flip=true")
        return indices.cpu().numpy(), flips.cpu().numpy().astype(np.int64)

    def _map(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array on disk."""
        file = self.folder / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CacheError(f"{file} is missing or damaged ({error}); delete the folder to have it rebuilt") from error
        if array.shape != shape or array.dtype != dtype:
            raise CacheError(f"{file} holds {array.dtype} {array.shape}, where cache.json announces {dtype} {shape}")
        return array


def _gather(array: np.ndarray, indices: np.ndarray, flips: np.ndarray) -> Tensor:
    """Reads entries in the order they lie on disk and returns them in the order asked for, as float32."""
    order = np.lexsort((flips, indices))
    values = np.empty((len(indices), *array.shape[2:]), dtype=np.float32)
    values[order] = array[indices[order], flips[order]]
    return torch.from_numpy(values)
