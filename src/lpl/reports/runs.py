"""Reading run folders: whatever is there is taken, whatever is missing or broken becomes a note on the page.

Only a folder that is no run at all is refused, before anything is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lpl.errors import LplError

RUN_FILES = ("recipe.yaml", "run.json", "metrics.jsonl", "metrics.json")  # any one of them makes a folder a run
WRITERS = "`lpl train`, `lpl analyze` or `lpl calibrate`"
MOST_DIGITS = 300  # of a whole number that a float holds; a longer one is read as infinite
JSON = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) <= MOST_DIGITS else float(digits))
METRICS_FORMAT = 1  # of metrics.json, as the evaluation writes it


class ReportError(LplError, ValueError):
    """A report that can't be made; the message says which argument is to blame and what is allowed."""


@dataclass(frozen=True)
class SampleSet:
    """The images of one `samples/<set>` folder: image i was drawn from noise seeded by (seed, i)."""

    name: str
    images: Mapping[int, Path]  # by sample index
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    seed: int | None
    settings: Mapping[str, Any]
    checkpoint: str | None
    size: tuple[int, int] | None = None  # width and height in pixels, of its first image

    def class_name(self, index: int) -> str | None:
        """The name of sample `index`'s class, its number where classes have no names, None where it has no label."""
        if index >= len(self.labels):
            return None
        label = self.labels[index]
        return self.classes[label] if 0 <= label < len(self.classes) else f"class {label}"


@dataclass(frozen=True)
class Run:
    """What one run folder holds; a part that is missing or unreadable is empty and named in `problems`."""

    folder: Path
    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # column -> (N,) values, NaN where absent
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sample_set: str = "default"  # the set whose pictures and metrics are shown
    samples: SampleSet | None = None
    problems: tuple[str, ...] = ()


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one: files from elsewhere may hold anything."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def load_runs(folders: Sequence[Path], sample_set: str = "default") -> list[Run]:
    """Reads every folder, and gives each run a name that no other run has.

    Args:
        folders: run folders; the first is the one that others are compared with.
        sample_set: which folder below `samples/` to show; where it is absent, a run's only other one.

    Raises:
        ReportError: no folder was given, one was given twice, or one is not a run.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ReportError("runs: got an empty list; give at least one run folder")
    refuse_duplicates(paths)
    for path in paths:
        refuse_other_folders(path)
    return _with_unique_names([load_run(path, sample_set) for path in paths])


def load_run(folder: Path, sample_set: str = "default") -> Run:
    """Reads one run folder; see `load_runs`."""
    problems: list[str] = []
    recipe, recipe_text = _read_recipe(folder / "recipe.yaml", problems)
    samples = _read_samples(folder / "samples", sample_set, problems)
    return Run(
        folder=folder,
        name=str(recipe.get("name") or folder.resolve().name),
        recipe=recipe,
        recipe_text=recipe_text,
        info=_read_json(folder / "run.json", problems, "there is nothing to say about its hardware, time and memory"),
        history=_read_history(folder / "metrics.jsonl", problems),
        metrics=_read_metrics(folder / "metrics.json", problems),
        sample_set=samples.name if samples else sample_set,
        samples=samples,
        problems=tuple(problems),
    )


def is_run(path: Path, beyond_recipe: bool = False) -> bool:
    """Whether a folder holds any of a run's files, or any but the recipe, which calibration writes too."""
    return any((path / name).is_file() for name in RUN_FILES[1 if beyond_recipe else 0 :])


def refuse_duplicates(paths: Sequence[Path]) -> None:
    """Raises `ReportError` where a folder is given twice."""
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ReportError(f"folders: {path} is given twice; it can't be compared with itself")
        seen.add(path.resolve())


def refuse_other_folders(path: Path) -> None:
    """Raises `ReportError` where there is no run, with what there is instead."""
    if not path.exists():
        raise ReportError(f"folders: {path} does not exist; give folders that {WRITERS} wrote")
    if not path.is_dir():
        raise ReportError(f"folders: {path} is a file; give the folder that {WRITERS} wrote")
    if not is_run(path):
        expected = ", ".join(RUN_FILES)
        raise ReportError(
            f"folders: {path} is no run and no analysis: it holds none of {expected}, and no file of an analysis; "
            f"give folders that {WRITERS} wrote"
        )


