"""What a careful reader has to know before believing a page: too few samples, unequal runs, missing files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lpl.reports import wording
from lpl.reports.comparison import plain, recipe_differences, shortened
from lpl.reports.metric_table import MetricTable, evaluated_set
from lpl.reports.runs import Run, mapping

FEW_SAMPLES = 5000  # below this the Fréchet distance's bias is of the size of the differences people report


@dataclass(frozen=True)
class Note:
    """One caution; `about` is a run's name, or empty where it is about the comparison."""

    about: str
    text: str


def page_notes(runs: Sequence[Run], table: MetricTable, further: Sequence[str] = ()) -> list[Note]:
    """All cautions: about the comparison first, then run by run, then what the evaluation said."""
    general = [*table.warnings, *further, *_comparison_notes(runs)]
    return [
        *(Note("", text) for text in general),
        *(Note(run.name, f"{problem}.") for run in runs for problem in run.problems),
        *(Note(run.name, text) for run in runs for text in _state_notes(run)),
        *(Note(wording.listed(names), text) for text, names in table.notes),
    ]


def _comparison_notes(runs: Sequence[Run]) -> Iterable[str]:
    yield from _sample_count_notes(runs)
    if len(runs) == 1:
        return
    yield (
        "Each row is one training run: a difference between two rows holds the effect of the setting and the luck of "
        "the seed. Repeat with other seeds before relying on a small one."
    )
    changed = [row.label for row in recipe_differences([run for run in runs if run.recipe])]
    other = [key for key in changed if not key.startswith(("objective", "sampling.", "evaluation."))]
    if other:
        yield f"The runs differ in more than their objective: {wording.listed(other)}."
    machines = {plain(mapping(run.info).get("hardware")) for run in runs if run.info}
    if len(machines) > 1:
        yield "The runs were trained on different machines, so their times and throughputs don't compare."


def _sample_count_notes(runs: Sequence[Run]) -> Iterable[str]:
    counts = {}
    for run in runs:
        entry = evaluated_set(run)
        provenance = mapping(entry.get("provenance"))
        count = mapping(provenance.get("samples")).get("count")
        if isinstance(count, int) and count < FEW_SAMPLES:
            counts[run.name] = count
    if counts:
        sizes = wording.listed(sorted({f"{count:,}" for count in counts.values()}))
        yield (
            f"Metrics rest on {sizes} samples a run. Distances between distributions are biased upwards with few "
            "samples: compare them within this page, not with published figures."
        )


def _state_notes(run: Run) -> Iterable[str]:
    measured = mapping(mapping(evaluated_set(run).get("provenance")).get("samples")).get("checkpoint")
    if run.samples and measured and run.samples.checkpoint != str(measured):
        pictures = shortened(run.samples.checkpoint or "an unknown checkpoint")
        yield f"Its metrics are of {shortened(str(measured))}, its pictures of {pictures}: evaluate it again."
    status = run.info.get("status")
    if isinstance(status, str) and status != "complete":
        reason = f" ({run.info['ended_by']})" if run.info.get("ended_by") else ""
        yield f"Its run.json says {status!r}{reason}: it has not trained to the end of its recipe."
