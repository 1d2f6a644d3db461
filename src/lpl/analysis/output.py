"""The folder of an analysis: one JSON file with every number, and the pictures it refers to."""

from __future__ import annotations

import datetime
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..autoencoders import Autoencoder
from ..data import to_pil
from .inputs import AnalysisError, Pictures

FORMAT = 1  # of the JSON files
WEBP_SIDE = 16_383  # pixels, the most that the format has
VERSIONED = ("torch", "numpy", "scipy", "torchmetrics", "matplotlib")


class AnalysisFolder:
    """Collects what an analysis found, and writes it.

    Args:
        folder: where everything goes; made when the first file is written.
        name: of the analysis, and of its JSON file.

    Raises:
        AnalysisError: nothing can be written there.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        self.folder = Path(folder)
        _refuse_unwritable(self.folder)
        self.name = name
        self.figures: dict[str, str] = {}
        self._start = time.monotonic()

    def save_figure(self, name: str, figure: Figure) -> None:
        """Writes a matplotlib figure as NAME.png and names it in the JSON file."""
        path = self._path(f"{name}.png")
        figure.savefig(path, dpi=150)
        self.figures[name] = path.name

    def save_image(self, path: str, image: Tensor) -> str:
        """Writes an image (3, H, W) in [−1, 1] as PNG; returns its path relative to the folder."""
        return self.save_picture(path, to_pil(image))

    def save_picture(self, path: str, picture: Image.Image) -> str:
        """Writes a picture in the format its suffix says; returns its path relative to the folder."""
        options = {"quality": 90, "method": 4} if path.endswith(".webp") else {"optimize": True}
        picture.save(self._path(path), **options)
        return path

    def save_text(self, path: str, text: str) -> str:
        """Writes a text file; returns its path relative to the folder."""
        self._path(path).write_text(text, encoding="utf-8")
        return path

    def write(
        self,
        autoencoder: Mapping[str, Any],
        pictures: Pictures,
        settings: Mapping[str, Any],
        images: Sequence[Mapping[str, Any]],
        results: Mapping[str, Any],
    ) -> Path:
        """Writes NAME.json and returns its path; see `plain` for how values are written."""
        content = {
            "format": FORMAT,
            "analysis": self.name,
            "autoencoder": autoencoder,
            "data": _describe_pictures(pictures),
            "settings": settings,
            "images": images,
            "figures": self.figures,
            "results": results,
            "provenance": {
                "versions": {"lpl": _version("latent-perceptual-loss")} | {name: _version(name) for name in VERSIONED},
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._start, 1),
                "threads": torch.get_num_threads(),
            },
        }
        path = self._path(f"{self.name}.json")
        temporary = path.with_suffix(".json.partial")
        temporary.write_text(json.dumps(plain(content), ensure_ascii=False, allow_nan=False), encoding="utf-8")
        os.replace(temporary, path)  # readers never see half a file
        return path

    def _path(self, relative: str) -> Path:
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def describe_autoencoder(autoencoder: Autoencoder, path: str, subfolder: str | None = None) -> dict[str, Any]:
    """What identifies an autoencoder in a JSON file."""
    return {
        "path": str(path),
        "subfolder": subfolder,
        "kind": type(autoencoder.model).__name__,
        "fingerprint": autoencoder.fingerprint(),
        "latent_channels": autoencoder.latent_channels,
        "downsampling": autoencoder.downsampling,
    }


def plain(value: Any) -> Any:
    """Values as JSON has them: tensors and arrays as lists, numbers to six digits, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def sprite(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size and mode laid out row by row in one picture of `columns` columns.

    They are shrunk where the whole would be larger than a WebP picture may be.
    """
    rows = math.ceil(len(tiles) / columns)
    shrink = max(1.0, columns * tiles[0].width / WEBP_SIDE, rows * tiles[0].height / WEBP_SIDE)
    width, height = (int(side / shrink) for side in tiles[0].size)
    sheet = Image.new(tiles[0].mode, (columns * width, rows * height))
    for position, tile in enumerate(tiles):
        fitting = tile if shrink == 1 else tile.resize((width, height), Image.Resampling.BOX)
        sheet.paste(fitting, (position % columns * width, position // columns * height))
    return sheet


def _describe_pictures(pictures: Pictures) -> dict[str, Any]:
    return {
        "source": pictures.source,
        "split": pictures.split,
        "available": pictures.available,
        "fingerprint": pictures.fingerprint,
        "count": len(pictures.images),
        "resolution": pictures.resolution,
        "names": pictures.names,
        "skipped": pictures.skipped,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _refuse_unwritable(folder: Path) -> None:
    """Raises where the folder, or the one above in which it would be made, can't be written."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "can't be written" if there.is_dir() else "is a file"
        raise AnalysisError(f"output: {folder}: {there} {reason}; takes a folder, which may be missing")
