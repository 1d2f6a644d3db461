"""The folder of `lpl analyze interpolation`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..claims import Claim
from ..figures.interpolation import (
    DAMAGE_LABELS,
    MEASURE_LABELS,
    correlations_figure,
    damage_figure,
    figure_11,
)
from ..inputs import Pictures
from ..interpolation import HIGHER_IS_BETTER, Correlation, InterpolationStudy
from ..output import AnalysisFolder
from .common import Rows, interval, save_originals


def record_interpolation(
    folder: AnalysisFolder, study: InterpolationStudy, pictures: Pictures
) -> tuple[Rows, dict[str, Any]]:
    """Draws the figures, writes the pictures kept, and returns the JSON file's `images` and `results`."""
    for image in range(len(study.decoded)):
        folder.save_figure(f"figure-11-{image:03d}", figure_11(study, image))
    folder.save_figure("correlations", correlations_figure(study))
    for damage in study.damages:
        folder.save_figure(f"damage-{damage.replace('_', '-')}", damage_figure(study, damage=damage))
    rows = save_originals(folder, pictures, len(study.decoded))
    for image, row in enumerate(rows[: len(study.decoded)]):
        base = f"images/{image:03d}"
        row["reconstruction"] = folder.save_image(f"{base}/reconstruction.png", study.reference[image])
        row["decodes"] = [
            folder.save_image(f"{base}/{variant.name}.png", picture)
            for variant, picture in zip(study.variants, study.decoded[image], strict=True)
        ]
    return rows, _results(study)


def _results(study: InterpolationStudy) -> dict[str, Any]:
    return {
        "variants": [asdict(variant) for variant in study.variants],
        "latent_variance": study.latent_variance,
        "measures": {
            name: {
                "label": MEASURE_LABELS.get(name, name),
                "better": "higher" if name in HIGHER_IS_BETTER else "lower",
                "values": values,
            }
            for name, values in study.values.items()
        },
        "damages": {
            name: {"label": DAMAGE_LABELS.get(name, name), "values": values} for name, values in study.damages.items()
        },
        "set_sliced_wasserstein": study.set_distance,
        "correlations": [_correlation(entry) for entry in study.correlations],
        "claims": [_claim(entry) for entry in study.claims],
    }


def _correlation(entry: Correlation) -> dict[str, Any]:
    return {
        "measure": entry.measure,
        "damage": entry.damage,
        "subset": entry.subset,
        "rho": interval(entry.rho),
        "discordant": interval(entry.discordant),
        "advantage_over_latent_mse": interval(entry.advantage),
        "per_image": entry.per_image,
    }


def _claim(entry: Claim) -> dict[str, Any]:
    return {
        "better": entry.better.name,
        "worse": entry.worse.name,
        "higher_mse": interval(entry.higher_mse),
        "less_damage": {name: interval(value) for name, value in entry.less_damage.items()},
        "contradicted": {name: interval(value) for name, value in entry.contradicted.items()},
        "by_features": {name: interval(value) for name, value in entry.by_features.items()},
    }
