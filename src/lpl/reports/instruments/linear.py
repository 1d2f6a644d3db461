"""A.1 to pick from: the decoder's local metric JᵀJ, its channels, and how far its linear approximation holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpl.reports import wording
from lpl.reports.axes import spanning
from lpl.reports.charts import Chart, Line
from lpl.reports.instruments.common import ASSETS, Finding, floats, heading, image_labels, number
from lpl.reports.instruments.folders import Analysis
from lpl.reports.instruments.linear_contents import LinearFile, LinearImage, Taylor
from lpl.reports.instruments.store import PictureStore
from lpl.reports.section import Comparison, Section

NAME = "linear"
DEPTH = 1e-7  # eigenvalues below this share of the largest are not told from zero
Analyses = Sequence[Analysis[LinearFile]]


def linear(comparison: Comparison) -> Section | None:
    """The decoder as a linear map."""
    analyses = comparison.of(LinearFile)
    if not analyses:
        return None
    folders = [_folder(analysis, comparison.store) for analysis in analyses]
    counts = [len(folder["images"]) for folder in folders]
    values = {
        "headings": [heading(analysis) for analysis in analyses],
        "findings": [_finding(analysis) for analysis in analyses],
        "data": {"folders": folders},
        "images": image_labels(analyses, counts),
        "spectra": [spectrum_chart(analyses, index) for index in range(max(counts))],
        "taylor": taylor_charts(analyses),
        "crossings": [row for analysis in analyses for row in _crossings(analysis)],
        "equations": [row for analysis in analyses[:1] for row in equation_rows(analysis)],
    }
    title = "The decoder as a linear map"
    assets = (*ASSETS, "instruments/bars.js", "instruments/linear.js")
    return Section(NAME, title, "Linearity", "instruments/linear.html.j2", values, assets)


def _measured(analysis: Analysis[LinearFile]) -> list[LinearImage]:
    return [image for image in analysis.content.images if image.metric is not None]


def _folder(analysis: Analysis[LinearFile], store: PictureStore) -> dict[str, Any]:
    results = analysis.content.results

    def add(path: str | None, label: str) -> str | None:
        return store.add(analysis.folder, path, NAME, f"{label} of {analysis.name}")

    kept = {"ritz_values", "ritz_weights"}
    return {
        **heading(analysis),
        "step": results.step_length,
        "channels": results.channels.model_dump(),
        "images": [
            {
                "name": image.name,
                "reconstruction": add(image.reconstruction, "reconstructions"),
                "largest": add(image.largest_step, "steps along λ_max"),
                "smallest": add(image.smallest_step, "steps along λ_min"),
                "metric": image.metric.model_dump(exclude=kept) if image.metric else None,
            }
            for image in _measured(analysis)
        ],
    }


def spectrum_chart(analyses: Analyses, index: int) -> Chart:
    """The eigenvalues of JᵀJ at one image: which share of them lies above λ."""
    lines = []
    for analysis in analyses:
        measured = _measured(analysis)
        if index >= len(measured):
            continue
        metric = measured[index].metric
        assert metric is not None  # `_measured` leaves no other
        values, weights = floats(metric.ritz_values), floats(metric.ritz_weights)
        values = np.maximum(values, values[-1] * DEPTH)
        share = np.maximum(1 - np.cumsum(weights), 1 / metric.dimension)
        lines.append(Line(analysis.name, analysis.colour, values, share))
    return Chart(
        title="Eigenvalues of JᵀJ",
        caption="Share of the eigenvalues above λ, estimated. The wider, the less alike the directions. Logarithmic.",
        lines=tuple(lines),
        x=spanning("λ", [line.x for line in lines], "log", margin=0.02),
        y=spanning("share above λ", [line.y for line in lines], "log"),
        legend=True,
    )


def taylor_charts(analyses: Analyses) -> list[Chart]:
    """How far the linear approximation (13)–(14) holds: for white noise, and for the errors that training sees."""
    noise = [(analysis, analysis.content.results.taylor) for analysis in analyses]
    predicted = [(analysis, analysis.content.results.taylor_of_predictions) for analysis in analyses]
    charts = [
        _taylor_chart("Linear approximation, white noise", "e = σn", "σ", noise),
        _taylor_chart("The same for the errors of ẑ0", "e = ẑ0 − z0", "σ_t that ẑ0 was predicted at", predicted),
    ]
    return [chart for chart in charts if chart.lines]


def _taylor_chart(
    title: str, error: str, axis: str, studies: Sequence[tuple[Analysis[LinearFile], Taylor | None]]
) -> Chart:
    lines = [
        Line(analysis.name, analysis.colour, np.array(study.sigmas), floats(study.mean))
        for analysis, study in studies
        if study is not None
    ]
    return Chart(
        title=title,
        caption=f"Relative error of F(z) + Je, {error}, mean over images; the thin line is 10 %. Logarithmic.",
        lines=tuple(lines),
        x=spanning(axis, [line.x for line in lines], "log", margin=0.0),
        y=spanning("relative error", [line.y for line in lines], "log", include=[0.1]),
        guide=0.1,
        legend=True,
    )


def _crossings(analysis: Analysis[LinearFile]) -> list[dict[str, Any]]:
    """At which σ the linear approximation is off by how much, a row for each kind of error."""
    results = analysis.content.results
    studies = {"white noise, σ": results.taylor, "errors of ẑ0, σ_t": results.taylor_of_predictions}
    return [
        {"name": analysis.name, "colour": analysis.colour, "error": error, "cells": _reached(study)}
        for error, study in studies.items()
        if study is not None
    ]


def _reached(taylor: Taylor) -> dict[str, str]:
    cells = {}
    for tolerance, sigma in taylor.sigma_at.items():
        first = sigma is not None and sigma <= taylor.sigmas[0]
        text = f"not up to {taylor.sigmas[-1]:g}" if sigma is None else f"{'≤ ' if first else ''}{number(sigma, 2)}"
        cells[f"{100 * float(tolerance):g}{wording.GAP}%"] = text
    return cells


def equation_rows(analysis: Analysis[LinearFile]) -> list[tuple[str, ...]]:
    """Equations (10)–(12) for each random linear decoder."""
    return [
        (
            f"{entry.shape}, {entry.image_values}×{entry.latent_values}",
            number(entry.identity_error, 2),
            number(entry.printed_error, 2),
            f"{number(entry.monte_carlo.estimate, 3)} ± {number(entry.monte_carlo.standard_error, 1)}",
            number(entry.monte_carlo.exact, 3),
            number(entry.tightness.smallest, 3),
            number(entry.tightness.median, 3),
            number(entry.tightness.largest, 3),
        )
        for entry in analysis.content.results.equations
    ]


def _finding(analysis: Analysis[LinearFile]) -> Finding:
    measured = _measured(analysis)
    results = analysis.content.results
    parts = []
    if measured:
        metric = measured[0].metric
        assert metric is not None  # `_measured` leaves no other
        condition = metric.condition_at_least
        spread = f"at least {number(condition, 2)}" if condition is not None else "beyond what rounding lets one see"
        parts.append(
            f"λ_max/λ_min is {spread}, and {number(metric.effective_rank, 3)} of {metric.dimension:,} directions count "
            "in effect"
        )
    parts.append(f"the most sensitive channel weighs {number(results.channels.anisotropy, 2)} times the least")
    sigma = results.taylor.sigma_at.get("0.1")
    if sigma is not None:
        parts.append(
            f"the linear approximation is off by 10{wording.GAP}% from white noise of σ = {number(sigma, 2)} on"
        )
    return Finding(analysis.name, analysis.colour, f"{'; '.join(parts)}.")
