"""Figure 13 to pick from: a block's feature maps before and after the mask, their values, and how the mask moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpl.reports.axes import spanning
from lpl.reports.charts import Chart, Line
from lpl.reports.comparison import ABSENT
from lpl.reports.instruments.common import (
    ASSETS,
    Finding,
    block_labels,
    by_channel,
    decimal,
    floats,
    heading,
    image_labels,
    number,
    percent,
)
from lpl.reports.instruments.contents import FeatureBlock, FeatureFile, FeatureImage, Maps
from lpl.reports.instruments.folders import Analysis
from lpl.reports.instruments.store import PictureStore
from lpl.reports.section import Comparison, Section

NAME = "features"
LOWEST_DENSITY = 1e-6  # of the histogram's axis
SWEPT = {
    "quantile": "Quantile of the thresholds",
    "offset": "Offset beyond them",
    "opening": "Opening, pixels at full resolution",
    "closing": "Closing, pixels at full resolution",
}
Analyses = Sequence[Analysis[FeatureFile]]


def features(comparison: Comparison) -> Section | None:
    """The decoder's feature maps and their outliers."""
    analyses = comparison.of(FeatureFile)
    if not analyses:
        return None
    folders = [_folder(analysis, comparison.store) for analysis in analyses]
    names = [list(analysis.content.results.blocks) for analysis in analyses]
    count = max(map(len, names))
    values = {
        "headings": [heading(analysis) for analysis in analyses],
        "findings": [_finding(analysis) for analysis in analyses],
        "data": {"folders": folders},
        "images": image_labels(analyses, [len(folder["images"]) for folder in folders]),
        "blocks": block_labels(names),
        "first_block": _most_masked(analyses[0]),
        "table": [row for analysis in analyses for row in block_rows(analysis)],
        "charts": [block_charts(analyses, index) for index in range(count)],
    }
    title = "The decoder’s features, and what Algorithm 1 masks"
    assets = (*ASSETS, "instruments/bars.js", "instruments/features.js")
    return Section(NAME, title, "Features", "instruments/features.html.j2", values, assets)


def _folder(analysis: Analysis[FeatureFile], store: PictureStore) -> dict[str, Any]:
    results = analysis.content.results
    shown = [image for image in analysis.content.images if image.maps]
    return {
        **heading(analysis),
        "images": [_image(analysis, image, store) for image in shown],
        "levels": results.quantile_levels,
        "blocks": [_block(name, block, shown) for name, block in results.blocks.items()],
    }


def _image(analysis: Analysis[FeatureFile], image: FeatureImage, store: PictureStore) -> dict[str, Any]:
    def add(path: str | None, label: str, tile: tuple[int, int] | None = None) -> str | None:
        return store.add(analysis.folder, path, NAME, f"{label} of {analysis.name}", tile)

    def maps(entry: Maps) -> dict[str, Any]:
        kept = {"channels", "columns", "scales", "masked_share", "histograms"}
        pictures = {
            "before": add(entry.before, "feature maps", entry.tile),
            "after": add(entry.after, "masked feature maps", entry.tile),
        }
        return {**entry.model_dump(include=kept), **pictures}

    blocks = analysis.content.results.blocks
    return {
        "name": image.name,
        "original": add(image.original, "originals"),
        "maps": [maps(image.maps[name]) if name in image.maps else None for name in blocks],
    }


def _block(name: str, block: FeatureBlock, images: Sequence[FeatureImage]) -> dict[str, Any]:
    """A block with the numbers of those channels alone whose maps are on the page."""
    columns = {key: values for key, values in block.channels.model_dump().items() if values}
    chosen = list(dict.fromkeys(c for image in images if name in image.maps for c in image.maps[name].channels))
    return {
        "name": name,
        "size": block.size,
        "down_f": block.down_f,
        "masked": block.masked_by_default,
        "count": len(block.rank_by_outliers),
        "dead": block.dead_channels,
        "weak": block.weak_channels,
        "ranks": {str(channel): block.rank_by_outliers.index(channel) for channel in chosen},
        "channels": {"number": chosen, **by_channel(columns, chosen)},
    }


def block_rows(analysis: Analysis[FeatureFile]) -> list[dict[str, Any]]:
    """A line of the table for each block."""
    return [
        {
            "name": analysis.name,
            "colour": analysis.colour,
            "block": name,
            "cells": (
                f"{block.size[0]}×{block.size[1]}",
                str(len(block.rank_by_outliers)),
                str(len(block.weak_channels)),
                str(len(block.dead_channels)),
                percent(block.zero_share),
                "yes" if block.masked_by_default else "no",
                percent(block.masked_share),
                percent(block.masked_energy),
                f"×{number(block.energy_lift, 2)}" if block.energy_lift else ABSENT,
                decimal(block.kept_kurtosis.get("median"), 1),
                ABSENT if block.largest_norm is None else f"×{number(block.largest_norm, 2)}",
            ),
        }
        for name, block in analysis.content.results.blocks.items()
    ]


