"""Encodes a data set into a latent cache, once."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from ..config import DataConfig
from .images import DataError, ImageSource, UnreadableImage, digest
from .latents import CacheError, CacheInfo, CacheKey, LatentCache
from .order import seeded_generator
from .sources import open_images
from .transforms import crop_and_resize
from .writing import CacheWriter

FLOAT16_MAX = 65504.0
MAX_THREADS = 16  # decoding holds Python's lock part of the time, so more would wait for each other
CROP_SEED = 0x1A7E  # crops belong to the cache, not to a run: every seed trains on the same ones

logger = logging.getLogger(__name__)


class LatentEncoder(Protocol):
    """What encoding needs of an autoencoder."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""

    def fingerprint(self) -> str:
        """A hash of weights and configuration."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, for images (B, 3, H, W) in [-1, 1]."""

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w); a ValueError where images of that many pixels a side have no latent."""


def build_latent_cache(
    config: DataConfig, autoencoder: LatentEncoder, batch_size: int, holdout: bool = False, progress: bool = True
) -> LatentCache:
    """Returns the latent cache of a data set, encoding it first where that has not been done.

    Images that can't be decoded are counted, named in the cache's `skipped.txt` and left out. The cache is written to a
    folder of its own and gets its name when it is complete, so one that is interrupted leaves none.

    Args:
        config: the recipe's section `data`.
        autoencoder: encodes the images.
        batch_size: images encoded at once.
        holdout: whether to encode the held-out images instead.
        progress: whether to show a progress bar, on standard error.

    Returns:
        The cache, in `data.cache` (with `-holdout` appended for held-out images) or in a folder named after everything
        it depends on, below `$LPL_CACHE` or `~/.cache/lpl/latents`.

    Raises:
        DataError: the images can't be opened, none is readable, or the resolution does not suit the autoencoder.
        CacheError: the folder holds something else, or the latents don't fit float16.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, takes a positive integer")
    try:
        autoencoder.latent_shape(config.resolution)
    except ValueError as error:
        raise DataError(f"data.resolution: {str(error).removeprefix('resolution: ')}") from error
    source = open_images(config, holdout)
    key = cache_key(config, source, autoencoder)
    folder = cache_folder(config, key, holdout)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"data.cache: {folder} is a file; takes a folder, which may be missing")
    if folder.is_dir() and any(folder.iterdir()):
        cache = _open_matching(folder, key)
        if cache.info.skipped:
            logger.warning("%d unreadable images were left out; see %s", cache.info.skipped, folder / "skipped.txt")
        return cache
    with _published(folder) as partial:
        _encode(source, config, autoencoder, key, batch_size, partial, progress)
    return _open_matching(folder, key)


def cache_key(config: DataConfig, source: ImageSource, autoencoder: LatentEncoder) -> CacheKey:
    """Everything that the cache of these images depends on."""
    return CacheKey(
        source=source.fingerprint(),
        autoencoder=autoencoder.fingerprint(),
        precision=str(autoencoder.dtype).removeprefix("torch."),
        resolution=config.resolution,
        crop=config.crop,
        crops_per_image=config.crops_per_image,
        flips=config.flip,
    )


def cache_folder(config: DataConfig, key: CacheKey, holdout: bool = False) -> Path:
    """Where the cache lies, or would."""
    if config.cache is not None:
        return Path(f"{Path(config.cache).expanduser()}{'-holdout' if holdout else ''}")
    base = os.environ.get("LPL_CACHE")
    parent = Path(base).expanduser() if base else Path.home() / ".cache" / "lpl" / "latents"
    return parent / digest(sorted(asdict(key).items()))


def read_crops(
    source: ImageSource, config: DataConfig, skipped: list[UnreadableImage], ahead: int = 64
) -> Iterator[tuple[Tensor, int]]:
    """Reads, crops and resizes images in background threads, so that whoever asks for them needn't wait.

    Args:
        source: the images.
        config: the resolution, the crop, and the crops of each image.
        skipped: unreadable images are appended here.
        ahead: how many images are read before they are asked for.

    Yields:
        The crops of one image, float32 of shape (crops_per_image, 3, R, R) in [-1, 1], and its label, in order.
    """
    waiting: deque[Future[tuple[Tensor, int]]] = deque()
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS), thread_name_prefix="images")
    try:
        jobs = (pool.submit(_read, source, index, config) for index in range(len(source)))
        waiting.extend(islice(jobs, ahead))
        while waiting:
            finished = waiting.popleft()
            waiting.extend(islice(jobs, 1))
            try:
                result = finished.result()
            except UnreadableImage as error:
                skipped.append(error)
            else:
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: ImageSource, index: int, config: DataConfig) -> tuple[Tensor, int]:
    image, label = source[index]
    crops = [
        crop_and_resize(image, config.resolution, config.crop, seeded_generator(CROP_SEED, index, number))
        for number in range(config.crops_per_image)
    ]
    return torch.stack(crops), label


