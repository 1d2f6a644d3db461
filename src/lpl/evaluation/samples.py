"""Reads the images that `lpl sample` wrote: RUN/samples/SET/*.png and samples.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import LplError
from .checks import from_bytes


class SampleError(LplError, ValueError):
    """A run whose samples can't be evaluated; the message says why."""


@dataclass(frozen=True)
class SampleSet:
    """Sampled images of one run, read one by one.

    Attributes:
        name: of the set.
        files: the images in order.
        metadata: what samples.json holds.
        resolution: pixels a side, of all.
    """

    name: str
    files: tuple[Path, ...]
    metadata: dict[str, Any]
    resolution: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as (3, R, R) float32 in [-1, 1]."""
        return from_bytes(read_png(self.files[index]))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))


def open_samples(run_folder: str | Path, name: str = "default") -> SampleSet:
    """Finds one set of samples of a run.

    Args:
        run_folder: the run's folder.
        name: of the set, a folder below RUN/samples.

    Returns:
        The set; its images are read later.

    Raises:
        SampleError: there is no such run or set, it is incomplete, or its first image can't be used.
    """
    run = Path(run_folder)
    if not run.is_dir():
        raise SampleError(f"{run}: no such run folder")
    folder = run / "samples" / name
    if not folder.is_dir():
        others = sorted(path.name for path in (run / "samples").glob("*") if path.is_dir())
        found = f"it has {', '.join(others)}" if others else "it has none"
        raise SampleError(f"{run}: no sample set {name!r} ({found}); draw one with: lpl sample {run}")
    metadata = _read_metadata(folder / "samples.json")
    files = tuple(sorted(path for path in folder.glob("*.png") if path.stem.isdecimal()))
    labels = metadata.get("labels")
    if not files or (labels is not None and len(labels) != len(files)):
        expected = len(labels) if labels is not None else "at least one"
        raise SampleError(f"{folder}: holds {len(files)} images, expected {expected}; was sampling interrupted?")
    return SampleSet(name, files, metadata, resolution=read_png(files[0]).shape[-1])


def read_png(file: Path) -> Tensor:
    """An RGB image file as uint8 (3, H, W).

    Raises:
        SampleError: it is unreadable, not 8-bit RGB, or not square.
    """
    try:
        with Image.open(file) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise SampleError(f"{file}: can't be read as an image ({error}); draw the samples again") from error
    if mode != "RGB" or pixels.shape[0] != pixels.shape[1]:
        raise SampleError(f"{file}: expected a square RGB image, got {pixels.shape[1]}×{pixels.shape[0]} {mode}")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _read_metadata(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise SampleError(f"{file}: missing, so the samples are incomplete; draw them again with: lpl sample")
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SampleError(f"{file}: not valid JSON ({error}); draw the samples again") from error
    if not isinstance(metadata, dict):
        raise SampleError(f"{file}: expected a JSON object, got {type(metadata).__name__}")
    return metadata