def _with_unique_names(runs: Sequence[Run]) -> list[Run]:
    names = [run.name for run in runs]
    folders = [run.folder.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return list(runs)
    if len(set(folders)) == len(folders):
        return [replace(run, name=name) for run, name in zip(runs, folders, strict=True)]
    return [replace(run, name=str(run.folder)) for run in runs]


def _read_recipe(path: Path, problems: list[str]) -> tuple[Mapping[str, Any], str]:
    if not path.is_file():
        problems.append("recipe.yaml is missing, so its settings are unknown")
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problems.append(f"recipe.yaml can't be read ({_first_line(error)})")
        return {}, text
    if not isinstance(values, Mapping):
        problems.append(f"recipe.yaml holds a {type(values).__name__} instead of sections")
        return {}, text
    return values, text


def _read_json(path: Path, problems: list[str], consequence: str) -> Mapping[str, Any]:
    if not path.is_file():
        problems.append(f"{path.name} is missing, so {consequence}")
        return {}
    try:
        values = JSON.decode(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path.name} can't be read ({_first_line(error)}), so {consequence}")
        return {}
    if not isinstance(values, Mapping):
        problems.append(f"{path.name} holds a {type(values).__name__} instead of named values, so {consequence}")
        return {}
    return values


def _read_metrics(path: Path, problems: list[str]) -> Mapping[str, Any]:
    metrics = _read_json(path, problems, "it has no metrics and no spectrum; run `lpl evaluate`")
    if metrics and metrics.get("format") != METRICS_FORMAT:
        found = f"format {metrics.get('format')} and this version reads format {METRICS_FORMAT}"
        problems.append(f"metrics.json has {found}; run `lpl evaluate` again")
        return {}
    return metrics


def _read_history(path: Path, problems: list[str]) -> dict[str, NDArray[np.float64]]:
    """Columns of metrics.jsonl; a last line cut short by a killed run is one bad line, not a bad file."""
    if not path.is_file():
        problems.append("metrics.jsonl is missing, so it has no curves")
        return {}
    rows, bad = _parse_lines(path.read_text(encoding="utf-8", errors="replace").splitlines())
    if bad:
        problems.append(f"metrics.jsonl has {bad} unreadable {'line' if bad == 1 else 'lines'}, left out of the curves")
    if not rows:
        problems.append("metrics.jsonl holds no logged step yet, so it has no curves")
        return {}
    rows = _latest_by_step(rows)
    broken = {key for row in rows for key, value in row.items() if is_number(value) and not math.isfinite(value)}
    if broken:
        problems.append(f"it logged values that are not finite numbers: {', '.join(sorted(broken))}")
    return _columns(rows)


def _parse_lines(lines: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    rows, bad = [], 0
    for line in filter(str.strip, lines):
        try:
            row = JSON.decode(line)
        except json.JSONDecodeError:
            bad += 1
            continue
        if isinstance(row, dict) and is_number(row.get("step")) and math.isfinite(row["step"]):
            rows.append(row)
        else:
            bad += 1
    return rows, bad


def _latest_by_step(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A resumed run logs steps after its checkpoint again: the later entry of a step holds."""
    by_step = {row["step"]: row for row in rows}
    return [by_step[step] for step in sorted(by_step)]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    names = dict.fromkeys(key for row in rows for key, value in row.items() if is_number(value))
    return {
        name: np.array([row[name] if is_number(row.get(name)) else math.nan for row in rows], dtype=np.float64)
        for name in names
    }


def _read_samples(folder: Path, wanted: str, problems: list[str]) -> SampleSet | None:
    chosen = _choose_set(folder, wanted, problems)
    if chosen is None:
        return None
    images = {int(path.stem): path for path in sorted(chosen.glob("*.png")) if path.stem.isdigit()}
    if not images:
        problems.append(f"samples/{chosen.name} holds no numbered PNG images, so it has no pictures")
        return None
    details = _read_json(chosen / "samples.json", problems, "its pictures have no seed and can't be paired")
    return SampleSet(
        name=chosen.name,
        images=images,
        labels=_integers(details.get("labels")),
        classes=_strings(details.get("classes")),
        seed=details["seed"] if isinstance(details.get("seed"), int) else None,
        settings=mapping(details.get("settings")),
        checkpoint=str(details["checkpoint"]) if details.get("checkpoint") else None,
        size=_image_size(images[min(images)]),
    )


def _choose_set(folder: Path, wanted: str, problems: list[str]) -> Path | None:
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        problems.append("samples/ is missing or empty, so it has no pictures; run `lpl sample`")
        return None
    chosen = next((path for path in found if path.name == wanted), None)
    others = ", ".join(path.name for path in found if path != chosen)
    if chosen is None and len(found) > 1:
        problems.append(f"there is no sample set {wanted!r} and several others ({others}), so it has no pictures")
        return None
    if chosen is None:
        problems.append(f"there is no sample set {wanted!r}; its only one, {found[0].name!r}, is shown instead")
    elif others:
        problems.append(f"sample sets not shown here: {others}")
    return chosen or found[0]


def _image_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


def _integers(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(isinstance(entry, int) for entry in value)
    return tuple(value) if whole else ()


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(str(entry) for entry in value) if isinstance(value, list) else ()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
