"""Runs a study: plans it, does what is not done yet, and presents what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import EvaluationConfig, Recipe, SamplingConfig, Section
from ..errors import LplError
from ..objective_sections import LatentLPIPSConfig
from ..reports.wording import duration
from ..training.recorder import TrainingInterrupted
from ..training.run_folder import write_text
from .columns import Evidence
from .config import PRETRAINING
from .files import Study
from .identity import Adopted, Training, evaluation_contents
from .measured import MachineMeasurements
from .planning import Point, plan, plan_selection, training_order
from .recipes import Values, seeds_of
from .report import write_study_report
from .running import Job, Measurement, read_measurement
from .scheduling import Slot, run_in_processes, run_in_turn
from .selection import choose
from .store import Store, is_complete, link_or_copy, slug
from .tables import StudyTable, make_table
from .terminal import markdown_table, terminal_table

STORE = Path("runs") / "store"


class StudyIncomplete(LplError, RuntimeError):
    """Some runs of a study failed; everything else was done and presented."""


@dataclass(frozen=True)
class Presented:
    """What a study leaves behind.

    Attributes:
        table: rows over columns.
        page: the report.
    """

    table: StudyTable
    page: Path


@dataclass
class _Session:
    """One call of `run_study`."""

    study: Study
    folder: Path
    store: Store
    console: Console
    slots: Sequence[Slot]
    failures: dict[str, str] = field(default_factory=dict)
    selection: StudyTable | None = None
    points: Sequence[Point] = ()  # of the table
    chosen: dict[str, Values] = field(default_factory=dict)


def run_study(
    study: Study,
    output: Path | None = None,
    console: Console | None = None,
    store: Path | None = None,
    slots: Sequence[Slot] = (),
) -> Presented:
    """Runs whatever of a study is not done yet, prints its table and writes its report.

    All recipes are checked before the first one starts. The study's folder gets report.html, table.md, results.json,
    and a link to each of its runs, which lie in the store. A study that is stopped presents what it has so far.

    Args:
        study: what to run.
        output: the study's folder, by default runs/NAME.
        console: where to print.
        store: where runs lie, by default runs/store; studies with the same store share runs.
        slots: where processes run; by default everything happens in this one, in turn.

    Returns:
        The table and the page.

    Raises:
        RecipeError: a recipe that can't be run; nothing has been done then.
        StudyIncomplete: a run failed; all others are done, and the table says what is missing.
        TrainingInterrupted, KeyboardInterrupt: someone asked it to stop; running it again carries on.
    """
    console = console or Console()
    folder = output or Path("runs") / study.config.name
    session = _Session(study, folder, Store(store or STORE), console, _slots(study, slots))
    start = time.monotonic()
    try:
        evidence = _carry_out(session)
    except (KeyboardInterrupt, TrainingInterrupted):
        _present_unfinished(session, time.monotonic() - start)
        raise
    presented = _present(session, evidence, time.monotonic() - start)
    if session.failures:
        listed = "; ".join(f"{label}: {why}" for label, why in session.failures.items())
        raise StudyIncomplete(f"{study.config.name}: {listed}; run it again to try these once more")
    return presented


def _carry_out(session: _Session) -> list[Evidence]:
    """Everything that the table is made of."""
    study = session.study
    measured = MachineMeasurements(session.store, session.console, study.config.memory_limit)
    if study.config.select is not None:
        evidence = _evidence(session, plan_selection(study, measured))
        choice = choose(study.config, evidence)
        session.chosen = dict(choice.places)
        session.failures |= choice.failures
        session.selection = make_table(selection_study(study), evidence, seeds_of(study))
    session.points = plan(study, measured, None if study.config.select is None else session.chosen)
    evidence = _evidence(session, session.points)
    return _with_speeds(session, measured, evidence) if study.config.measure_speed else evidence


def _evidence(session: _Session, points: Sequence[Point]) -> list[Evidence]:
    """Runs what the points need, and gathers what came out."""
    if not session.study.config.train:
        return [Evidence(point, published=_published(session, point)) for point in points]
    jobs = _jobs(session, points)
    _link(session, points)
    if session.slots:
        encoding = [] if all(job.done for job in jobs) else _encoding_jobs(jobs)
        outcome = run_in_processes([*encoding, *jobs], session.slots, session.folder / "logs", session.console)
    else:
        outcome = run_in_turn(jobs, session.console)
    session.failures |= outcome.failures
    return [_found(session, point) for point in points]


def _jobs(session: _Session, points: Sequence[Point]) -> list[Job]:
    """One job for each run, with all the measurements that the points make of it."""
    store = session.store
    jobs: dict[Path, Job] = {}
    for training in training_order(points):
        folder = store.claim(training)
        if folder not in jobs:
            jobs[folder] = _job(store, training, folder)
        wanted = measurements_of(store, training, points)
        jobs[folder] = replace(jobs[folder], measurements=tuple(dict.fromkeys((*jobs[folder].measurements, *wanted))))
    return list(jobs.values())


def _job(store: Store, training: Training | Adopted, folder: Path) -> Job:
    recipe = training.recipe.model_copy(update={"name": training.label, "output": str(folder)})
    lock = store.lock_file(folder)
    if isinstance(training, Adopted):
        return Job(training.label, recipe, folder, lock)
    after = []
    if training.start is not None:
        start = store.locate(training.start)
        after.append(start)
        changed = recipe.training.model_copy(update={"initial_checkpoint": str(start)})
        recipe = recipe.model_copy(update={"training": changed})
    time_from = None
    if training.same_time_as is not None:
        time_from = store.locate(training.same_time_as)
        after.append(time_from)
    return Job(training.label, recipe, folder, lock, time_from, after=tuple(after))


def _encoding_jobs(jobs: Sequence[Job]) -> list[Job]:
    """One for each data set and autoencoder, so that no run's time or memory holds what is made for all of them."""
    recipes = {(job.recipe.data, job.recipe.autoencoder, _classifiers(job.recipe)): job.recipe for job in jobs}
    return [Job(f"encoding {number}", recipe) for number, recipe in enumerate(recipes.values(), 1)]


