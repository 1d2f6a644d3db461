"""What training logged, over steps and over time: one chart a term, smoothed, with the raw values behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from lpl.reports import wording
from lpl.reports.axes import Scale, Values, spanning
from lpl.reports.charts import Chart, Line, colours
from lpl.reports.runs import Run
from lpl.reports.wording import compact

MOST_POINTS = 1000  # that a curve is smoothed at: more are averaged first, as the kernel widens with their number
SMOOTHING = 0.02  # standard deviation of the smoothing kernel, as a share of the logged steps
CLOCKS = ("step", "seconds")  # what a curve may run over


@dataclass(frozen=True)
class Term:
    """How one logged column is shown."""

    title: str
    caption: str
    floor: float | None = None  # lower end of a linear axis, for what can't be negative
    logarithmic: bool = True  # whether the axis may be, where the curves span much
    guide: float | None = None
    factor: float = 1.0  # from the logged unit to the shown one
    noisy: bool = True  # smoothed, with the raw values behind


@dataclass(frozen=True)
class CurveGroup:
    """Charts that belong together; each is drawn over every clock that was logged."""

    title: str
    lead: str
    panels: tuple[Mapping[str, Chart], ...]  # each from clock to chart


LOSSES = {
    "loss/diffusion": Term("Diffusion loss", "ℓ2 at the denoiser's output; runs on the same path compare directly."),
    "loss/perceptual": Term("Perceptual loss", "LPL before its weight, summed over blocks.", floor=0.0),
    "loss/diffusion_weighted": Term("Weighted diffusion loss", "ℓ2 under the recipe's weighting of time steps."),
    "loss": Term("Total loss", "What each run minimises; different objectives don't compare."),
}
BALANCE = {
    "gradient_ratio": Term(
        "Gradient ratio",
        "Norm of the weighted LPL gradient over that of ℓ2, at the denoiser's output; above 1, LPL leads.",
        floor=0.0,
        guide=1.0,
    ),
    "passed": Term(
        "Passed the gate", "Share of the batch with σ ≤ τ, in %.", floor=0.0, logarithmic=False, factor=100.0
    ),
    "perceptual_weight": Term("Weight of LPL", "As matched by variance.", floor=0.0, logarithmic=False, noisy=False),
    "gradient_norm": Term("Gradient norm", "Of all weights, before clipping.", floor=0.0),
    "images_per_second": Term("Throughput", "Images a second while training.", floor=0.0, logarithmic=False),
    "learning_rate": Term("Learning rate", "After warm-up and schedule.", floor=0.0, logarithmic=False, noisy=False),
}
BLOCK_TERMS = {
    "loss/perceptual/": Term("Loss by block", "Each block's share of LPL, before its weight.", floor=0.0),
    "outliers/": Term(
        "Outlier share by block",
        "Positions that the mask leaves out, in %.",
        floor=0.0,
        logarithmic=False,
        factor=100.0,
    ),
}


def curve_groups(runs: Sequence[Run]) -> list[CurveGroup]:
    """Every logged column, in groups: losses, LPL by block, balance and speed, then whatever else there is."""
    groups = [
        _shared_group("Losses", LOSSES, runs),
        *map(_block_group, runs),
        _shared_group("Balance, optimisation and speed", BALANCE, runs),
        _shared_group("Also logged", _other_terms(runs), runs),
    ]
    return [group for group in groups if group.panels]


def constant_columns(runs: Sequence[Run]) -> list[str]:
    """Columns that never change in any run, in words with their value: a flat line would say no more."""
    return [
        f"{column.replace('_', ' ')} {wording.listed(dict.fromkeys(compact(value) for value in levels))}"
        for column, levels in _constants(runs).items()
    ]


def _constants(runs: Sequence[Run]) -> dict[str, list[float]]:
    columns = dict.fromkeys(column for run in runs for column in run.history)
    found = {}
    for column in columns:
        logged = [run.history[column][~np.isnan(run.history[column])] for run in runs if column in run.history]
        flat = all(values.size > 1 and np.ptp(values) == 0 for values in logged)
        if flat and column not in CLOCKS and not column.startswith(tuple(BLOCK_TERMS)):
            found[column] = [float(values[0]) for values in logged]
    return found


def smooth(values: Values, share: float = SMOOTHING) -> Values:
    """A Gaussian-weighted mean around each value; gaps are left out of the weights and stay gaps.

    Args:
        values: (N,) floats, not finite where there is a gap.
        share: standard deviation of the weights as a share of N.
    """
    finite = np.isfinite(values)
    if share * values.size < 0.5 or not finite.any():
        return np.where(finite, values, np.nan)
    ends = np.linspace(0, values.size, min(values.size, MOST_POINTS) + 1).astype(int)
    counts = np.add.reduceat(finite.astype(np.float64), ends[:-1])
    width = share * counts.size
    weight = gaussian_filter1d(counts, width, mode="constant")
    known, middles = weight > 0, (ends[:-1] + ends[1:] - 1) / 2
    with np.errstate(over="ignore", invalid="ignore"):
        totals = np.add.reduceat(np.where(finite, values, 0.0), ends[:-1])
        means = gaussian_filter1d(totals, width, mode="constant")[known] / weight[known]
        curve = np.interp(np.arange(values.size), middles[known], means)
    return np.where(finite, curve, np.nan)


def by_block(columns: Iterable[str], prefix: str) -> dict[str, str]:
    """Columns such as `outliers/mid_block`, by the name of their block; `block.10` comes after `block.9`."""
    found = {column.removeprefix(prefix): column for column in columns if column.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _shared_group(title: str, terms: Mapping[str, Term], runs: Sequence[Run]) -> CurveGroup:
    flat = _constants(runs)
    shown = {column: term for column, term in terms.items() if column not in flat}
    panels = [_panel(term, _lines_of_runs(column, runs)) for column, term in shown.items()]
    return CurveGroup(title, "", tuple(panel for panel in panels if panel))


def _block_group(run: Run) -> CurveGroup:
    panels = []
    for prefix, term in BLOCK_TERMS.items():
        columns = by_block(run.history, prefix)
        panels.append(_panel(term, _lines_of_blocks(columns, run), legend=True))
    lead = "Colours follow the order of the blocks' names."
    return CurveGroup(f"{run.name}, block by block", lead, tuple(panel for panel in panels if panel))


def _other_terms(runs: Sequence[Run]) -> dict[str, Term]:
    """A plain chart for each logged column that no other group shows."""
    known = {*LOSSES, *BALANCE, *CLOCKS}
    columns = dict.fromkeys(column for run in runs for column in run.history)
    return {
        column: Term(column, "")
        for column in columns
        if column not in known and not column.startswith(tuple(BLOCK_TERMS))
    }


LineMaker = Callable[[str, Term], list[Line]]  # from a clock and how to show it, to lines


def _lines_of_runs(column: str, runs: Sequence[Run]) -> LineMaker:
    def make(clock: str, term: Term) -> list[Line]:
        shown = zip(runs, colours("run", len(runs)), strict=True)
        return [
            _line(run.name, colour, run.history, column, clock, term, dashed=index >= 6)
            for index, (run, colour) in enumerate(shown)
            if column in run.history and clock in run.history
        ]

    return make


def _lines_of_blocks(columns: Mapping[str, str], run: Run) -> LineMaker:
    def make(clock: str, term: Term) -> list[Line]:
        if clock not in run.history:
            return []
        shown = zip(columns.items(), colours("step", len(columns)), strict=True)
        return [_line(block, colour, run.history, column, clock, term) for (block, column), colour in shown]

    return make


def _line(
    label: str,
    colour: str,
    history: Mapping[str, Values],
    column: str,
    clock: str,
    term: Term,
    dashed: bool = False,
) -> Line:
    values = term.factor * history[column]
    logged = ~np.isnan(history[column]) & np.isfinite(history[clock])  # a column may be logged less often than others
    x = history[clock][logged] / (60.0 if clock == "seconds" else 1.0)
    if not term.noisy:
        return Line(label, colour, x, values[logged], dashed=dashed)
    return Line(label, colour, x, smooth(values[logged]), raw=values[logged], dashed=dashed)


def _panel(term: Term, make: LineMaker, legend: bool = False) -> dict[str, Chart]:
    drawn = {clock: _chart(term, make(clock, term), clock, legend) for clock in CLOCKS}
    return {clock: chart for clock, chart in drawn.items() if chart.lines}


def _chart(term: Term, lines: list[Line], clock: str, legend: bool) -> Chart:
    filled = tuple(line for line in lines if np.isfinite(line.y).any())
    label = "minutes of training" if clock == "seconds" else "step"
    scale = _scale(filled) if term.logarithmic else "linear"
    guide = term.guide if term.guide is not None and _is_near(term.guide, filled) else None
    return Chart(
        title=term.title,
        caption=term.caption if scale == "linear" else f"{term.caption} Logarithmic.".strip(),
        lines=filled,
        x=spanning(label, [line.x for line in filled], margin=0.0),
        y=spanning(
            term.title,
            [limits for line in filled for limits in (line.y, _bulk(line))],
            scale=scale,
            include=[] if guide is None else [guide],
            floor=term.floor if scale == "linear" else None,
        ),
        guide=guide,
        legend=legend,
    )


def _is_near(guide: float, lines: Sequence[Line]) -> bool:
    """Whether the curves come within a factor of 5 of a positive guide: a far one would flatten them."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines] or [np.empty(0)])
    return bool(values.size) and values.max() > guide / 5 and values.min() < 5 * guide


def _bulk(line: Line) -> Values:
    """The range that holds 98 % of the raw values: single spikes may leave the frame, the curve may not."""
    raw = line.y if line.raw is None else line.raw[np.isfinite(line.raw)]
    return np.percentile(raw, [1, 99])


def _scale(lines: Sequence[Line]) -> Scale:
    """Logarithmic where the smoothed curves span more than a factor of 30."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines] or [np.ones(1)])
    return "log" if values.min() > 0 and values.max() > 30 * values.min() else "linear"
