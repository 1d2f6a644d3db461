"""The columns of a study's table: measures of the evaluation, and facts of the run.

A further column is one `Column` in `RUN_COLUMNS`; whatever the evaluation measures is a column without further ado.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Recipe, load_recipe
from ..reports.metric_table import ARROWS, READINGS
from ..training.checkpoints import CheckpointError, read_state
from ..training.run_folder import run_information
from .identity import Adopted, Training
from .measures import is_measure, labels
from .planning import Point

GIB = 1 << 30


@dataclass(frozen=True)
class Evidence:
    """What is known of one point once it has been run.

    Attributes:
        point: in the plan.
        folder: of its run; None where nothing is trained.
        measurement: as `read_measurement` gives it; None where nothing is sampled.
        speed: images/s of the arm, from the timing in turn.
        published: what the paper reports of the arm, by column.
    """

    point: Point
    folder: Path | None = None
    measurement: Mapping[str, Any] | None = None
    speed: float | None = None
    published: Mapping[str, float] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe | None:
        """What the run was trained with; of a checkpoint from elsewhere its own, None where that is not known."""
        if not isinstance(self.point.training, Adopted):
            return self.point.recipe
        file = None if self.folder is None else self.folder / "recipe.yaml"
        return load_recipe(file) if file is not None and file.is_file() else None

    @property
    def is_start(self) -> bool:
        """Whether it stands for an arm before its first step, so that the run is what the arm begins from."""
        return self.point.iteration == 0


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in study files.
        heading: for people, with the unit.
        better: "lower", "higher", "one" (a ratio), or None: does not judge.
        value: of one point; None where it has none.
        description: what it is.
        relative: whether differences are told as a factor rather than as a number.
        whole: whether its values are whole numbers.
    """

    name: str
    heading: str
    better: str | None
    value: Callable[[Evidence], float | None]
    description: str = ""
    relative: bool = False
    whole: bool = False

    @property
    def arrow(self) -> str:
        """The direction in which it improves, empty where there is none."""
        return ARROWS.get(self.better or "", "")

    @property
    def reading(self) -> str:
        """The direction in words."""
        return READINGS.get(self.better or "", "descriptive")

    def badness(self, value: float) -> float:
        """Smaller is better; a ratio of 2 is as far from 1 as one of 1/2."""
        if self.better == "one":
            return abs(math.log(value)) if value > 0 else math.inf
        return -value if self.better == "higher" else value


def _of_run(key: str, scale: float = 1.0) -> Callable[[Evidence], float | None]:
    def value(evidence: Evidence) -> float | None:
        if evidence.folder is None or evidence.is_start:
            return None
        found = run_information(evidence.folder).get(key)
        return None if found is None else float(found) / scale

    return value


def _steps(evidence: Evidence) -> float | None:
    """Of the run, up to the iteration where there is one."""
    return _of_run("step")(evidence) if evidence.point.iteration is None else float(evidence.point.iteration)


def _seconds(evidence: Evidence) -> float | None:
    """Of the run, up to the iteration where there is one, as that checkpoint says."""
    step = evidence.point.step
    if step is None:
        return 0.0 if evidence.is_start else _of_run("seconds")(evidence)
    if evidence.folder is None:
        return None
    try:
        return float(read_state(evidence.folder / "checkpoints" / f"step-{step:08d}")["seconds"])
    except CheckpointError:
        return None


def _of_training(key: str) -> Callable[[Evidence], float | None]:
    def value(evidence: Evidence) -> float | None:
        recipe = evidence.recipe
        return None if recipe is None or evidence.is_start else float(getattr(recipe.training, key))

    return value