def _classifiers(recipe: Recipe) -> tuple[Section, ...]:
    """What classifiers of latents a recipe's terms are trained with."""
    terms = recipe.objective.terms.values()
    return tuple(term.classifier_training for term in terms if isinstance(term, LatentLPIPSConfig))


def measurements_of(store: Store, training: Training | Adopted, points: Sequence[Point]) -> list[Measurement]:
    """Every way in which points measure a run."""
    return [_measurement(store, point) for point in points if point.training == training]


def _measurement(store: Store, point: Point) -> Measurement:
    contents = evaluation_contents(point.evaluation, point.recipe.data, store.known)
    autoencoder = store.known.autoencoder(point.recipe.autoencoder)
    return Measurement(point.step, point.sampling, point.evaluation, contents, autoencoder)


def _found(session: _Session, point: Point) -> Evidence:
    folder, published = session.store.locate(point.training), _published(session, point)
    if not is_complete(folder):
        return Evidence(point, published=published)
    measurement = read_measurement(folder, _measurement(session.store, point))
    return Evidence(point, folder, measurement, published=published)


def _published(session: _Session, point: Point) -> Mapping[str, float]:
    arm = session.study.config.arms.get(point.arm)
    return {} if arm is None else arm.paper


def _with_speeds(session: _Session, measured: MachineMeasurements, evidence: Sequence[Evidence]) -> list[Evidence]:
    """The arms' throughputs, timed in turn in one process; an arm that can't be timed is named among the failures."""
    timed: dict[tuple[str, Values], Training] = {}  # seeds cost the same
    for entry in evidence:
        if isinstance(entry.point.training, Training) and _is_of_arm(entry):
            timed.setdefault((entry.point.arm, entry.point.values), _without_samples(entry.point.training))
    trainings = list(dict.fromkeys(timed.values()))
    try:
        speeds = dict(zip(trainings, measured.times(trainings)["speeds"], strict=True))
    except Exception as error:
        session.failures["speed"] = str(error)
        return list(evidence)
    found = {place: speeds[training] for place, training in timed.items()}
    return [
        replace(entry, speed=found.get((entry.point.arm, entry.point.values))) if _is_of_arm(entry) else entry
        for entry in evidence
    ]


