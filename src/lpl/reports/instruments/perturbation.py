"""Figure 12 to pick from: noise on one latent position, where the picture changes, and by how much."""

from __future__ import annotations

from typing import Any

from lpl.reports.instruments.common import ASSETS, Finding, heading, image_labels, number, percent
from lpl.reports.instruments.contents import PerturbationFile, PerturbationImage, Sprite
from lpl.reports.instruments.folders import Analysis
from lpl.reports.instruments.store import PictureStore
from lpl.reports.section import Comparison, Section

NAME = "perturbation"
MAPS = {
    "error": "Squared error",
    "far": "Share far away",
    "visible": "Visible far away",
}


def perturbation(comparison: Comparison) -> Section | None:
    """What noise on one latent position does."""
    analyses = comparison.of(PerturbationFile)
    if not analyses:
        return None
    folders = [_folder(analysis, comparison.store) for analysis in analyses]
    values = {
        "headings": [heading(analysis) for analysis in analyses],
        "findings": [_finding(analysis) for analysis in analyses],
        "data": {"folders": folders},
        "images": image_labels(analyses, [len(folder["images"]) for folder in folders]),
        "maps": MAPS,
    }
    title = "Noise on one latent position: what changes, near and far"
    assets = (*ASSETS, "instruments/perturbation.js")
    return Section(NAME, title, "Perturbation", "instruments/perturbation.html.j2", values, assets)


def _folder(analysis: Analysis[PerturbationFile], store: PictureStore) -> dict[str, Any]:
    results = analysis.content.results
    return {
        **heading(analysis),
        "images": [_image(analysis, image, store) for image in analysis.content.images],
        "positions": results.positions,
        "grid": results.grid,
        "radius": results.window_radius,
        "gain": results.difference_gain,
    }


def _image(analysis: Analysis[PerturbationFile], image: PerturbationImage, store: PictureStore) -> dict[str, Any]:
    def sprite(entry: Sprite | None, label: str) -> dict[str, Any] | None:
        if entry is None:
            return None
        key = store.add(analysis.folder, entry.file, NAME, f"{label} of {analysis.name}", entry.tile)
        return {**entry.model_dump(exclude={"file"}), "key": key}

    return {
        "name": image.name,
        "reconstruction": store.add(analysis.folder, image.reconstruction, NAME, f"reconstructions of {analysis.name}"),
        "error": image.error,
        "local": image.local_share,
        "visible": image.visible_outside,
        "radii": image.radius,
        "decodes": sprite(image.decodes, "decodes"),
        "differences": sprite(image.differences, "differences"),
        "influence": sprite(image.influence, "maps of where the error falls"),
    }


def _finding(analysis: Analysis[PerturbationFile]) -> Finding:
    results = analysis.content.results
    ratios = [ratio for ratio in results.worst_over_median if ratio is not None]
    worst = f" The worst position costs {number(max(ratios), 2)} times the median one." if ratios else ""
    radius = results.window_radius
    reach = f"more than {radius} position{'s' if radius != 1 else ''} away"
    text = f"{percent(results.global_share)} of the squared error falls {reach} from where the noise was added.{worst}"
    return Finding(analysis.name, analysis.colour, text)