def block_charts(analyses: Analyses, index: int) -> list[Chart]:
    """What the blocks at one position of the decoders are like, and how their mask moves."""
    charts = [histogram_chart(analyses, index), norm_chart(analyses, index), *sweep_charts(analyses, index)]
    return [chart for chart in charts if chart.lines]


def norm_chart(analyses: Analyses, index: int) -> Chart:
    """Norms over channels by position: outliers that lie together show as a step at the rare end."""
    lines = []
    for analysis in analyses:
        results = analysis.content.results
        block = dict(enumerate(results.blocks.values())).get(index)
        if block is not None and block.norms:
            shares, norms = 100 * np.array(results.norm_shares), floats(block.norms)
            lines.append(Line(analysis.name, analysis.colour, shares[::-1], norms[::-1]))
    return Chart(
        title="Norms of positions",
        caption="Norm over channels, over the median’s, that a share of positions exceeds; the worst image’s. "
        "Logarithmic.",
        lines=tuple(lines),
        x=spanning("share of positions, %", [line.x for line in lines], "log", margin=0.0),
        y=spanning("norm over the median", [line.y for line in lines], "log", include=[1.0]),
    )


def histogram_chart(analyses: Analyses, index: int) -> Chart:
    """Activations of the blocks at one position of the decoders, in standard deviations, against the normal's."""
    lines = []
    for analysis in analyses:
        results = analysis.content.results
        if index >= len(results.blocks):
            continue
        name, block = list(results.blocks.items())[index]
        edges = np.array(results.histogram_edges)
        density = np.array(block.histogram) / np.diff(edges)
        shown = np.where(density >= LOWEST_DENSITY, density, np.nan)
        lines.append(Line(f"{analysis.name}, {name}", analysis.colour, (edges[1:] + edges[:-1]) / 2, shown))
    centres = lines[0].x
    normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    lines.append(Line("normal", "data", centres, np.where(normal >= LOWEST_DENSITY, normal, np.nan), dashed=True))
    return Chart(
        title="Activations of the block",
        caption="Density over all images and channels, in standard deviations of their map. Logarithmic.",
        lines=tuple(lines),
        x=spanning("standard deviations from the map’s mean", [line.x for line in lines], margin=0.0),
        y=spanning("density", [line.y for line in lines], "log"),
        legend=True,
    )


def sweep_charts(analyses: Analyses, index: int) -> list[Chart]:
    """The share masked as each parameter of Algorithm 1 moves: of positions, and of their energy, dashed."""
    parameters = dict.fromkeys(name for analysis in analyses for name in analysis.content.results.sweeps)
    return [_sweep_chart(analyses, index, parameter) for parameter in parameters]


def _sweep_chart(analyses: Analyses, index: int, parameter: str) -> Chart:
    lines = []
    for analysis in analyses:
        results = analysis.content.results
        sweep = results.sweeps.get(parameter)
        if sweep is None or index >= len(results.blocks):
            continue
        name = list(results.blocks)[index]
        x = np.array(sweep.values)
        for what, shares, dashed in (
            ("positions", sweep.masked_share, False),
            ("energy", sweep.masked_energy, True),
        ):
            label = f"{analysis.name}, {what}"
            lines.append(Line(label, analysis.colour, x, 100 * floats(shares[name]), dashed=dashed))
    default = next((a.content.results.mask_defaults.get(parameter) for a in analyses), None)
    note = "" if default is None else f" The appendix takes {default:g}."
    return Chart(
        title=SWEPT.get(parameter, parameter),
        caption=f"Masked positions and, dashed, the energy on them, in %.{note}",
        lines=tuple(lines),
        x=spanning(parameter, [line.x for line in lines], "log" if parameter == "quantile" else "linear", margin=0.02),
        y=spanning("masked, %", [line.y for line in lines], floor=0.0),
        mark=default,
    )


def _most_masked(analysis: Analysis[FeatureFile]) -> int:
    """The block whose mask takes most energy, the first with maps where none does."""
    blocks = list(analysis.content.results.blocks.values())
    return max(range(len(blocks)), key=lambda index: blocks[index].masked_energy or 0.0)


def _finding(analysis: Analysis[FeatureFile]) -> Finding:
    blocks = analysis.content.results.blocks
    deep = {name: block for name, block in blocks.items() if block.masked_by_default}
    if not deep:
        return Finding(analysis.name, analysis.colour, "no block is masked by default.")
    name, block = max(deep.items(), key=lambda item: item[1].masked_energy or 0.0)
    kurtosis = block.kept_kurtosis.get("median")
    text = (
        f"of the blocks that the loss masks, {name} loses most: {percent(block.masked_share)} of its positions hold "
        f"{percent(block.masked_energy)} of its energy. What stays has an excess kurtosis of {decimal(kurtosis, 1)} "
        "(0: normal; above 3: a heavy tail rather than outliers)."
    )
    return Finding(analysis.name, analysis.colour, text)
