"""The recipe of each run of a study: the base with the study's, the arm's and the command line's changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Recipe, RecipeError, Section, apply_overrides, build_recipe, merge
from ..objective_sections import DEFAULT_KIND
from .config import PRETRAINING, Sweep
from .files import Study

TERMS = ("perceptual", "gate_perceptual")  # keys of `objective` that an arm has, or has not
SECTIONS = frozenset(
    name
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
)
# Settings of the command line that would change no run, or make all arms the same, with what to do instead.
IDLE = {
    "name": "a study's runs are named after its arms; --output names its folder",
    "output": "a study's runs lie in its store; --output names its folder, --store the store",
    "objective": "would make the arms' objectives one and the same; set its keys, such as objective.perceptual.weight",
}
Values = tuple[tuple[str, Any], ...]  # a point of a sweep: (recipe key, value) pairs


def study_recipe(study: Study, arm: str, pretraining: bool = False, values: Values = ()) -> Recipe:
    """The recipe of an arm's post-training, or of the pre-training it begins from.

    Raises:
        RecipeError: it can't be run.
    """
    part = f"{arm}, pretraining" if pretraining else arm
    origin = f"{study.origin}, {part}{''.join(f', {key}={value}' for key, value in values)}"
    merged = _before_overrides(study, arm, pretraining)
    merged = apply_overrides(merged, [text for text in study.overrides if _concerns(_key(text), merged)])
    for key, value in values:
        merged = _with_value(merged, key, value)
    _refuse_emptied_sections(merged, origin)
    _refuse_checkpoint(merged, origin)
    if not pretraining and study.config.arms[arm].start == "pretraining":
        # Only runs know where it lies, and some terms need to know that there is one.
        merged = merge(merged, {"training": {"initial_checkpoint": PRETRAINING}})
    return build_recipe(merged, origin)


def swept(study: Study, arm: str) -> Sweep:
    """What an arm is swept over: its own keys, or those of the study's that concern it.

    Raises:
        RecipeError: the arm's own sweep is over a perceptual term that it has not.
    """
    merged, own = _before_overrides(study, arm), study.config.arms[arm].sweep
    sweep = study.config.sweep_of(arm)
    concerning = {key: points for key, points in sweep.items() if _concerns(key, merged)}
    idle = [key for key in sweep if key not in concerning]
    if own is not None and idle:
        raise RecipeError(
            f"{study.origin}: arms.{arm}.sweep.{idle[0]}: the arm has no such term; give it one in its recipe, such as "
            "{objective: {perceptual: {}}}"
        )
    return concerning


def _before_overrides(study: Study, arm: str, pretraining: bool = False) -> dict[str, Any]:
    """What the files say of an arm's post-training, or of its pre-training."""
    config, changes = study.config, study.config.arms[arm]
    layers = {"recipe": study.base}
    layers |= {"pretraining": config.pretraining} if pretraining else {"posttraining": config.posttraining}
    layers |= {f"arms.{arm}.throughout": changes.throughout}
    layers |= {} if pretraining else {f"arms.{arm}.recipe": changes.recipe}
    merged: dict[str, Any] = {}
    for name, layer in layers.items():
        _refuse_emptied_sections(layer, f"{study.origin}, {name}")
        merged = merge(merged, layer)
    return _with_term_settings(study, merged)


def _refuse_emptied_sections(values: Mapping[str, Any], origin: str) -> None:
    """Refuses to put nothing or a value in a section's place: what is merged later would leave it with defaults."""
    for key in SECTIONS & set(values):
        if not isinstance(values[key], Mapping):
            given = "nothing" if values[key] is None else repr(values[key])
            raise RecipeError(f"{origin}: {key}: got {given}, takes settings; leave it out to change none")


def _refuse_checkpoint(values: Mapping[str, Any], origin: str) -> None:
    """Refuses a start that runs would have without its being told apart from another."""
    given = (values.get("training") or {}).get("initial_checkpoint")
    if given is not None:
        raise RecipeError(
            f"{origin}: training.initial_checkpoint={given}: a study says itself what its runs begin from; name the "
            "checkpoint as `pretrained`, of the study or of an arm"
        )


def _with_term_settings(study: Study, values: dict[str, Any]) -> dict[str, Any]:
    """The study's settings of perceptual terms below the arm's own, where the arm has such a term."""
    objective = values.get("objective") or {}
    for key in TERMS:
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
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)  # other values have other names
    return "none" if value is None else str(value)


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


def _key(override: str) -> str:
    return override.partition("=")[0]


def _term(key: str) -> str | None:
    """The perceptual term that a recipe's key sets, or is a setting of."""
    return next((term for term in TERMS if f"{key}.".startswith(f"objective.{term}.")), None)


def _concerns(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a setting applies: one of a perceptual term must not give an arm one that has none."""
    term, objective = _term(key), values.get("objective")
    return term is None or (isinstance(objective, Mapping) and objective.get(term) is not None)


def refuse_idle_overrides(study: Study) -> None:
    """Refuses settings of the command line that would change no run.

    Raises:
        RecipeError: a setting of perceptual terms, where no arm has one; or one that a study has no use for.
    """
    recipes = [_before_overrides(study, arm) for arm in study.config.arms]
    for override in study.overrides:
        key = _key(override)
        if key in IDLE:
            raise RecipeError(f"{override}: {IDLE[key]}")
        if not any(_concerns(key, values) for values in recipes):
            raise RecipeError(f"{override}: no arm of {study.config.name} has a perceptual term")
    for key in study.config.sweep:
        if not any(_concerns(key, values) for values in recipes):
            raise RecipeError(f"sweep.{key}: no arm of {study.config.name} has a perceptual term")