def _without_samples(training: Training) -> Training:
    """The same for all ways of sampling and measuring a run."""
    update = {"sampling": SamplingConfig(), "evaluation": EvaluationConfig()}
    return replace(training, recipe=training.recipe.model_copy(update=update))


def _is_of_arm(entry: Evidence) -> bool:
    """Whether it is of an arm's own run, rather than of what the arms begin from."""
    return entry.point.arm != PRETRAINING and not entry.is_start


def _link(session: _Session, points: Sequence[Point]) -> None:
    """Readable names for the study's runs, in its folder."""
    session.folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{session.study.base.get('name', 'run')}-"
    folders: dict[str, set[Path]] = {}
    for training in training_order(points):
        name = slug(training.label.removeprefix(prefix))
        folders.setdefault(name, set()).add(session.store.locate(training).resolve())
    # Names that differ in punctuation alone are the same here, and then have their keys, too.
    links = {(name if len(found) == 1 else folder.name): folder for name, found in folders.items() for folder in found}
    for name, folder in links.items():
        link = session.folder / name
        if link.is_symlink():
            link.unlink()
        if not link.exists():
            link_or_copy(folder, link)
        else:
            session.console.print(f"{link}: is in the way of a link to {folder}", markup=False, highlight=False)


def _present_unfinished(session: _Session, seconds: float) -> None:
    """What a study that was stopped has so far, if anything of its table has been measured."""
    evidence = [_found(session, point) for point in session.points]
    if not any(entry.measurement for entry in evidence):
        return
    for entry in evidence:
        if entry.measurement is None:
            session.failures.setdefault(entry.point.training.label, "the study was stopped; run it again to carry on")
    _present(session, evidence, seconds)


def _present(session: _Session, evidence: list[Evidence], seconds: float) -> Presented:
    """The table in the terminal and as Markdown, the page, and the numbers as JSON."""
    study, folder = session.study, session.folder
    table = make_table(study, evidence, seeds_of(study), session.failures, session.chosen)
    table = replace(table, selection=session.selection)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", markdown_table(table))
    write_text(folder / "results.json", json.dumps(results(table), indent=1, ensure_ascii=False) + "\n")
    page = write_study_report(table, folder / "report.html")
    session.console.print(terminal_table(table))
    session.console.print(f"report: {page} ({duration(seconds)} in all)", markup=False, highlight=False)
    return Presented(table, page)


def results(table: StudyTable) -> dict[str, Any]:
    """A table's numbers by row, column and seed, as JSON holds them."""
    rows = []
    for row, cells in zip(table.rows, table.cells, strict=True):
        columns = {
            column.name: {
                "values": {str(seed): value for seed, value in row.of(column).items()},
                "text": cell.text,
                "difference": cell.difference,
                "verdict": cell.verdict,
                "paper": cell.paper,
            }
            for column, cell in zip(table.columns, cells, strict=True)
        }
        runs = {str(entry.point.seed): str(entry.folder) for entry in row.evidence if entry.folder}
        place = {"row": row.label, "arm": row.arm, "at": dict(row.values), "iteration": row.iteration}
        rows.append({**place, "runs": runs, "columns": columns})
    return {
        "study": table.study.config.name,
        "scale": table.study.scale,
        "overrides": list(table.study.overrides),
        "seeds": list(table.seeds),
        "chosen": {arm: dict(values) for arm, values in table.chosen.items()},
        "failures": table.failures,
        "rows": rows,
        "caption": table.caption,
    }


def selection_study(study: Study) -> Study:
    """The study whose rows are every point of every sweep, as seen by what chooses among them."""
    select = study.config.select
    assert select is not None
    columns = {"columns": (select.by,), "plots": (select.by,), "select": None, "notes": (), "paper": None}
    return replace(study, config=study.config.model_copy(update=columns))


def _slots(study: Study, slots: Sequence[Slot]) -> Sequence[Slot]:
    if slots or not study.config.separate_processes:
        return slots
    return [Slot("a process of its own")]
