"""The sections of the page, in order. A new view is one function (here or anywhere), a template and a line in SECTIONS.

A section is made from what is known about the runs and analyses; one that has nothing to show returns None and leaves
the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

from lpl.reports import wording
from lpl.reports.charts import colours
from lpl.reports.comparison import (
    FactRow,
    fact_rows,
    machine_facts,
    objective_in_words,
    origin_in_words,
    recipe_differences,
    shortened,
)
from lpl.reports.curves import constant_columns, curve_groups
from lpl.reports.instruments.sections import INSTRUMENT_SECTIONS
from lpl.reports.metric_table import Cell, Verdict, evaluated_set, verdicts
from lpl.reports.runs import Run, is_number, mapping
from lpl.reports.section import Comparison, Section, SectionMaker
from lpl.reports.spectra import BANDS

PHRASES: dict[Verdict, str] = {"better": "better", "worse": "worse", "same": "equal"}


def of_runs(make: Callable[[Comparison], Section]) -> SectionMaker:
    """A section that is about runs: a page without any goes without it."""

    @wraps(make)
    def maker(comparison: Comparison) -> Section | None:
        return make(comparison) if comparison.runs else None

    return maker


@of_runs
def outcome(comparison: Comparison) -> Section:
    """What was compared, and the table of metrics."""
    table = comparison.table
    values = {
        "runs": run_cards(comparison.runs),
        "table": table,
        "groups": {"headline": table.columns(headline=True), "details": table.columns(headline=False)},
        "sentences": outcome_sentences(comparison),
        "conditions": evaluation_in_words(comparison),
        "note_count": len(comparison.notes),
    }
    return Section("outcome", "What came out", "Metrics", "outcome.html.j2", values)


@of_runs
def pictures(comparison: Comparison) -> Section:
    """The same seeds side by side."""
    found = comparison.gallery
    left, right = found.first_pair
    cards = run_cards(comparison.runs)
    values = {"gallery": found, "runs": cards, "left": left, "right": right, "tile": tile(found.width)}
    title = "The same seeds, side by side" if len(found.runs) > 1 else "Samples"
    return Section("pictures", title, "Pictures", "pictures.html.j2", values)


def tile(width: int) -> int:
    """Pixels on the page for a picture of that width: small ones at the whole multiple nearest to 200."""
    return width * max(1, round(200 / width)) if 0 < width <= 256 else 380


@of_runs
def curves(comparison: Comparison) -> Section:
    """Loss terms, gradient ratio, outliers and throughput over time."""
    values = {
        "groups": curve_groups(comparison.runs),
        "constants": constant_columns(comparison.runs),
        "runs": run_cards(comparison.runs),
    }
    return Section("curves", "Training, term by term", "Training", "curves.html.j2", values)


@of_runs
def spectrum(comparison: Comparison) -> Section:
    """Radial power spectra against the data."""
    values = {"view": comparison.spectrum, "bands": BANDS}
    return Section("spectrum", "Power spectrum against the data", "Spectrum", "spectrum.html.j2", values)


@of_runs
def recipes(comparison: Comparison) -> Section:
    """What differs between the recipes, and each of them whole."""
    runs = comparison.runs
    values = {
        "runs": run_cards(runs),
        "differences": recipe_differences(runs) if len(runs) > 1 else [],
        "all_known": all(run.recipe for run in runs),
    }
    return Section("recipes", "Recipes", "Recipes", "recipes.html.j2", values)


@of_runs
def machines(comparison: Comparison) -> Section:
    """Environment, hardware, time, memory and seeds."""
    asked, others = machine_facts(comparison.runs)
    values = {"runs": run_cards(comparison.runs), "rows": [*_seed_rows(comparison.runs), *asked], "others": others}
    return Section("machines", "Seeds, hardware, time and memory", "Hardware", "machines.html.j2", values)


@of_runs
def cautions(comparison: Comparison) -> Section:
    """What to know before believing the page."""
    return Section("notes", "Read with care", "Notes", "notes.html.j2", {"notes": comparison.notes})


SECTIONS: tuple[SectionMaker, ...] = (
    outcome,
    pictures,
    curves,
    spectrum,
    *INSTRUMENT_SECTIONS,
    recipes,
    machines,
    cautions,
)


@dataclass(frozen=True)
class RunCard:
    """A run as the page introduces it."""

    run: Run
    colour: str
    objective: str
    origin: str
    facts: tuple[str, ...]  # steps, time, throughput and memory, where known

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name


def run_cards(runs: Sequence[Run]) -> list[RunCard]:
    """One card a run, in order, with its colour."""
    return [
        RunCard(run, colour, objective_in_words(run), origin_in_words(run), tuple(_card_facts(run)))
        for run, colour in zip(runs, colours("run", len(runs)), strict=True)
    ]


def _card_facts(run: Run) -> list[str]:
    facts = []
    if "step" in run.history:
        facts.append(f"{wording.counted(int(run.history['step'].max()), 'step')}")
    if "seconds" in run.history:
        facts.append(f"{wording.duration(float(run.history['seconds'].max()))} of training")
    throughput, memory = run.info.get("images_per_second"), run.info.get("peak_memory_bytes")
    if is_number(throughput):
        facts.append(f"{wording.number(throughput, 1)}{wording.GAP}images/s")
    if is_number(memory):
        facts.append(f"{wording.byte_size(memory)} of memory at most")
    return facts


def outcome_sentences(comparison: Comparison) -> list[str]:
    """For each run but the first: how many of the measures find it better or worse, and which."""
    table, first = comparison.table, comparison.runs[0]
    sentences = []
    for row in table.rows[1:]:
        found = verdicts(table, row)
        if row.baseline or not any(found.values()):
            continue
        total = sum(map(len, found.values()))
        parts = [
            f"{PHRASES[kind]} on {len(measures)} ({'; '.join(measure.label for measure in measures)})"
            for kind, measures in found.items()
            if measures
        ]
        close = [table.measures[index].label for index in table.columns(headline=True) if _is_close(row.cells[index])]
        parts += [f"less than 1{wording.GAP}% apart on {len(close)} of them ({'; '.join(close)})"] if close else []
        sentences.append(
            f"{row.name} against {first.name}, over {wording.counted(total, 'measure')}: {', '.join(parts)}."
        )
    return sentences


def _is_close(cell: Cell) -> bool:
    """Whether a number lies within 1 % of the first run's without being the same."""
    return cell.change is not None and 0 < abs(cell.change) < 0.01


