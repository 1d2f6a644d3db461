"""The table of metrics: runs against measures, with differences to the first run and the best marked.

Numbers are only set against each other where they were measured alike: same extractor, reference, sample count and
settings. Where they weren't, they stand for themselves and the reason is among the notes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lpl.reports import wording
from lpl.reports.runs import Run, is_number, mapping

Verdict = Literal["better", "worse", "same"]

ARROWS = {"lower": "↓", "higher": "↑", "one": "→\N{NO-BREAK SPACE}1"}
READINGS = {"lower": "lower is better", "higher": "higher is better", "one": "best at 1"}
HARMLESS_SETTINGS = ("batch_size",)  # may differ without moving any number


@dataclass(frozen=True)
class Measure:
    """One column."""

    name: str
    label: str
    better: str | None  # "lower", "higher", "one" (a ratio), or None: descriptive only
    description: str

    @property
    def heading(self) -> str:
        """The label as a column's heading."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def arrow(self) -> str:
        """The direction in which it improves, empty where there is none."""
        return ARROWS.get(self.better or "", "")

    @property
    def reading(self) -> str:
        """The direction in words."""
        return READINGS.get(self.better or "", "descriptive")

    @property
    def headline(self) -> bool:
        """Whether it judges, and as a whole: single pyramid levels and plain descriptions are details."""
        return self.better is not None and "/" not in self.name

    def badness(self, value: float) -> float:
        """Smaller is better; a ratio of 2 is as far from 1 as one of 1/2."""
        if self.better == "one":
            return abs(math.log(value)) if value > 0 else math.inf
        return -value if self.better == "higher" else value


@dataclass(frozen=True)
class Cell:
    """One number with its difference to the first run's, or the reason why there is none."""

    value: float | None
    text: str
    spread: str = ""  # standard deviation, where the evaluation gives one
    difference: str = ""
    change: float | None = None  # relative to the first run's number
    verdict: Verdict | None = None
    best: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """One run, or a baseline such as the autoencoder's reconstructions."""

    name: str
    cells: tuple[Cell, ...]
    baseline: bool = False


@dataclass(frozen=True)
class MetricTable:
    """Rows over columns, with what has to be said about them."""

    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    notes: tuple[tuple[str, tuple[str, ...]], ...]  # what evaluations say, each with the runs it is said of
    missing: tuple[str, ...]  # why runs lack numbers
    warnings: tuple[str, ...]  # why runs are not set against each other

    def columns(self, headline: bool) -> list[int]:
        """Indices of the measures that judge (`headline`) or of all the others."""
        return [index for index, measure in enumerate(self.measures) if measure.headline == headline]


def metric_table(runs: Sequence[Run]) -> MetricTable:
    """Reads the metrics of every run's sample set, and compares those that were measured like the first run's."""
    sets = [evaluated_set(run) for run in runs]
    measures = tuple(_measures(runs, sets))
    anchor = next((index for index, entry in enumerate(sets) if entry), 0)
    differing = {index: _differences(sets[anchor], entry) for index, entry in enumerate(sets) if entry}
    comparable = [index for index, keys in differing.items() if not keys]
    columns = [_column(measure, sets, anchor, comparable) for measure in measures]
    rows = [Row(run.name, tuple(column[index] for column in columns)) for index, run in enumerate(runs)]
    noted = list(_grouped((note, run.name) for run, entry in zip(runs, sets, strict=True) for note in _notes(entry)))
    return MetricTable(
        measures=measures,
        rows=(*rows, *_baselines(measures, sets[anchor])),
        notes=tuple(noted),
        missing=(*_missing_numbers(measures, rows), *_missing_measures(measures, noted)),
        warnings=tuple(
            f"{runs[index].name} was not measured like {runs[anchor].name} (different {wording.listed(keys)}), "
            "so their metrics are not set against each other."
            for index, keys in differing.items()
            if keys
        ),
    )


def evaluated_set(run: Run) -> Mapping[str, Any]:
    """The part of a run's metrics.json about the sample set that the page shows; empty where there is none."""
    return mapping(mapping(run.metrics.get("sets")).get(run.sample_set))


def verdicts(table: MetricTable, row: Row) -> dict[Verdict, list[Measure]]:
    """Which of the judging measures find a run better, worse or the same as the first one."""
    found: dict[Verdict, list[Measure]] = {"better": [], "worse": [], "same": []}
    for index in table.columns(headline=True):
        verdict = row.cells[index].verdict
        if verdict:
            found[verdict].append(table.measures[index])
    return found


