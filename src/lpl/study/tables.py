"""A study's table: rows over columns, mean ± spread over seeds, and which rows can be told from the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..reports import wording
from .columns import Column, Evidence, columns_of
from .config import PRETRAINING, StudyConfig
from .files import Study
from .measures import needs_features
from .recipes import Values, describe_values
from .statistics import CONFIDENCE, Difference, Summary, paired

Verdict = Literal["better", "worse", "undecided", "too few seeds"]

WORDS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "undecided": "not told apart",
    "too few seeds": "one seed",
}


@dataclass(frozen=True)
class Cell:
    """One number of a row.

    Attributes:
        summary: over seeds; None where there is no number.
        text: mean ± sample standard deviation.
        difference: to the baseline, with its interval; empty for the baseline itself.
        verdict: whether the interval leaves zero out, and on which side; None where the column does not judge.
        paper: what the paper reports, with its own ratio to the paper's baseline where that tells.
    """

    summary: Summary | None
    text: str
    difference: str = ""
    verdict: Verdict | None = None
    paper: str = ""


@dataclass(frozen=True)
class Row:
    """One arm, at one point of its sweep and one iteration, over all seeds.

    Attributes:
        arm: its name.
        label: for people.
        values: where in the sweep.
        iteration: of post-training, where that is the axis.
        evidence: one a seed.
    """

    arm: str
    label: str
    values: Values
    iteration: int | None
    evidence: tuple[Evidence, ...]

    def of(self, column: Column) -> dict[int, float]:
        """The column's values by seed, where they are numbers."""
        found = {entry.point.seed: column.value(entry) for entry in self.evidence}
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class StudyTable:
    """A study's rows and columns.

    Attributes:
        study: whose.
        columns: in order.
        rows: in order, those for where the arms began last.
        cells: by row and column.
        seeds: that were planned.
        failures: why jobs failed, by label.
        chosen: what has been selected for each arm.
        selection: every point that was chosen among.
        missing: columns that were asked for and that no point has.
    """

    study: Study
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[Cell, ...], ...]
    seeds: tuple[int, ...]
    failures: dict[str, str]
    chosen: dict[str, Values]
    selection: StudyTable | None = None
    missing: tuple[Column, ...] = ()

    @property
    def caption(self) -> list[str]:
        """What a reader has to know."""
        return _caption(self)


def make_table(
    study: Study,
    evidence: Sequence[Evidence],
    seeds: Sequence[int],
    failures: dict[str, str] | None = None,
    chosen: dict[str, Values] | None = None,
) -> StudyTable:
    """Groups points into rows, and compares each row with the baseline's."""
    rows = _rows(study, evidence)
    asked = columns_of(study.config.columns, evidence)
    columns = [column for column in asked if _is_shown(study, column, rows)]
    plotted = [column for column in columns_of(study.config.plots, evidence) if column.name not in _names(asked)]
    missing = tuple(column for column in (*asked, *plotted) if not _is_shown(study, column, rows))
    decimals = {column.name: _decimals(column, rows) for column in columns}
    cells = []
    for row in rows:
        baseline = _baseline(study, rows, row)
        cells.append(tuple(_cell(study, column, row, baseline, decimals[column.name]) for column in columns))
    return StudyTable(
        study, tuple(columns), tuple(rows), tuple(cells), tuple(seeds), failures or {}, chosen or {}, missing=missing
    )


def _names(columns: Sequence[Column]) -> set[str]:
    return {column.name for column in columns}


def _is_shown(study: Study, column: Column, rows: Sequence[Row]) -> bool:
    """Whether there is anything to show: a number of ours, or one of the paper's."""
    return any(row.of(column) for row in rows) or any(column.name in arm.paper for arm in study.config.arms.values())


def _rows(study: Study, evidence: Sequence[Evidence]) -> list[Row]:
    groups: dict[tuple[str, Values, int | None], list[Evidence]] = {}
    for entry in evidence:
        point = entry.point
        groups.setdefault((point.arm, point.values, point.iteration), []).append(entry)
    return [
        Row(arm, _row_label(study, arm, values, iteration), values, iteration, tuple(entries))
        for (arm, values, iteration), entries in groups.items()
    ]


def _row_label(study: Study, arm: str, values: Values, iteration: int | None) -> str:
    label = PRETRAINING if arm == PRETRAINING else study.config.arms[arm].label or arm
    parts = [label, *([describe_values(values)] if values else [])]
    parts += [f"{iteration:,} steps"] if iteration is not None else []
    return ", ".join(parts)