def evaluation_in_words(comparison: Comparison) -> str:
    """With what and against what the first evaluated run was measured; empty where that is not said."""
    entry = next((found for run in comparison.runs if (found := evaluated_set(run))), {})
    provenance = mapping(entry.get("provenance"))
    samples, reference = mapping(provenance.get("samples")), mapping(provenance.get("reference"))
    extractor = mapping(provenance.get("extractor")).get("name")
    count, compared = samples.get("count"), reference.get("count")
    if not is_number(count):
        return ""
    features = f"features of {extractor}" if extractor else "no extractor, so only measures that need no weights"
    ours = f"{wording.counted(count, 'sample')} at {samples.get('resolution', '?')} pixels"
    images = wording.counted(compared, "image") if is_number(compared) else "images"
    theirs = f"{images} ({reference.get('description', 'the data')})"
    return f"Measured on {ours} against {theirs}; {features}."


def _seed_rows(runs: Sequence[Run]) -> list[FactRow]:
    columns = []
    for run in runs:
        known = {
            "folder": shortened(str(run.folder)),
            "seed of training": run.recipe.get("seed"),
            "seed of sampling": run.samples.seed if run.samples else None,
            "seed of evaluation": mapping(evaluated_set(run).get("settings")).get("seed"),
            "checkpoint sampled": shortened(run.samples.checkpoint) if run.samples and run.samples.checkpoint else None,
        }
        columns.append({label: value for label, value in known.items() if value is not None})
    return fact_rows(columns)
