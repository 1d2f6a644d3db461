"""The choices of `lpl calibrate` with their reasons, and what they rest on: measurements by noise and block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpl.reports import wording
from lpl.reports.axes import Scale, Values, spanning
from lpl.reports.charts import Chart, Line, colours
from lpl.reports.instruments.calibration_contents import CalibrationFile, Study
from lpl.reports.instruments.common import ASSETS, Finding, floats, heading, number, percent
from lpl.reports.instruments.contents import Numbers
from lpl.reports.instruments.folders import Analysis
from lpl.reports.section import Comparison, Section

NAME = "calibration"
LABELS = {
    "outliers": "Masked blocks",
    "normalization": "Normalisation",
    "variance_floor": "Variance floor",
    "sigma_threshold": "τ_σ, the gate",
    "blocks": "Blocks",
    "depth_weights": "ω_l = r₁/r_l",
    "weight": "w, LPL’s weight",
}
QUANTITIES = {  # key → how the curves by block are called, what they say, and whether their axis is logarithmic
    "gradient_share": ("Share of the gradient", "What each block adds to the loss’s gradient, in %.", "linear"),
    "loss": ("Loss", "Each block’s distance times ω_l. Logarithmic.", "log"),
    "feature_reliability": (
        "Reliability of the features",
        "Share of the features’ variance that those of ẑ0 explain, in %; below 0 the mean feature would be nearer.",
        "linear",
    ),
    "concentration": (
        "Concentration",
        "Share of a block’s distance on a tenth of its channels, in %: high where a few are magnified.",
        "linear",
    ),
}
IN_PER_CENT = ("gradient_share", "feature_reliability", "concentration")
Analyses = Sequence[Analysis[CalibrationFile]]


def calibration(comparison: Comparison) -> Section | None:
    """Which settings suit an autoencoder, and why."""
    analyses = comparison.of(CalibrationFile)
    if not analyses:
        return None
    values = {
        "headings": [heading(analysis) for analysis in analyses],
        "findings": [_finding(analysis) for analysis in analyses],
        "choices": choice_rows(analyses),
        "charts": [reliability_chart(analyses), ratio_chart(analyses), *direction_charts(analyses)],
        "legend": [line for line in reliability_chart(analyses).lines if not line.dashed],
        "quantities": {key: words[0] for key, words in QUANTITIES.items()},
        "by_block": [{key: block_chart(analysis, key) for key in QUANTITIES} for analysis in analyses],
        "data": {"folders": [_folder(analysis) for analysis in analyses], "quantities": _units()},
        "sigmas": max((analysis.content.results.chosen.sigmas for analysis in analyses), key=len),
        "first": _first_level(analyses[0]),
        "costs": [_cost_rows(analysis) for analysis in analyses],
        "recipes": [_recipe(analysis) for analysis in analyses],
    }
    title = "Which settings of the loss suit the autoencoder"
    assets = (*ASSETS, "instruments/calibration.js")
    return Section(NAME, title, "Calibration", "instruments/calibration.html.j2", values, assets)


def choice_rows(analyses: Analyses) -> list[dict[str, Any]]:
    """A row a setting: the paper's value, and each autoencoder's with its reason."""
    settings = dict.fromkeys(entry.setting for analysis in analyses for entry in analysis.content.results.advice)
    rows = []
    for setting in settings:
        found = [
            next((entry for entry in analysis.content.results.advice if entry.setting == setting), None)
            for analysis in analyses
        ]
        paper = next(entry.paper for entry in found if entry is not None)
        cells = [
            None
            if entry is None
            else {
                "value": _setting(entry.value),
                "reason": _sentence(entry.reason),
                "warning": _sentence(entry.warning),
                "changed": entry.value != entry.paper,
            }
            for entry in found
        ]
        label = LABELS.get(setting, setting)
        rows.append({"setting": setting, "label": label, "paper": _setting(paper), "cells": cells})
    return rows


def _setting(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def reliability_chart(analyses: Analyses) -> Chart:
    """How much of the latents ẑ0 explains."""
    lines = []
    for analysis in analyses:
        results = analysis.content.results
        sigmas = np.array(results.chosen.sigmas)
        lines.append(Line(analysis.name, analysis.colour, sigmas, 100 * floats(results.chosen.reliability)))
        without = 100 * floats(results.channelwise_reliability)
        lines.append(Line(f"{analysis.name}, no neighbours", analysis.colour, sigmas, without, dashed=True))
    caption = "Share of the latents’ variance that ẑ0 explains, in %; dashed: a Gaussian that knows no neighbours."
    return _by_noise("Reliability of ẑ0", caption, lines, floor=0.0)


def ratio_chart(analyses: Analyses) -> Chart:
    """How strongly the loss pulls, as chosen and with the paper's settings."""
    lines = []
    for analysis in analyses:
        results = analysis.content.results
        for study, label, dashed in ((results.chosen, "chosen", False), (results.paper_settings, "the paper’s", True)):
            weight = results.settings.get("weight") if not dashed else _paper(analysis, "weight")
            scale = float(weight) if isinstance(weight, int | float) else 1.0
            ratios = scale * floats(study.gradient_ratio)
            name = f"{analysis.name}, {label}, w = {scale:g}"
            lines.append(Line(name, analysis.colour, np.array(study.sigmas), ratios, dashed=dashed))
    caption = "‖∇ w·LPL‖ over ‖∇ ℓ2‖ at the denoiser’s output; dashed: the paper’s settings. Logarithmic."
    return _by_noise("Gradient ratio", caption, lines, "log", guide=1.0)