def _encode(
    source: ImageSource,
    config: DataConfig,
    autoencoder: LatentEncoder,
    key: CacheKey,
    batch_size: int,
    folder: Path,
    progress: bool,
) -> None:
    """Writes a complete cache into an empty folder."""
    start = time.monotonic()
    shape = autoencoder.latent_shape(config.resolution)
    writer = CacheWriter(folder, (1 + config.flip, *shape))
    skipped: list[UnreadableImage] = []
    with _progress_bar(progress) as bar:
        task = bar.add_task("Encoding images", total=len(source))
        for images, labels in _batches(read_crops(source, config, skipped, 2 * batch_size), batch_size):
            writer.append(*encode_batch(autoencoder, images, config.flip, shape), labels)
            bar.update(task, completed=writer.count // config.crops_per_image + len(skipped))
    labels_written = writer.close()
    _log_skipped(skipped, folder, len(source))
    class_counts = np.bincount(labels_written, minlength=len(source.classes)).tolist()
    if 0 in class_counts:
        empty = [name for name, count in zip(source.classes, class_counts, strict=True) if not count]
        logger.warning("no images of %d of %d classes: %s", len(empty), len(class_counts), ", ".join(empty[:10]))
    CacheInfo(
        key=key,
        classes=source.classes,
        images=writer.count // config.crops_per_image,
        skipped=len(skipped),
        count=writer.count,
        class_counts=class_counts,
        latent_shape=shape,
        deterministic=writer.deterministic,
        channel_mean=writer.channel_mean.tolist(),
        channel_std=writer.channel_std.tolist(),
        seconds=round(time.monotonic() - start, 3),
    ).write(folder)


def encode_batch(
    autoencoder: LatentEncoder, images: Tensor, flip: bool, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes images, and their mirror images where wanted.

    Args:
        autoencoder: encodes them.
        images: float32 of shape (B, 3, R, R) in [-1, 1].
        flip: whether to encode the mirror images too.
        shape: (C, h, w) of a latent.

    Returns:
        Mean and standard deviation, float16 of shape (B, 2, C, h, w), or (B, 1, C, h, w) without flips.

    Raises:
        CacheError: the latents have another shape, are not finite or don't fit float16.
    """
    versions = [images, images.flip(-1)] if flip else [images]
    with torch.inference_mode():
        posteriors = [autoencoder.encode(version) for version in versions]
    mean, std = (torch.stack([part.float().cpu() for part in parts], dim=1) for parts in zip(*posteriors, strict=True))
    for name, values in (("mean", mean), ("std", std)):
        problem = _problem(values, (len(images), len(versions), *shape))
        if problem:
            who = type(getattr(autoencoder, "model", autoencoder)).__name__
            raise CacheError(f"the autoencoder {who} ({autoencoder.fingerprint()[:12]}) gave a {name} {problem}")
    return mean.half().numpy(), std.half().numpy()


def _problem(values: Tensor, shape: tuple[int, ...]) -> str:
    """Why latents can't be cached; empty if they can."""
    if values.shape != shape:
        return f"of shape {tuple(values.shape[2:])} an image, where {shape[2:]} was announced"
    largest = float(values.abs().max())
    if math.isfinite(largest) and largest <= FLOAT16_MAX:
        return ""
    return (
        f"with magnitudes up to {largest}, and the cache's float16 holds {FLOAT16_MAX:.0f}; check the autoencoder's "
        "scaling and shift, or try autoencoder.precision=float32"
    )


def _batches(images: Iterator[tuple[Tensor, int]], size: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Joins the crops of successive images into batches of `size`, the last one smaller."""
    crops: list[Tensor] = []
    labels: list[int] = []
    for image_crops, label in images:
        crops += image_crops.unbind()
        labels += [label] * len(image_crops)
        while len(crops) >= size:
            yield torch.stack(crops[:size]), labels[:size]
            crops, labels = crops[size:], labels[size:]
    if crops:
        yield torch.stack(crops), labels


def _log_skipped(skipped: list[UnreadableImage], folder: Path, total: int) -> None:
    """Names every image that was left out, or refuses a data set of which nothing is left."""
    if len(skipped) == total:
        raise DataError(f"data.source: none of the {total} images can be read; the first: {skipped[0]}")
    if skipped:
        lines = [f"{error.name}\t{error.reason}\n" for error in skipped]
        (folder / "skipped.txt").write_text("".join(lines), encoding="utf-8")
        logger.warning("skipped %d of %d images that can't be read; the first: %s", len(skipped), total, skipped[0])


def _open_matching(folder: Path, key: CacheKey) -> LatentCache:
    """Opens the cache at `folder`, which must be the one that `key` describes."""
    cache = LatentCache.open(folder)
    found, wanted = asdict(cache.info.key), asdict(key)
    different = [
        f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in wanted if found[name] != wanted[name]
    ]
    if different:
        raise CacheError(
            f"data.cache: {folder} holds other latents ({'; '.join(different)}); delete it or name another folder"
        )
    return cache


@contextlib.contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """A new folder next to `folder` that takes its name when the block ends well, and is deleted when it doesn't."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _warn_of_leftovers(folder)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)  # temporary folders are private
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "cache.json").is_file():  # else another process was faster, and its cache stands
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _warn_of_leftovers(folder: Path) -> None:
    leftovers = [str(path) for path in folder.parent.glob(f"{folder.name}.partial-*")]
    if leftovers:
        logger.warning(
            "left by a run that was killed, or in use by one that is encoding: %s; delete it in the first case",
            ", ".join(leftovers),
        )


def _progress_bar(enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not enabled,
    )
