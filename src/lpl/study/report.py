"""A study's page: its table and plots, then what any report says of its runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..reports import wording
from ..reports.page import MAX_FOLDERS, render
from ..reports.runs import METRICS_FORMAT, Run, load_run
from ..reports.section import Comparison, Section, SectionMaker
from ..reports.sections import SECTIONS, outcome
from ..training.run_folder import write_text
from .columns import Evidence
from .config import PRETRAINING
from .figures import study_charts
from .tables import WORDS, Row, StudyTable

TEMPLATE = "study.html.j2"


def write_study_report(table: StudyTable, output: Path) -> Path:
    """Writes the page; its pictures and curves are of the first seed of each row.

    Args:
        table: the study's.
        output: the HTML file.

    Returns:
        Its path.
    """
    runs = shown_runs(table)
    sections: list[SectionMaker] = [study_section(table)]
    if runs:
        # Over several seeds the study's table is the one that counts: one seed's metrics would speak against it.
        sections += [made for made in SECTIONS if made is not outcome or len(table.seeds) == 1]
    output.parent.mkdir(parents=True, exist_ok=True)
    title = table.study.config.title or table.study.config.name
    write_text(output, render(runs, title, sections, lead=lead(table)))
    return output


def lead(table: StudyTable) -> str:
    """The line below the title: how much was compared, and with what."""
    config = table.study.config
    rows, seeds = wording.counted(len(table.rows), "row"), wording.counted(len(table.seeds), "seed")
    if not config.train:
        return f"{rows}."
    baseline = config.arms[config.compared_with].label or config.compared_with
    others = any(config.against(arm) != config.compared_with for arm in config.arms if arm != config.compared_with)
    exception = " but where the notes below the table say otherwise" if others else ""
    return f"{rows} over {seeds}; differences are to {baseline}{exception}."


def study_section(table: StudyTable) -> SectionMaker:
    """The maker of the page's first section."""

    def make(comparison: Comparison) -> Section:
        values: dict[str, Any] = {
            "table": table,
            "words": WORDS,
            "caption": table.caption,
            "charts": study_charts(table),
            "selection": table.selection,
            "selection_charts": study_charts(table.selection) if table.selection else [],
            "more_runs": max(0, len(_first_seeds(table)) - MAX_FOLDERS),
        }
        return Section("study", "What the study found", "Study", TEMPLATE, values)

    return make


def shown_runs(table: StudyTable) -> list[Run]:
    """The first seed of each row, as the other sections take them: under the row's name, with the row's samples."""
    return [_run(row, entry) for row, entry in _first_seeds(table)[:MAX_FOLDERS]]


def _first_seeds(table: StudyTable) -> list[tuple[Row, Evidence]]:
    shown = []
    for row in _last_iterations(table.rows):
        entry = next((entry for entry in row.evidence if entry.folder is not None and entry.measurement), None)
        if entry is not None:
            shown.append((row, entry))
    return shown


def _last_iterations(rows: Iterable[Row]) -> list[Row]:
    """Of an arm that is measured over iterations, the last row alone."""
    last: dict[Any, Row] = {}
    for row in rows:
        last[(row.arm, row.values)] = row
    return list(last.values())


def _run(row: Row, entry: Evidence) -> Run:
    assert entry.folder is not None
    assert entry.measurement is not None
    name = entry.measurement["set"]
    run = load_run(entry.folder, name)
    metrics = {
        "format": METRICS_FORMAT,
        "measures": entry.measurement["measures"],
        "sets": {run.sample_set: entry.measurement["entry"]},
    }
    others = [problem for problem in run.problems if not problem.startswith("sample sets not shown")]
    label = PRETRAINING if row.arm == PRETRAINING else row.label
    return replace(run, name=label, metrics=metrics, problems=tuple(others))
