"""One pass over a set of images that keeps what the measures need, and its cache on disk.

Images stream by in batches and are forgotten: what stays is a few numbers an image (features, spectrum, contrast) and a
sample of patches, so that sets of any size and iterables of unknown length will do.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checks import check_images, from_bytes, to_bytes
from .contrast import contrast, saturation
from .extractors import Extractor
from .reference import Indexed, readable
from .sliced_wasserstein import PatchSampler, PatchSettings
from .spectrum import radial_power_spectrum

MEASURING = "2"  # part of the key of all that is kept of measuring: raise it when something would come out otherwise


@dataclass(frozen=True)
class ImageSummary:
    """What is kept of N images of R×R pixels.

    Attributes:
        resolution: R.
        contrast: (N,) float32, see `contrast`.
        saturation: (N,) float32, see `saturation`.
        power: (N, R // 2) float32, see `radial_power_spectrum`.
        patches: float16 (n, 3, p, p) by side of the pyramid level, see `PatchSampler`.
        features: (N, D) float32, or None without an extractor.
        skipped: names of images that could not be read, with the reason.
    """

    resolution: int
    contrast: Tensor
    saturation: Tensor
    power: Tensor
    patches: dict[int, Tensor]
    features: Tensor | None = None
    skipped: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """N."""
        return len(self.contrast)


@dataclass(frozen=True)
class SummarySettings:
    """What a summary depends on besides the images.

    Attributes:
        extractor: of the features; None for none.
        patches: how they are drawn.
        seed: of the patches.
        batch_size: images in memory at a time.
        device: where images are measured; the extractor has its own.
    """

    extractor: Extractor | None = None
    patches: PatchSettings = field(default_factory=PatchSettings)
    seed: int = 0
    batch_size: int = 64
    device: str = "cpu"


def summarize(
    images: Iterable[Any] | Indexed,
    settings: SummarySettings,
    name: str = "images",
    resolution: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> ImageSummary:
    """Measures every image once.

    Images are rounded to the 8-bit grid of PNG files first, so that tensors and files compare alike.

    Args:
        images: tensors (3, R, R) float in [-1, 1], or tuples that begin with one, as data sets of labelled images give;
            those that a data set can't read (`UnreadableImage`) are skipped and named in the result.
        settings: what to keep.
        name: what the set is called in messages.
        resolution: the R that is expected; that of the first image if None.
        advance: called with the number of images done, after every batch.

    Returns:
        The summary, on the CPU.

    Raises:
        TypeError, ValueError: an image of another kind or size, or none at all.
    """
    sampler = PatchSampler(settings.patches, settings.seed)
    skipped: list[str] = []
    rows: dict[str, list[Tensor]] = {"contrast": [], "saturation": [], "power": [], "features": []}
    for batch in _batches(readable(images, skipped), settings.batch_size, name, resolution):
        batch = from_bytes(to_bytes(batch.to(settings.device)))
        resolution = batch.shape[-1]
        rows["contrast"].append(contrast(batch).cpu())
        rows["saturation"].append(saturation(batch).cpu())
        rows["power"].append(radial_power_spectrum(batch).cpu())
        if settings.extractor is not None:
            rows["features"].append(settings.extractor(batch))
        sampler.add(batch)
        if advance is not None:
            advance(len(batch))
    if resolution is None or not rows["contrast"]:
        raise ValueError(f"{name}: there are no images{_because(skipped)}")
    columns = {key: torch.cat(values) for key, values in rows.items() if values}
    return ImageSummary(resolution=resolution, patches=sampler.finish(), skipped=tuple(skipped), **columns)


def first_image(images: Iterable[Any] | Indexed, name: str) -> tuple[Tensor, Iterable[Any] | Indexed]:
    """The first image, and an iterable that still begins with it: to check a set before hours of work.

    Raises:
        TypeError, ValueError: it is not a (3, R, R) float tensor in [-1, 1], or there is none.
    """
    skipped: list[str] = []
    iterator = readable(images, skipped)
    try:
        first = next(iterator)
    except StopIteration:
        raise ValueError(f"{name}: there are no images{_because(skipped)}") from None
    # A data set can be read again from its start; an iterator has lost its first image.
    again: Iterable[Any] | Indexed = images if isinstance(images, Indexed) else itertools.chain([first], iterator)
    return _as_image(first, 0, name, None), again


def cached_summary(
    folder: Path, key: dict[str, Any], make: Callable[[], ImageSummary], warn: Callable[[str], object]
) -> ImageSummary:
    """The summary filed under `key`, made and filed if there is none.

    Args:
        folder: of the cache; made if absent.
        key: everything that the summary depends on, of JSON types.
        make: measures the images.
        warn: told if a file could not be read, which is then made again.

    Returns:
        The summary.
    """
    text = json.dumps({"format": MEASURING, **key}, sort_keys=True)
    file = folder / f"summary-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
    if file.is_file():
        try:
            return _load(file)
        except (SafetensorError, KeyError, ValueError) as error:
            warn(f"cache: {file} could not be read ({error}) and was made again")
    summary = make()
    folder.mkdir(parents=True, exist_ok=True)
    _save(summary, file, text)
    return summary


def summary_key(settings: SummarySettings, reference_fingerprint: str, resolution: int) -> dict[str, Any]:
    """What a cached summary is filed under."""
    return {
        "reference": reference_fingerprint,
        "resolution": resolution,
        "extractor": settings.extractor.fingerprint() if settings.extractor else None,
        "patches": asdict(settings.patches),
        "seed": settings.seed,
    }


def _because(skipped: list[str]) -> str:
    return f" that can be read; the first of {len(skipped)}: {skipped[0]}" if skipped else ""


def _batches(images: Iterable[Any], size: int, name: str, resolution: int | None) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for index, item in enumerate(images):
        image = _as_image(item, index, name, resolution)
        resolution = image.shape[-1]
        batch.append(image)
        if len(batch) == size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def _as_image(item: Any, index: int, name: str, resolution: int | None) -> Tensor:
    image = item[0] if isinstance(item, tuple | list) and item else item
    label = f"{name}, image {index}"
    if not isinstance(image, Tensor) or image.ndim != 3:
        got = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"{label}: expected a tensor (3, R, R) in [-1, 1], got {got}")
    check_images(image[None], label)
    if resolution is not None and image.shape[-1] != resolution:
        raise ValueError(
            f"{label}: is {image.shape[-1]}×{image.shape[-1]} pixels, but {resolution}×{resolution} is expected"
        )
    return image.float()


def _save(summary: ImageSummary, file: Path, key: str) -> None:
    tensors = {f"patches/{side}": patches for side, patches in summary.patches.items()}
    for name in ("contrast", "saturation", "power", "features"):
        values = getattr(summary, name)
        if values is not None:
            tensors[name] = values.contiguous()
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    metadata = {"key": key, "resolution": str(summary.resolution), "skipped": json.dumps(summary.skipped)}
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, file)  # whole or not at all


def _load(file: Path) -> ImageSummary:
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(file)
    sides = [int(name.removeprefix("patches/")) for name in tensors if name.startswith("patches/")]
    patches = {side: tensors.pop(f"patches/{side}") for side in sorted(sides, reverse=True)}
    skipped = tuple(json.loads(metadata["skipped"]))
    return ImageSummary(resolution=int(metadata["resolution"]), patches=patches, skipped=skipped, **tensors)
