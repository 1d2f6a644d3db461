"""The choices of `lpl calibrate` with their reasons, and what they rest on: measurements by noise and block."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpl.reports import wording
from lpl.reports.axes import Values
from lpl.reports.comparison import ABSENT
from lpl.reports.instruments.calibration_charts import (
    IN_PER_CENT,
    QUANTITIES,
    Analyses,
    block_chart,
    block_table,
    noise_charts,
)
from lpl.reports.instruments.calibration_contents import Advice, CalibrationFile
from lpl.reports.instruments.common import ASSETS, Finding, heading, number, percent
from lpl.reports.instruments.folders import Analysis
from lpl.reports.section import Comparison, Section

NAME = "calibration"
LABELS = {
    "outliers": "Masked blocks",
    "normalization": "Normalisation",
    "variance_floor": "Variance floor",
    "sigma_threshold": "Gate τ_σ",
    "blocks": "Blocks",
    "depth_weights": "ω_l = r₁/r_l",
    "weight": "Weight w",
}


def calibration(comparison: Comparison) -> Section | None:
    """Which settings suit an autoencoder, and why."""
    analyses = comparison.of(CalibrationFile)
    if not analyses:
        return None
    values = {
        "headings": [heading(analysis) for analysis in analyses],
        "findings": [_finding(analysis) for analysis in analyses],
        "choices": choice_rows(analyses),
        "charts": noise_charts(analyses),
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
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sentence(text: str) -> str:
    """With a capital letter, unless it begins with a symbol such as w, and a full stop."""
    if not text:
        return ""
    first = text[0].upper() if text[1:2].isalpha() else text[0]
    return f"{first}{text[1:]}{'' if text.endswith('.') else '.'}"


def _units() -> dict[str, dict[str, str]]:
    return {key: {"label": words[0], "unit": "%" if key in IN_PER_CENT else ""} for key, words in QUANTITIES.items()}


def _folder(analysis: Analysis[CalibrationFile]) -> dict[str, Any]:
    results = analysis.content.results
    return {
        **heading(analysis),
        "sigmas": results.chosen.sigmas,
        "blocks": results.chosen.blocks,
        "tables": {key: _rounded(block_table(analysis, key)) for key in QUANTITIES},
    }


def _rounded(table: Values) -> list[list[float | None]]:
    """Numbers to four digits, None for what is not finite, as JSON has them."""
    return [[float(f"{value:.4g}") if np.isfinite(value) else None for value in row] for row in table]


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
    rows: list[tuple[str, ...]] = []
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
                ABSENT if seconds is None else number(1000 * seconds, 2),
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


def _departure(entry: Advice) -> str:
    """A setting that is not the paper's, within a sentence."""
    label = LABELS.get(entry.setting, entry.setting)
    return f"{label[:1].lower()}{label[1:]} {_setting(entry.value)} instead of {_setting(entry.paper)}"


def _finding(analysis: Analysis[CalibrationFile]) -> Finding:
    advice = analysis.content.results.advice
    changed = [_departure(entry) for entry in advice if entry.value != entry.paper]
    kept = len(advice) - len(changed)
    if not changed:
        return Finding(analysis.name, analysis.colour, "the paper’s settings suit it as they are.")
    text = f"{wording.listed(changed)}; {wording.counted(kept, 'setting')} as in the paper."
    return Finding(analysis.name, analysis.colour, text)