def _baseline(study: Study, rows: Sequence[Row], row: Row) -> Row | None:
    """The baseline's row at the same place, as far as it is swept over the same, or its first one at the iteration."""
    candidates = [other for other in rows if other.arm == study.config.against(row.arm)]
    candidates = [other for other in candidates if other.iteration == row.iteration]
    same = [other for other in candidates if set(other.values) <= set(row.values)]
    found = next(iter(same or candidates), None)
    return None if found is row else found


def _decimals(column: Column, rows: Sequence[Row]) -> int:
    """As many as the column's largest number needs, so that it lines up."""
    return 0 if column.whole else wording.decimals_for(value for row in rows for value in row.of(column).values())


def _cell(study: Study, column: Column, row: Row, baseline: Row | None, decimals: int) -> Cell:
    values = row.of(column)
    paper = _paper(study, column, row)
    if not values:
        return Cell(None, "–", paper=paper)
    summary = Summary(tuple(values.values()))
    count = len(row.evidence)
    others = baseline.of(column) if baseline is not None else {}
    text = wording.number(summary.mean, decimals)
    if summary.deviation is not None and not (column.whole and summary.deviation == 0):
        text += f" ± {wording.number(summary.deviation, decimals)}"
    if len(values) < count:
        text += f" ({len(values)} of {count} seeds)"
    difference = paired(values, others)
    if difference is None:
        return Cell(summary, text, paper=paper)
    return Cell(
        summary,
        text,
        _difference_in_words(column, summary, Summary(tuple(others.values())), difference, decimals),
        None if column.relative else _verdict(column, values, others),
        paper,
    )


def _difference_in_words(column: Column, ours: Summary, theirs: Summary, found: Difference, decimals: int) -> str:
    if column.relative:
        return f"×{ours.mean / theirs.mean:.2f}" if theirs.mean else ""
    if column.better is None:
        return ""
    change = wording.number(found.mean, decimals, signed=True)
    if found.interval is None:
        return change
    low, high = (wording.number(end, decimals, signed=True) for end in found.interval)
    return f"{change} [{low}, {high}]"


def _verdict(column: Column, values: dict[int, float], others: dict[int, float]) -> Verdict | None:
    if column.better is None:
        return None
    ours, theirs = ({seed: column.badness(value) for seed, value in row.items()} for row in (values, others))
    difference = paired(ours, theirs)
    if difference is None:
        return None
    decision = difference.decision
    return {"lower": "better", "higher": "worse"}.get(decision, decision)  # type: ignore[return-value]


def _paper(study: Study, column: Column, row: Row) -> str:
    """The paper's figure for a row, with its ratio to the paper's baseline where differences are told as ratios."""
    arm = study.config.arms.get(row.arm)
    if arm is None or column.name not in arm.paper:
        return ""
    value = arm.paper[column.name]
    unit = study.config.paper.units.get(column.name, "") if study.config.paper else ""
    number = f"{value:,.0f}" if column.whole else f"{value:g}"
    text = f"{number}{wording.GAP}{unit}" if unit else number
    baseline = study.config.against(row.arm)
    against = study.config.arms[baseline].paper.get(column.name)
    if column.relative and against and row.arm != baseline:
        text += f" (×{value / against:.2f})"
    return text


def _caption(table: StudyTable) -> list[str]:
    config, count = table.study.config, len(table.seeds)
    lines = []
    baseline = config.arms[config.compared_with].label or config.compared_with
    if config.train:
        lines.append(_spread_in_words(table, baseline))
        lines += _others_in_words(config)
    if table.chosen:
        lines.append(_choice_in_words(table))
        lines += _ends_in_words(table)
    if any(cell.paper for row in table.cells for cell in row) and config.paper:
        setting = f" ({config.paper.setting})" if config.paper.setting else ""
        lines.append(
            f"Paper: {config.paper.source}{setting}. Another model, data set and judge: compare directions and "
            "ratios with it, not values."
        )
    if count > 1 and config.pretrained is None and not config.reseed_pretraining and config.train:
        lines.append("All seeds begin from one pre-training: the spread leaves its luck out (reseed_pretraining).")
    elif count > 1 and config.pretrained is not None:
        lines.append("All seeds begin from one checkpoint: the spread leaves the luck of pre-training out.")
    lines += _start_in_words(table)
    lines += _missing_in_words(table)
    lines += config.notes
    lines += _failures_in_words(table)
    return lines