def direction_charts(analyses: Analyses) -> list[Chart]:
    """Where the gradient points."""
    words = {
        "alignment": ("Towards the error", "Cosine of the gradient with ẑ0 − z0: 1 is the ℓ2 loss’s direction."),
        "contrast_pull": ("Towards contrast", "Cosine of the descent with ẑ0 − mean: above 0 it asks for contrast."),
    }
    charts = []
    for key, (title, caption) in words.items():
        lines = []
        for analysis in analyses:
            results = analysis.content.results
            for study, label, dashed in (
                (results.chosen, "chosen", False),
                (results.paper_settings, "the paper’s", True),
            ):
                x, y = np.array(study.sigmas), floats(getattr(study, key))
                lines.append(Line(f"{analysis.name}, {label}", analysis.colour, x, y, dashed=dashed))
        charts.append(_by_noise(title, f"{caption} Dashed: the paper’s settings.", lines, guide=0.0))
    return charts


def block_chart(analysis: Analysis[CalibrationFile], key: str) -> Chart:
    """One quantity of every block of one decoder."""
    study = analysis.content.results.chosen
    title, caption, scale = QUANTITIES[key]
    table = _table(analysis, key)
    lines = [
        Line(name, colour, np.array(study.sigmas), table[:, index])
        for index, (name, colour) in enumerate(zip(study.blocks, colours("step", len(study.blocks)), strict=True))
    ]
    threshold = analysis.content.results.settings.get("sigma_threshold")
    mark = float(threshold) if isinstance(threshold, int | float) else None
    return _by_noise(
        title, caption, lines, "log" if scale == "log" else "linear", guide=0.0 if scale == "linear" else None, mark=mark
    )


def _table(analysis: Analysis[CalibrationFile], key: str) -> Values:
    """A quantity by level and block, (S, L), in % where it is a share."""
    results = analysis.content.results
    rows: list[Numbers]
    if key == "concentration":
        rows = _concentration(results.chosen, results.settings)
    else:
        rows = getattr(results.chosen, key)
    return np.stack([floats(row) for row in rows]) * (100 if key in IN_PER_CENT else 1)


def _concentration(study: Study, settings: dict[str, Any]) -> list[Numbers]:
    """Under the normalisation chosen, whose name names its floor where it has one."""
    name, floor = settings.get("normalization"), settings.get("variance_floor")
    keys = [f"{name}, floor {floor:g}" if isinstance(floor, int | float) else "", str(name), *study.concentration]
    return study.concentration[next(key for key in keys if key in study.concentration)]


def _by_noise(
    title: str,
    caption: str,
    lines: Sequence[Line],
    scale: Scale = "linear",
    guide: float | None = None,
    mark: float | None = None,
    floor: float | None = None,
) -> Chart:
    return Chart(
        title=title,
        caption=caption,
        lines=tuple(lines),
        x=spanning("σ", [line.x for line in lines], "log", margin=0.0),
        y=spanning(title, [line.y for line in lines], scale, include=[] if guide is None else [guide], floor=floor),
        guide=guide,
        mark=mark,
    )


def _units() -> dict[str, dict[str, str]]:
    return {key: {"label": words[0], "unit": "%" if key in IN_PER_CENT else ""} for key, words in QUANTITIES.items()}


def _folder(analysis: Analysis[CalibrationFile]) -> dict[str, Any]:
    results = analysis.content.results
    return {
        **heading(analysis),
        "sigmas": results.chosen.sigmas,
        "blocks": results.chosen.blocks,
        "tables": {key: [[_rounded(v) for v in row] for row in _table(analysis, key).tolist()] for key in QUANTITIES},
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _first_level(analysis: Analysis[CalibrationFile]) -> int:
    """The measured level nearest to the gate chosen."""
    results = analysis.content.results
    threshold = results.settings.get("sigma_threshold") or 1.0
    return int(np.abs(np.log(np.array(results.chosen.sigmas) / threshold)).argmin())


def _cost_rows(analysis: Analysis[CalibrationFile]) -> list[tuple[str, ...]]:
    """A row a block: ω_l, its share of the gradient in training, what it costs, and what its channels are like."""
    results = analysis.content.results
    study = results.chosen
    total = sum(cost.added_gigaflops or 0.0 for cost in results.costs.values()) or 1.0
    rows = []
    for index, name in enumerate(study.blocks):
        cost, block = results.costs[name], results.blocks[name]
        seconds = cost.added_seconds
        rows.append(
            (
                name,
                number(study.omega[index]),
                percent(study.training.gradient_share[index]),
                percent((cost.added_gigaflops or 0.0) / total),
                number(cost.added_gigaflops),
                "–" if seconds is None else number(1000 * seconds, 2),
                f"{block.weak_channels} of {block.channels}",
                percent(block.zero_share),
            )
        )
    return rows


def _recipe(analysis: Analysis[CalibrationFile]) -> str:
    """The recipe fragment as it was written, empty where it is missing."""
    path = analysis.folder / analysis.content.results.recipe
    inside = path.resolve().is_relative_to(analysis.folder.resolve())
    return path.read_text(encoding="utf-8", errors="replace") if inside and path.is_file() else ""


def _paper(analysis: Analysis[CalibrationFile], setting: str) -> Any:
    return next((entry.paper for entry in analysis.content.results.advice if entry.setting == setting), None)


def _finding(analysis: Analysis[CalibrationFile]) -> Finding:
    advice = analysis.content.results.advice
    changed = [
        f"{LABELS.get(entry.setting, entry.setting)} {_setting(entry.value)} instead of {_setting(entry.paper)}"
        for entry in advice
        if entry.value != entry.paper
    ]
    kept = len(advice) - len(changed)
    if not changed:
        return Finding(analysis.name, analysis.colour, "the paper’s settings suit it as they are.")
    text = f"{wording.listed(changed)}; {wording.counted(kept, 'setting')} as in the paper."
    return Finding(analysis.name, analysis.colour, text)
