"""Figure 11 to pick from: image, scale and method, with every measure of the picture and what orders pictures best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lpl.reports import wording
from lpl.reports.comparison import ABSENT
from lpl.reports.instruments.common import ASSETS, Finding, decimal, heading, image_labels, percent
from lpl.reports.instruments.contents import Correlation, InterpolationFile, Interval
from lpl.reports.instruments.folders import Analysis
from lpl.reports.instruments.store import PictureStore
from lpl.reports.section import Comparison, Section

NAME = "interpolation"
METHODS = {
    "pixel-bilinear": "Pixels, bilinear",
    "latent-nearest": "Latents, nearest",
    "latent-bilinear": "Latents, bilinear",
    "latent-bicubic": "Latents, bicubic",
}
WHOLE = "feature/all/"  # begins the names of the loss over all blocks
FEATURES = f"{WHOLE}prediction"  # as the paper normalises them


def interpolation(comparison: Comparison) -> Section | None:
    """What shrinking and enlarging does, and which measures see it."""
    analyses = comparison.of(InterpolationFile)
    if not analyses:
        return None
    folders = [_folder(analysis, comparison.store) for analysis in analyses]
    damages = {key: entry.label for analysis in analyses for key, entry in analysis.content.results.damages.items()}
    measures = {key: None for analysis in analyses for key in analysis.content.results.measures}
    values = {
        "headings": [heading(analysis) for analysis in analyses],
        "findings": [_finding(analysis) for analysis in analyses],
        "data": {"folders": folders},
        "images": image_labels(analyses, [len(folder["images"]) for folder in folders]),
        "damages": damages,
        "measures": _grouped({key: label_of(key, analyses) for key in measures}),
        "scales": sorted({variant.scale for analysis in analyses for variant in analysis.content.results.variants}),
        "methods": METHODS,
        "claims": [row for analysis in analyses for row in claim_rows(analysis, list(damages))],
    }
    title = "Shrunk and enlarged: which measure sees the damage?"
    assets = (*ASSETS, "instruments/interpolation.js")
    return Section(NAME, title, "Interpolation", "instruments/interpolation.html.j2", values, assets)


def label_of(key: str, analyses: list[Analysis[InterpolationFile]]) -> str:
    """A measure in words."""
    if key.startswith("feature/"):
        block, _, kind = key.removeprefix("feature/").rpartition("/")
        return f"features, {'all blocks' if block == 'all' else block}, {kind}"
    for analysis in analyses:
        results = analysis.content.results
        if key in results.measures:
            return results.measures[key].label
    return key


def claim_rows(analysis: Analysis[InterpolationFile], damages: Sequence[str]) -> list[dict[str, Any]]:
    """A row a sentence of the appendix: how often its first half holds, and how often both, by each damage."""
    return [
        {
            "name": analysis.name,
            "colour": analysis.colour,
            "pair": f"{_way(entry.better)} over {_way(entry.worse)}",
            "cells": [_share(entry.higher_mse), *(_share(entry.contradicted.get(damage)) for damage in damages)],
        }
        for entry in analysis.content.results.claims
    ]


def _way(name: str) -> str:
    """A way of shrinking, such as `latent-nearest-1.5`, in words."""
    method, _, scale = name.rpartition("-")
    return f"{METHODS.get(method, method).lower()}, s = {scale}"


def _share(interval: Interval | None) -> str:
    """A share of images with its interval."""
    if interval is None or interval.mean is None:
        return ABSENT
    if interval.low is None or interval.high is None:
        return percent(interval.mean)
    return f"{percent(interval.mean)} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _grouped(labels: dict[str, str]) -> dict[str, dict[str, str]]:
    """Plain measures first, then the loss as a whole, then its blocks."""
    groups: dict[str, dict[str, str]] = {"Latents and pixels": {}, "The loss, all blocks": {}, "Single blocks": {}}
    for key, label in labels.items():
        group = "Latents and pixels" if not key.startswith("feature/") else "Single blocks"
        groups["The loss, all blocks" if key.startswith(WHOLE) else group][key] = label
    return {name: entries for name, entries in groups.items() if entries}


def _folder(analysis: Analysis[InterpolationFile], store: PictureStore) -> dict[str, Any]:
    content = analysis.content
    shown = [image for image in content.images if len(image.decodes) == len(content.results.variants)]

    def add(path: str | None, label: str) -> str | None:
        return store.add(analysis.folder, path, NAME, f"{label} of {analysis.name}")

    return {
        **heading(analysis),
        "images": [
            {
                "name": image.name,
                "original": add(image.original, "originals"),
                "reconstruction": add(image.reconstruction, "reconstructions"),
                "decodes": [add(path, "decodes") for path in image.decodes],
            }
            for image in shown
        ],
        "variants": [variant.model_dump() for variant in content.results.variants],
        "measures": {key: entry.model_dump() for key, entry in content.results.measures.items()},
        "damages": {key: entry.model_dump() for key, entry in content.results.damages.items()},
        "correlations": [entry.model_dump() for entry in content.results.correlations],
    }


def _finding(analysis: Analysis[InterpolationFile]) -> Finding:
    """Whether the decoder's features order the pictures better than latent MSE does, damage by damage."""
    results = analysis.content.results
    entries = {(entry.measure, entry.damage): entry for entry in results.correlations if entry.subset == "all"}
    verdicts: dict[str, list[str]] = {"better": [], "no differently": [], "worse": []}
    for damage, measure in results.damages.items():
        ours, theirs = entries.get((FEATURES, damage)), entries.get(("latent_mse", damage))
        if ours is not None and theirs is not None:
            numbers = f"{measure.label} (ρ {decimal(ours.rho.mean, 2)} to {decimal(theirs.rho.mean, 2)})"
            verdicts[_verdict(ours)].append(numbers)
    parts = [f"{verdict} by {wording.listed(found)}" for verdict, found in verdicts.items() if found]
    text = (
        f"against latent MSE, the decoder’s features (all blocks, prediction) order the {len(results.variants)} "
        f"pictures {'; '.join(parts)}."
    )
    return Finding(analysis.name, analysis.colour, text if parts else "it holds no correlation of features.")


def _verdict(entry: Correlation) -> str:
    """By the 95 % interval of ρ's difference to that of latent MSE, paired by image."""
    advantage = entry.advantage_over_latent_mse
    if advantage is None or advantage.low is None or advantage.high is None or advantage.low <= 0 <= advantage.high:
        return "no differently"
    return "better" if advantage.low > 0 else "worse"
