"""The recipe of each run of a study: the base with the study's, the arm's and the command line's changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Recipe, RecipeError, apply_overrides, build_recipe, merge
from ..objective_sections import DEFAULT_KIND
from .config import PRETRAINING
from .files import Study

PERCEPTUAL = "objective.perceptual."
Values = tuple[tuple[str, Any], ...]  # a point of a sweep: (recipe key, value) pairs


def study_recipe(study: Study, arm: str, pretraining: bool = False, values: Values = ()) -> Recipe:
    """The recipe of an arm's post-training, or of the pre-training it begins from.

    Raises:
        RecipeError: it can't be run.
    """
    config, changes = study.config, study.config.arms[arm]
    layers = [config.pretraining] if pretraining else [config.posttraining]
    layers += [changes.throughout] if pretraining else [changes.throughout, changes.recipe]
    merged: dict[str, Any] = dict(study.base)
    for layer in layers:
        merged = merge(merged, layer)
    merged = _with_term_settings(study, merged)
    if not pretraining and changes.start == "pretraining":
        # Only runs know where it lies, and some terms need to know that there is one.
        merged = merge(merged, {"training": {"initial_checkpoint": PRETRAINING}})
    overrides = [text for text in study.overrides if _concerns(text, merged)]
    merged = apply_overrides(merged, overrides)
    for key, value in values:
        merged = _with_value(merged, key, value)
    part = f"{arm}, pretraining" if pretraining else arm
    at = "".join(f", {key}={value}" for key, value in values)
    return build_recipe(merged, f"{study.origin}, {part}{at}")


def _with_term_settings(study: Study, values: dict[str, Any]) -> dict[str, Any]:
    """The study's settings of perceptual terms below the arm's own, where the arm has such a term."""
    objective = values.get("objective") or {}
    for key in ("perceptual", "gate_perceptual"):
        own = objective.get(key) if isinstance(objective, Mapping) else None
        if isinstance(own, Mapping):
            is_lpl = own.get("kind", DEFAULT_KIND) == DEFAULT_KIND
            settings = merge(merge(study.config.perceptual, study.config.lpl if is_lpl else {}), own)
            values = merge(values, {"objective": {key: settings}})
    return values


def describe_values(values: Values) -> str:
    """A point of a sweep in short: the last part of each key with its value."""
    return ", ".join(f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in values)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(_plain(entry) for entry in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def seeds_of(study: Study) -> tuple[int, ...]:
    """The seeds of post-training: the study's, or the recipe's one."""
    if study.config.seeds is not None:
        return study.config.seeds
    return (study_recipe(study, next(iter(study.config.arms))).seed,)


def seeded(study: Study, recipe: Recipe, seed: int, name: str) -> Recipe:
    """The recipe for one seed: samples of different seeds come from different noise, those of different arms don't."""
    sampling = recipe.sampling
    if study.config.seeds is not None:
        sampling = sampling.model_copy(update={"seed": sampling.seed + seed})
    return recipe.model_copy(update={"name": name, "output": None, "seed": seed, "sampling": sampling})


def with_training(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other settings of its section `training`.

    Raises:
        RecipeError: it can't be run with them.
    """
    return build_recipe(merge(recipe.model_dump(), {"training": values}), recipe.name)


def run_label(study: Study, arm: str, values: Values, seed: int) -> str:
    """A run's name for people: the recipe's, the arm, where in the sweep it is, and the seed unless that is 0."""
    parts = [base_name(study), arm, *([describe_values(values).replace(", ", "-")] if values else [])]
    return "-".join([*parts, *([f"seed{seed}"] if seed else [])])


def base_name(study: Study) -> str:
    """The name of the recipe that all runs are made from."""
    return str(study.base.get("name", "run"))


def _with_value(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Sets a dotted key of a recipe; lists of a sweep come as tuples, so that they can be compared."""
    *parents, last = key.split(".")
    layer: dict[str, Any] = {last: list(value) if isinstance(value, tuple) else value}
    for name in reversed(parents):
        layer = {name: layer}
    return merge(values, layer)


def _concerns(override: str, values: Mapping[str, Any]) -> bool:
    """Whether an override applies: a setting of the perceptual term must not give an arm one that has none."""
    if not override.startswith(PERCEPTUAL):
        return True
    objective = values.get("objective") or {}
    return isinstance(objective, Mapping) and objective.get("perceptual") is not None


def refuse_idle_overrides(study: Study) -> None:
    """Refuses settings of the command line that would change no run.

    Raises:
        RecipeError: a setting of perceptual terms, where no arm has one.
    """
    for override in study.overrides:
        if override.startswith(PERCEPTUAL) and not any(
            study_recipe(study, arm).objective.perceptual is not None for arm in study.config.arms
        ):
            raise RecipeError(f"{override}: no arm of {study.config.name} has a perceptual term")


def refuse_unmatched(study: Study, recipe: Recipe) -> None:
    """Refuses a weight that would still be being matched when training ends, and so be 0 all along.

    Raises:
        RecipeError: matching takes all batches of training.
    """
    batches = recipe.training.steps * recipe.training.accumulation
    for key, term in recipe.objective.terms.items():
        measured = term.weight == "matched" or key == "gate_perceptual"
        if measured and term.matching_batches >= batches:
            raise RecipeError(
                f"{study.origin}, {recipe.name}: objective.{key}.matching_batches={term.matching_batches} is not less "
                f"than the {batches} batches of training, so that it would have no weight in any of them"
            )