def _spread_in_words(table: StudyTable, baseline: str) -> str:
    count = len(table.seeds)
    if count == 1:
        return (
            f"One seed ({table.seeds[0]}): differences to {baseline} hold the luck of the seed, and no two rows can be "
            "told apart. Give seeds=[0,1,2] or more."
        )
    listed = ", ".join(map(str, table.seeds))
    text = (
        f"Mean ± sample standard deviation over {count} seeds ({listed}) of post-training and sampling. Differences to "
        f"{baseline} are paired by seed, in brackets Student's {CONFIDENCE:.0%} interval of their mean; “not told "
        "apart” where that holds zero. Intervals are of one comparison each, not corrected for the number of them."
    )
    if count < 5:
        text += f" With {count} seeds only differences that are large beside their spread can be told."
    return text


def _start_in_words(table: StudyTable) -> list[str]:
    """Where the row of the pre-training is of other weights than arms begin from."""
    points = [entry.point for row in table.rows for entry in row.evidence]
    averaged = any(point.sampling.weights == "ema" for point in points if point.arm == PRETRAINING)
    raw = any(point.recipe.training.initial_weights == "raw" for point in points if point.arm != PRETRAINING)
    if not (averaged and raw):
        return []
    return [
        f"The row {PRETRAINING} is of averaged weights, arms begin from raw ones "
        "(posttraining.training.initial_weights=ema for the averaged)."
    ]


def _others_in_words(config: StudyConfig) -> list[str]:
    """Which arms have differences to another arm than the study's baseline."""
    labels = {name: arm.label or name for name, arm in config.arms.items()}
    pairs = [(name, config.against(name)) for name in labels if name != config.compared_with]
    others = [f"{labels[name]} to {labels[other]}" for name, other in pairs if other != config.compared_with]
    return [f"Differences to other rows: {'; '.join(others)}."] if others else []


def _failures_in_words(table: StudyTable) -> list[str]:
    """What could not be done, each reason once."""
    labels: dict[str, list[str]] = {}
    for label, why in table.failures.items():
        labels.setdefault(why, []).append(label)
    return [
        f"{wording.listed(failed)} {'is' if len(failed) == 1 else 'are'} missing: {why}"
        for why, failed in labels.items()
    ]


def _missing_in_words(table: StudyTable) -> list[str]:
    """Which measures no run has, and why, or what it takes."""
    lines = []
    for column in table.missing:
        reasons = _reasons(table, column.name)
        if not reasons and needs_features(column.name):
            reasons = ["it needs features, set evaluation.extractor"]
        lines.append("; ".join([f"Not measured: {column.heading}", *reasons]) + ".")
    return lines


def _reasons(table: StudyTable, measure: str) -> list[str]:
    """What the evaluations noted about a measure that they left out, each reason once."""
    measurements = [entry.measurement for row in table.rows for entry in row.evidence if entry.measurement]
    notes = [note for measurement in measurements for note in measurement["entry"].get("notes", ())]
    found = [note.removeprefix(f"{measure}: ") for note in notes if note.startswith(f"{measure}: ")]
    return list(dict.fromkeys(found))


def _ends_in_words(table: StudyTable) -> list[str]:
    """Which arms' choice lies at an end of a sweep over numbers, so that the best may lie beyond."""
    config, ends = table.study.config, []
    for arm, values in table.chosen.items():
        for key, value in values:
            swept = config.sweep_of(arm)[key]
            numbers = [entry for entry in swept if isinstance(entry, (int, float)) and not isinstance(entry, bool)]
            if len(numbers) == len(swept) > 1 and value in (min(numbers), max(numbers)):
                ends.append(f"{config.arms[arm].label or arm} ({describe_values(((key, value),))})")
    if not ends:
        return []
    return [
        f"Chosen at an end of its sweep, so that a better value may lie beyond: {', '.join(ends)}; widen the sweep."
    ]


def _choice_in_words(table: StudyTable) -> str:
    select = table.study.config.select
    assert select is not None
    evaluation = ", ".join(f"{key}={value}" for key, value in select.evaluation.items())
    picks = "; ".join(
        f"{table.study.config.arms[arm].label or arm}: {describe_values(values)}"
        for arm, values in table.chosen.items()
    )
    where = f" with {evaluation}" if evaluation else ""
    return (
        f"Each arm at its own best by {select.by.replace('_', ' ')}{where}, chosen on samples of other noise (sampling "
        f"seed + {select.seed_offset:,}) than the figures' samples: {picks}."
    )
