"""The folder of `lpl analyze perturbation`."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ...data import to_pil
from ..figures.perturbation import GAIN, difference_picture, figure_12, locality_figure, worst_figure
from ..inputs import Pictures
from ..output import AnalysisFolder, sprite
from ..perturbation import LEVELS, ImagePerturbation, PerturbationStudy, radius_of
from .common import Rows, grey_picture, interval, save_originals

SHOWN = 6  # worst and mildest positions whose pictures are written
DECADES = 6.0  # range of the influence picture's logarithmic scale


def record_perturbation(
    folder: AnalysisFolder, study: PerturbationStudy, pictures: Pictures
) -> tuple[Rows, dict[str, Any]]:
    """Draws the figures, writes the pictures, and returns the JSON file's `images` and `results`."""
    folder.save_figure("figure-12", figure_12(study))
    folder.save_figure("worst-positions", worst_figure(study, SHOWN))
    folder.save_figure("locality", locality_figure(study))
    rows = save_originals(folder, pictures, len(study.images))
    for index, (row, image) in enumerate(zip(rows, study.images, strict=True)):
        row |= _image_entry(folder, study, image, f"images/{index:03d}")
    return rows, _results(study)


def _image_entry(
    folder: AnalysisFolder, study: PerturbationStudy, image: ImagePerturbation, base: str
) -> dict[str, Any]:
    order = image.error.argsort(descending=True).tolist()
    tiles = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in image.pictures]
    columns = study.grid[1] if len(tiles) == study.grid[0] * study.grid[1] else min(len(tiles), 16)
    sheet = folder.save_picture(f"{base}/decodes.webp", sprite(tiles, columns))
    # From the exact pictures: taken from WebP's, its own errors would show, magnified.
    changes = [to_pil(difference_picture(image, index)) for index in range(len(tiles))]
    changed = folder.save_picture(f"{base}/differences.webp", sprite(changes, columns))
    return {
        "reconstruction": folder.save_image(f"{base}/reconstruction.png", image.reference),
        "error": image.error,
        "local_share": image.local_share,
        "visible_outside": image.visible_outside,
        "radius": {f"{level:g}": radius_of(image.window_shares, level) for level in LEVELS},
        "decodes": {"file": sheet, "tile": list(tiles[0].size), "columns": columns},
        "differences": {"file": changed, "tile": list(tiles[0].size), "columns": columns},
        "influence": _influence(folder, image, columns, base),
        "worst": [_position_entry(folder, study, image, index, base) for index in order[:SHOWN]],
        "mildest": [_position_entry(folder, study, image, index, base) for index in order[::-1][:SHOWN]],
    }


def _influence(folder: AnalysisFolder, image: ImagePerturbation, columns: int, base: str) -> dict[str, Any]:
    """For every perturbed position a tile of the error over the latent's grid, on a logarithmic grey scale."""
    logs = np.log10(image.cells.double().numpy().clip(1e-30))
    high = float(logs.max())
    tiles = [grey_picture(tile, high - DECADES, high) for tile in logs]
    path = folder.save_picture(f"{base}/influence.png", sprite(tiles, columns))
    return {
        "file": path,
        "tile": list(tiles[0].size),
        "columns": columns,
        "log10_black": high - DECADES,
        "log10_white": high,
    }


def _position_entry(
    folder: AnalysisFolder, study: PerturbationStudy, image: ImagePerturbation, index: int, base: str
) -> dict[str, Any]:
    row, column = study.positions[index]
    name = f"{base}/position-{row:02d}-{column:02d}"
    return {
        "position": [row, column],
        "error": image.error[index],
        "local_share": image.local_share[index],
        "visible_outside": image.visible_outside[index],
        "decode": folder.save_image(f"{name}.png", image.pictures[index].float() / 127.5 - 1),
        "difference": folder.save_image(f"{name}-difference.png", difference_picture(image, index)),
    }


def _results(study: PerturbationStudy) -> dict[str, Any]:
    shares = np.concatenate([image.window_shares.numpy() for image in study.images])
    errors = [image.error for image in study.images]
    return {
        "positions": study.positions,
        "grid": study.grid,
        "window_radius": study.window_radius,
        "difference_gain": GAIN,
        "noise": study.noise,
        "window_shares": {
            "mean": shares.mean(axis=0),
            "low": np.quantile(shares, 0.05, axis=0),
            "high": np.quantile(shares, 0.95, axis=0),
        },
        "local_share": float(shares[:, study.window_radius].mean()),
        "global_share": 1 - float(shares[:, study.window_radius].mean()),
        "global_share_of_error": [image.global_share for image in study.images],
        "worst_over_median": [float(error.max() / error.median()) for error in errors],
        "explained_by": {name: interval(value) for name, value in study.explained_by.items()},
    }
