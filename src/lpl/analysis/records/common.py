"""What the JSON files of all analyses share."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..inputs import Pictures
from ..output import AnalysisFolder

Rows = list[dict[str, Any]]


def save_originals(folder: AnalysisFolder, pictures: Pictures, count: int) -> Rows:
    """Writes the first images as they were, and starts their entries; entries of the others have a name alone."""
    rows: Rows = []
    for index, name in enumerate(pictures.names):
        row: dict[str, Any] = {"index": index, "name": name}
        if index < count:
            row["original"] = folder.save_image(f"images/{index:03d}/original.png", pictures.images[index])
        rows.append(row)
    return rows


def interval(value: Any) -> dict[str, float] | None:
    """A mean with its confidence interval."""
    return None if value is None else {"mean": value.mean, "low": value.low, "high": value.high}


def grey_picture(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Numbers (H, W) as an 8-bit grey picture, `low` black and `high` white."""
    span = high - low if high > low else 1.0
    return Image.fromarray((np.clip((values - low) / span, 0, 1) * 255).round().astype(np.uint8))