def _grouped(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """(text, run) pairs as each text with its runs, in the order of their first appearance."""
    groups: dict[str, list[str]] = {}
    for text, run in pairs:
        groups.setdefault(text, []).append(run)
    return ((text, tuple(dict.fromkeys(names))) for text, names in groups.items())


def _missing_numbers(measures: Sequence[Measure], rows: Sequence[Row]) -> Iterable[str]:
    """Why cells are empty: a sentence for each reason and the numbers it explains."""
    found: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for row in rows:
        for reason in dict.fromkeys(cell.missing for cell in row.cells if cell.missing):
            pairs = zip(measures, row.cells, strict=True)
            labels = tuple(measure.label for measure, cell in pairs if cell.missing == reason)
            found.setdefault((reason, labels), {})[row.name] = None
    for (reason, labels), names in found.items():
        what = "everything" if len(labels) == len(measures) else "; ".join(labels)
        yield f"{what} of {wording.listed(names)}: {reason}"


def _missing_measures(measures: Sequence[Measure], noted: Sequence[tuple[str, Sequence[str]]]) -> Iterable[str]:
    """What evaluations say about measures that no run has, so that the table has no column for them."""
    shown = {measure.name for measure in measures}
    for note, names in noted:
        subject, separator, reason = note.partition(":")
        if separator and not shown & set(_subjects(subject)) and subject != "reference":
            yield f"{subject.replace('_', ' ')} of {wording.listed(names)}: {reason.strip()}"


def _subjects(text: str) -> list[str]:
    """The measures that a note names before its colon."""
    return [name.strip() for name in text.split(",")]


def _measures(runs: Sequence[Run], sets: Sequence[Mapping[str, Any]]) -> Iterable[Measure]:
    """Every measure that some run has a number for, in the order that the evaluation declares."""
    declared = {name: entry for run in reversed(runs) for name, entry in mapping(run.metrics.get("measures")).items()}
    results = dict.fromkeys(name for entry in sets for name in mapping(entry.get("results")))
    order = {name: place for place, name in enumerate(declared)}
    for name in sorted(results, key=lambda name: order.get(name.split("/")[0], len(order))):
        if not (name.endswith("_std") and name.removesuffix("_std") in results):  # shown beside its mean
            yield _measure(name, mapping(declared.get(name) or declared.get(name.split("/")[0])))


def _measure(name: str, entry: Mapping[str, Any]) -> Measure:
    label = str(entry.get("label") or name.replace("_", " "))
    level = name.partition("/")[2]
    return Measure(
        name=name,
        label=f"{label}, {level} px" if level else label,
        better=entry.get("better") if entry.get("better") in ARROWS else None,
        description=str(entry.get("description") or "The evaluation gives no description of it."),
    )


def _column(measure: Measure, sets: Sequence[Mapping[str, Any]], anchor: int, comparable: Sequence[int]) -> list[Cell]:
    values = [_result(entry, measure.name) for entry in sets]
    decimals = wording.decimals_for(value for value in values if value is not None)
    rivals = [value for index in comparable if (value := values[index]) is not None]
    best = min(map(measure.badness, rivals)) if measure.better and len(set(rivals)) > 1 else None
    cells = []
    for index, value in enumerate(values):
        if value is None:
            cells.append(Cell(None, "–", missing=_reason(sets[index], measure.name)))
            continue
        against = values[anchor] if index in comparable and index != anchor else None
        cells.append(
            Cell(
                value=value,
                text=wording.number(value, decimals),
                spread=_spread(sets[index], measure.name, decimals),
                difference="" if against is None else _difference(measure, value, against, decimals),
                change=value / against - 1 if against else None,
                verdict=None if against is None else _verdict(measure, value, against),
                best=best is not None and index in comparable and measure.badness(value) == best,
            )
        )
    return cells


def _result(entry: Mapping[str, Any], name: str) -> float | None:
    value = mapping(entry.get("results")).get(name)
    return float(value) if is_number(value) and math.isfinite(value) else None


def _spread(entry: Mapping[str, Any], name: str, decimals: int) -> str:
    deviation = _result(entry, f"{name}_std")
    return "" if deviation is None else f"± {wording.number(deviation, decimals)}"


def _difference(measure: Measure, value: float, against: float, decimals: int) -> str:
    """The change between the numbers as shown, and its share of the first where the measure starts from zero."""
    change = wording.number(round(value, decimals) - round(against, decimals), decimals, signed=True)
    relative = against > 0 and measure.better != "one"
    return f"{change} ({wording.percent(value / against - 1, signed=True)})" if relative else change


def _verdict(measure: Measure, value: float, against: float) -> Verdict | None:
    if measure.better is None:
        return None
    change = measure.badness(value) - measure.badness(against)
    return "same" if change == 0 else "better" if change < 0 else "worse"


def _reason(entry: Mapping[str, Any], name: str) -> str:
    if not entry:
        return "this run was not evaluated"
    for note in _notes(entry):
        measure, separator, reason = note.partition(":")
        if separator and {name, name.split("/")[0]} & set(_subjects(measure)):
            return reason.strip()
    return "its evaluation did not measure this"


def _notes(entry: Mapping[str, Any]) -> list[str]:
    notes = entry.get("notes")
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _differences(anchor: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """What was different between two evaluations, in words, apart from what can't move the numbers."""
    ours, theirs = _conditions(anchor), _conditions(entry)
    return [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]


def _conditions(entry: Mapping[str, Any]) -> dict[str, Any]:
    provenance = mapping(entry.get("provenance"))
    samples, reference = mapping(provenance.get("samples")), mapping(provenance.get("reference"))
    settings = mapping(entry.get("settings"))
    return {
        **{f"setting {key}": value for key, value in settings.items() if key not in HARMLESS_SETTINGS},
        "number of samples": samples.get("count"),
        "resolution": samples.get("resolution"),
        "reference images": (reference.get("fingerprint"), reference.get("count"), reference.get("resolution")),
        "extractor weights": mapping(provenance.get("extractor")).get("fingerprint"),
    }


def _baselines(measures: Sequence[Measure], entry: Mapping[str, Any]) -> Iterable[Row]:
    """What the evaluation measured besides the samples, such as the autoencoder's reconstructions."""
    for name, baseline in mapping(entry.get("baselines")).items():
        cells = []
        for measure in measures:
            value = _result(mapping(baseline), measure.name)
            cells.append(
                Cell(None, "–", missing=_reason(mapping(baseline), measure.name))
                if value is None
                else Cell(value, wording.number(value))
            )
        yield Row(name, tuple(cells), baseline=True)
