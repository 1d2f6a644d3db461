"""What `lpl calibrate` measured, over the noise: of the loss as a whole, and of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lpl.reports.axes import Scale, Values, spanning
from lpl.reports.charts import Chart, Line, colours
from lpl.reports.instruments.calibration_contents import CalibrationFile, CalibrationResults, Study
from lpl.reports.instruments.common import floats
from lpl.reports.instruments.contents import Numbers
from lpl.reports.instruments.folders import Analysis
from lpl.reports.runs import is_number

QUANTITIES: dict[
    str, tuple[str, str, Scale]
] = {  # key → how the curves by block are called, what they say, and whether their axis is logarithmic
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
RELIABILITY = "Share of the latents’ variance that ẑ0 explains, in %; dashed: a Gaussian that knows no neighbours."
MIXTURE = "Samples near each level that pass the gate chosen, in %; dashed: all samples."
LOSS = "w·LPL, all blocks; dashed: with the paper’s settings. Logarithmic."
RATIO = "‖∇ w·LPL‖ over ‖∇ ℓ2‖ at the denoiser’s output; dashed: with the paper’s settings. Logarithmic."
ERROR = "Cosine of the gradient with ẑ0 − z0: 1 is the ℓ2 loss’s direction; dashed: the paper’s settings."
CONTRAST = "Cosine of the descent with ẑ0 − mean: above 0 it asks for contrast; dashed: the paper’s settings."
IN_PER_CENT = ("gradient_share", "feature_reliability", "concentration")
Analyses = Sequence[Analysis[CalibrationFile]]


def noise_charts(analyses: Analyses) -> list[Chart]:
    """What depends on the noise alone."""
    return [
        _chart_of(analyses, "Reliability of ẑ0", RELIABILITY, _reliabilities, floor=0.0),
        _chart_of(analyses, "How often training meets it", MIXTURE, _mixtures, floor=0.0),
        _chart_of(analyses, "Loss", LOSS, _studied(_losses), "log"),
        _chart_of(analyses, "Gradient ratio", RATIO, _studied(_ratios), "log", guide=1.0),
        _chart_of(analyses, "Towards the error", ERROR, _studied(lambda study, _: floats(study.alignment)), guide=0.0),
        _chart_of(
            analyses, "Towards contrast", CONTRAST, _studied(lambda study, _: floats(study.contrast_pull)), guide=0.0
        ),
    ]


def _chart_of(
    analyses: Analyses,
    title: str,
    caption: str,
    pairs: Callable[[CalibrationResults], tuple[Values, Values]],
    scale: Scale = "linear",
    guide: float | None = None,
    floor: float | None = None,
) -> Chart:
    """Two lines an autoencoder, the second one dashed."""
    lines = []
    for analysis in analyses:
        sigmas = np.array(analysis.content.results.chosen.sigmas)
        for values, dashed in zip(pairs(analysis.content.results), (False, True), strict=True):
            label = f"{analysis.name}, dashed" if dashed else analysis.name
            lines.append(Line(label, analysis.colour, sigmas, values, dashed=dashed))
    return _by_noise(title, caption, lines, scale, guide, floor=floor)


def _reliabilities(results: CalibrationResults) -> tuple[Values, Values]:
    return 100 * floats(results.chosen.reliability), 100 * floats(results.channelwise_reliability)


def _mixtures(results: CalibrationResults) -> tuple[Values, Values]:
    passed = floats(results.mixture.open)
    return 100 * passed, 100 * (passed + floats(results.mixture.closed))


def _studied(
    measure: Callable[[Study, float], Values],
) -> Callable[[CalibrationResults], tuple[Values, Values]]:
    """A measure of a study and a weight, of the settings chosen and of the paper's."""

    def both(results: CalibrationResults) -> tuple[Values, Values]:
        paper = next((entry.paper for entry in results.advice if entry.setting == "weight"), None)
        weights = [weight if is_number(weight) else 1.0 for weight in (results.settings.get("weight"), paper)]
        return measure(results.chosen, weights[0]), measure(results.paper_settings, weights[1])

    return both


def _losses(study: Study, weight: float) -> Values:
    return weight * np.sum([floats(row) for row in study.loss], axis=1)


def _ratios(study: Study, weight: float) -> Values:
    return weight * floats(study.gradient_ratio)


def block_chart(analysis: Analysis[CalibrationFile], key: str) -> Chart:
    """One quantity of every block of one decoder."""
    study = analysis.content.results.chosen
    title, caption, scale = QUANTITIES[key]
    table = block_table(analysis, key)
    lines = [
        Line(name, colour, np.array(study.sigmas), table[:, index])
        for index, (name, colour) in enumerate(zip(study.blocks, colours("step", len(study.blocks)), strict=True))
    ]
    threshold = analysis.content.results.settings.get("sigma_threshold")
    mark = float(threshold) if is_number(threshold) else None
    return _by_noise(
        title,
        caption,
        lines,
        "log" if scale == "log" else "linear",
        guide=0.0 if scale == "linear" else None,
        mark=mark,
    )


def block_table(analysis: Analysis[CalibrationFile], key: str) -> Values:
    """A quantity by level and block, (S, L), in % where it is a share."""
    results = analysis.content.results
    concentrated = key == "concentration"
    rows = _concentration(results.chosen, results.settings) if concentrated else getattr(results.chosen, key)
    return np.stack([floats(row) for row in rows]) * (100 if key in IN_PER_CENT else 1)


def _concentration(study: Study, settings: dict[str, Any]) -> list[Numbers]:
    """Under the normalisation chosen, whose name names its floor where it has one."""
    name, floor = settings.get("normalization"), settings.get("variance_floor")
    keys = [f"{name}, floor {floor:g}" if is_number(floor) else "", str(name), *study.concentration]
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
