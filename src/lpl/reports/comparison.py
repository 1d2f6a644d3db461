"""What differs between recipes, and the facts of every run: settings, machine, time and memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpl.reports import wording
from lpl.reports.runs import Run, is_number, mapping

ABSENT = "–"
UNINFORMATIVE = ("name", "output")  # differ between any two runs
LABELS = {  # of run.json's keys, in the order to show them; others follow under their own names
    "hardware.gpu": "GPU",
    "hardware.cpu": "CPU",
    "hardware.device": "device",
    "hardware.processes": "processes",
    "hardware.cpu_threads": "CPU threads",
    "seconds": "time of training",
    "images_per_second": "throughput",
    "peak_memory_bytes": "peak memory",
    "peak_memory_of": "peak memory counts",
    "parameters": "parameters",
    "step": "steps",
    "images": "images seen",
    "perceptual_weight": "weight of LPL",
    "versions": "software",
    "status": "status",
    "ended_by": "ended by",
}
UNITS: dict[str, Callable[[float], str]] = {  # by a word in the key; the first that fits
    "images_per_second": lambda value: f"{wording.number(value, 1)}{wording.GAP}images/s",
    "memory": wording.byte_size,
    "bytes": wording.byte_size,
    "seconds": wording.duration,
    "parameters": wording.quantity,
}


@dataclass(frozen=True)
class FactRow:
    """One line of a table with a column for each run."""

    label: str
    values: tuple[str, ...]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, in their order; an empty section is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def fact_rows(columns: Sequence[Mapping[str, Any]], without: Sequence[str] = ()) -> list[FactRow]:
    """A row for each dotted key that any column has; a section that one sets to null is not a key of its own."""
    flat = [flatten(column) for column in columns]
    sections = {name for column in flat for key in column for name in _parents(key)}
    keys = [key for key in dict.fromkeys(key for column in flat for key in column) if key not in (*without, *sections)]
    return [FactRow(key, tuple(plain(column[key]) if key in column else ABSENT for column in flat)) for key in keys]


def recipe_differences(runs: Sequence[Run]) -> list[FactRow]:
    """Every setting in which the recipes differ, names and folders apart.

    A section that some recipes set to null is one row that spells it out; its settings get rows of their own only
    where the recipes that fill it differ.
    """
    columns = [flatten(run.recipe) for run in runs]
    optional = _optional_sections(columns)
    spelt = [FactRow(name, tuple(_spelt_out(column, name) for column in columns)) for name in optional]
    rows = [row for row in fact_rows(columns, UNINFORMATIVE) if _differs(row, columns, optional)]
    inside = [row for row in rows if any(_within(row.label, name) for name in optional)]
    return [*spelt, *inside, *(row for row in rows if row not in inside)]


def plain(value: Any) -> str:
    """A setting as one would write it in a recipe."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "[]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def objective_in_words(run: Run) -> str:
    """What a run minimises, from its recipe: `ℓ2`, or `ℓ2 + 0.2 × LPL` with its statistics and its gate."""
    if not run.recipe:
        return "unknown objective"
    objective = mapping(run.recipe.get("objective"))
    weighting = objective.get("weighting") or "none"
    base = "ℓ2" if weighting == "none" else f"ℓ2 weighted by {str(weighting).replace('_', '-')}"
    perceptual = mapping(objective.get("perceptual"))
    if not perceptual or perceptual.get("weight") == 0:
        return base
    term, details = _term_in_words(perceptual)
    threshold = perceptual.get("sigma_threshold", 3.0 if term == "LPL" else None)
    gate = "no gate" if threshold is None else f"τ = {plain(threshold)}"
    weight = _weight_in_words(run, perceptual.get("weight", 1.0))
    return f"{base} + {weight} {term} ({', '.join([*details, gate])})"


def _term_in_words(perceptual: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A perceptual term's name, and what tells it from others of its kind."""
    kind = perceptual.get("kind", "lpl")
    if kind == "latent_lpips":
        return "latent LPIPS", ["published weights"] if perceptual.get("classifier") == "elatentlpips" else []
    if kind == "self_perceptual":
        depth = perceptual.get("depth", "middle")
        return "Self-Perceptual", [f"block {depth}" if isinstance(depth, int) else f"{depth} block"]
    if kind == "custom":
        return str(perceptual.get("term", "")).rpartition(":")[2] or "custom loss", []
    return "LPL", [f"{perceptual.get('normalization', 'prediction')} statistics"]


def origin_in_words(run: Run) -> str:
    """Where a run's training began; empty without a recipe."""
    start = mapping(run.recipe.get("training")).get("initial_checkpoint")
    if start:
        return f"post-trained from {shortened(str(start))}"
    return "trained from scratch" if run.recipe else ""


def shortened(path: str) -> str:
    """A path for a page that is published: where it is absolute, its last part, as the rest is somebody's machine."""
    return Path(path).name if Path(path).is_absolute() else path


def machine_facts(runs: Sequence[Run]) -> tuple[list[FactRow], list[FactRow]]:
    """What run.json says, in readable units: first what most people ask for, then everything else."""
    flat = [{key: _readable(key, value) for key, value in flatten(_with_software(run.info)).items()} for run in runs]
    known = [{key: value for key, value in facts.items() if value is not None} for facts in flat]
    rows = {row.label: row for row in fact_rows(known, UNINFORMATIVE)}
    asked = [FactRow(label, rows[key].values) for key, label in LABELS.items() if key in rows]
    others = [row for key, row in rows.items() if key not in LABELS]
    return asked, [FactRow(row.label.replace("_", " ").replace(".", ", "), row.values) for row in others]


def _with_software(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """All versions on one line."""
    versions = mapping(info.get("versions"))
    if not versions:
        return info
    return {**info, "versions": ", ".join(f"{name} {version}" for name, version in versions.items())}


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _optional_sections(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sections that some recipes fill and others set to null."""
    filled = dict.fromkeys(name for column in columns for key in column for name in _parents(key))
    return [name for name in filled if any(name in column for column in columns)]


def _spelt_out(column: Mapping[str, Any], section: str) -> str:
    """A section's settings, one a line; what stands in its place where it has none."""
    inside = {key.removeprefix(f"{section}."): value for key, value in column.items() if _within(key, section)}
    return "\n".join(f"{key}: {plain(value)}" for key, value in inside.items()) or plain(column.get(section))


def _differs(row: FactRow, columns: Sequence[Mapping[str, Any]], optional: Sequence[str]) -> bool:
    """Whether the recipes that have the row's section, if it is an optional one, disagree."""
    section = next((name for name in optional if _within(row.label, name)), None)
    having = [section is None or any(_within(key, section) for key in column) for column in columns]
    return len({value for value, has in zip(row.values, having, strict=True) if has}) > 1


def _within(key: str, section: str) -> bool:
    return key.startswith(f"{section}.")


def _weight_in_words(run: Run, weight: Any) -> str:
    if weight != "matched":
        return f"{plain(weight)} ×"
    reached = run.info.get("perceptual_weight")
    return f"{reached:.3g} (variance-matched) ×" if is_number(reached) else "variance-matched"


def _readable(key: str, value: Any) -> Any:
    """`value` in units, where a word in the key tells what it counts; long lists by their beginning."""
    if isinstance(value, list) and len(value) > 12:
        return f"{plain(value[:8])} … ({len(value):,} in all)"
    if not is_number(value):
        return value
    write = next((write for word, write in UNITS.items() if word in key.lower()), None)
    return write(value) if write else value