def _last_logged(key: str) -> Callable[[Evidence], float | None]:
    """Mean over the last half of what was logged so far, where the weight is no longer being matched."""

    def value(evidence: Evidence) -> float | None:
        file = None if evidence.folder is None or evidence.is_start else evidence.folder / "metrics.jsonl"
        if file is None or not file.is_file():
            return None
        last = math.inf if evidence.point.step is None else evidence.point.step
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if row["step"] <= last]
        values = [row[key] for row in rows[len(rows) // 2 :] if row.get(key) is not None]
        return math.fsum(values) / len(values) if values else None

    return value


def _flops(evidence: Evidence) -> float | None:
    """Of an iteration, in 10¹²; None where the perceptual term is of a kind that is not counted."""
    recipe = evidence.recipe
    return None if recipe is None or evidence.is_start else _of_iteration(recipe)


def _total_flops(evidence: Evidence) -> float | None:
    """Of training and of the pre-training that it began from, in 10¹⁸; None where that came from elsewhere."""
    training: Training | Adopted | None = evidence.point.training
    steps = evidence.point.step or _of_run("step")(evidence)
    total = 0.0
    while isinstance(training, Training):
        an_iteration = _of_iteration(training.recipe)
        if an_iteration is None:
            return None
        total += an_iteration * (steps or training.recipe.training.steps)
        training, steps = training.start, None
    return total / 1e6 if training is None else None


def _matching_batch(evidence: Evidence) -> float | None:
    """The batch with which an iteration takes as many operations as the paper reports."""
    published = evidence.published.get("flops")
    recipe = evidence.point.recipe
    an_iteration = _of_iteration(recipe)
    if published is None or not an_iteration:
        return None
    return published / an_iteration * recipe.training.batch_size * recipe.training.accumulation


def _of_iteration(recipe: Recipe) -> float | None:
    from ..training.flops import FlopsError
    from .flops import sample_flops

    try:
        return sample_flops(recipe) * recipe.training.batch_size * recipe.training.accumulation
    except FlopsError:
        return None


RUN_COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column(
            "images_per_second",
            "Images/s",
            "higher",
            _of_run("images_per_second"),
            "Training throughput of the run, samples over seconds of training.",
            relative=True,
        ),
        Column(
            "speed",
            "Images/s, in turn",
            "higher",
            lambda evidence: evidence.speed,
            "Training throughput where all arms take turns of a few steps in one process: median over rounds.",
            relative=True,
        ),
        Column(
            "peak_memory",
            "Peak memory, GiB",
            "lower",
            _of_run("peak_memory_bytes", GIB),
            "Largest memory while training: of GPU tensors, or of the process on a CPU.",
            relative=True,
        ),
        Column("seconds", "Training, s", None, _seconds, "Seconds in which steps were trained.", True),
        Column("steps", "Steps", None, _steps, "Optimiser steps of the run.", whole=True),
        Column(
            "batch_size", "Batch", None, _of_training("batch_size"), "Samples a process and forward pass.", whole=True
        ),
        Column("learning_rate", "Learning rate", None, _of_training("learning_rate"), "Of AdamW."),
        Column(
            "perceptual_weight", "Weight", None, _of_run("perceptual_weight"), "Of the perceptual term, as matched."
        ),
        Column(
            "gradient_ratio",
            "Gradient ratio",
            None,
            _last_logged("gradient_ratio"),
            "‖∇ w·L_perceptual‖ over ‖∇ ℓ2‖ at the denoiser's output, mean over the last half of training.",
        ),
        Column(
            "flops",
            "TFLOP an iteration",
            "lower",
            _flops,
            "10¹² operations by torch's FlopCounterMode, a multiply-add being two; LPL's in expectation over the gate.",
            relative=True,
        ),
        Column(
            "total_flops",
            "EFLOP in all",
            "lower",
            _total_flops,
            "10¹⁸ operations of pre- and post-training.",
            relative=True,
        ),
        Column(
            "matching_batch",
            "Batch for the paper's count",
            None,
            _matching_batch,
            "With which our count of an iteration is the paper's.",
        ),
    )
}
DEFAULT_MEASURES = (
    "frechet_distance",
    "kernel_distance",
    "sliced_wasserstein",
    "sliced_wasserstein_shared",
    "log_spectral_distance",
    "high_frequency_ratio",
    "contrast_ratio",
)
DEFAULT_RUN_COLUMNS = ("steps", "seconds")


def columns_of(names: Sequence[str] | None, evidence: Sequence[Evidence]) -> list[Column]:
    """The columns that were asked for, or by default the measures that judge, and the length of training."""
    declared = {**labels(), **_declared(evidence)}
    measured = {name for entry in evidence for name in _results(entry)}
    if names is None:
        names = [*(name for name in DEFAULT_MEASURES if name in measured), *DEFAULT_RUN_COLUMNS]
    return [RUN_COLUMNS[name] if name in RUN_COLUMNS else _measure(name, declared) for name in names]


def unknown_columns(names: Sequence[str]) -> list[str]:
    """Names that are neither a fact of a run nor a measure of the evaluation."""
    return [name for name in names if name not in RUN_COLUMNS and not is_measure(name)]


def _measure(name: str, declared: Mapping[str, Any]) -> Column:
    entry = declared.get(name) or declared.get(name.partition("/")[0]) or {}
    label = str(entry.get("label") or name.replace("_", " "))
    level = name.partition("/")[2]
    heading = f"{label[:1].upper()}{label[1:]}{f', {level} px' if level else ''}"
    better = entry.get("better") if entry.get("better") in ARROWS else None
    return Column(name, heading, better, _measured(name), str(entry.get("description") or ""))


def _measured(name: str) -> Callable[[Evidence], float | None]:
    def value(evidence: Evidence) -> float | None:
        found = _results(evidence).get(name)
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None

    return value


def _results(evidence: Evidence) -> Mapping[str, Any]:
    results: Mapping[str, Any] = (evidence.measurement or {}).get("entry", {}).get("results", {})
    return results


def _declared(evidence: Sequence[Evidence]) -> Mapping[str, Any]:
    declared: dict[str, Any] = {}
    for entry in evidence:
        declared = {**(entry.measurement or {}).get("measures", {}), **declared}
    return declared
