"""Finds studies and scales, and reads them with the recipe they name.

A study's values are laid over its scale's (studies/scales/NAME.yaml), then come the study's own changes at that scale
(its key `scales`), then those of the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RecipeError, apply_overrides, build_recipe, merge, read_yaml
from .config import StudyConfig, flattened
from .measures import is_measure

DEFAULT_SCALE = "tiny"
PACKAGE = Path(__file__).resolve().parent.parent
FOLDERS = (PACKAGE / "shipped" / "studies", PACKAGE.parent.parent / "studies")  # installed, or in the repository
OWN_KEYS = frozenset(StudyConfig.model_fields) - {"name", "recipe", "scale"}  # on the command line


@dataclass(frozen=True)
class Study:
    """A study with its recipe read.

    Attributes:
        config: what the file says, at the scale asked for.
        base: the recipe's values, before any change.
        origin: the file's path, for messages.
        scale: its name, or None for a study that has sizes of its own.
        overrides: `key=value` settings for every run.
    """

    config: StudyConfig
    base: Mapping[str, Any]
    origin: str
    scale: str | None = None
    overrides: tuple[str, ...] = ()


def load_study(study: str | Path, scale: str | None = None, overrides: Sequence[str] = ()) -> Study:
    """Reads a study and the recipe it names.

    Args:
        study: a YAML file, or the name of a bundled study.
        scale: tiny, cpu, small, paper, or any other file in studies/scales.
        overrides: `key=value`; keys of the study (`seeds=[0,1]`, `arms.lpl.recipe.training.steps=50`) or of the recipe,
            which then hold for every run.

    Raises:
        RecipeError: a file is missing, a key unknown or a value impossible.
    """
    path = find_study(study)
    values = read_yaml(path)
    _refuse_null_arms(values, path)
    changes = _changes_by_scale(values.pop("scales", None) or {}, path)
    scale = scale or values.get("scale") or (None if "recipe" in values else DEFAULT_SCALE)
    values = _anchored(values, path)
    if scale is not None:
        values = _at_scale(values, scale, changes, path)
    own = [override for override in overrides if override.partition("=")[0].split(".")[0] in OWN_KEYS]
    config = build_recipe(_with_overrides(values, own), str(path), StudyConfig)
    if config.recipe is None:
        raise RecipeError(f"{path}: recipe: neither the study nor its scale names one")
    _refuse_unknown_columns(config, path)
    rest = tuple(override for override in overrides if override not in own)
    return Study(config, read_yaml(Path(config.recipe)), str(path), scale, rest)


def _refuse_unknown_columns(config: StudyConfig, path: Path) -> None:
    from .columns import unknown_columns

    asked: dict[str, Iterable[str]] = {
        "columns": config.columns or (),
        "plots": config.plots,
        "select.by": (config.select.by,) if config.select else (),
        "paper.units": config.paper.units if config.paper else (),
        **{f"arms.{name}.paper": arm.paper for name, arm in config.arms.items()},
    }
    for key, names in asked.items():
        unknown = unknown_columns(tuple(names))
        if unknown:
            raise RecipeError(f"{path}: {key}: {', '.join(unknown)} is neither a measure nor a fact of a run")
    if config.select is not None and not is_measure(config.select.by):
        raise RecipeError(f"{path}: select.by: {config.select.by} is a fact of a run; takes a measure of its samples")


def find_study(study: str | Path) -> Path:
    """The file of a study, given by its path or by the name of a bundled one.

    Raises:
        RecipeError: there is none; the message lists the bundled ones.
    """
    path = Path(study)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    bundled = bundled_studies()
    if str(study) not in bundled:
        raise RecipeError(
            f"{study}: no such study; takes a YAML file or one of the bundled studies: {', '.join(bundled)}"
        )
    return bundled[str(study)]


def bundled_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.yaml"))}


def describe_study(path: Path) -> str:
    """A study's title, without reading anything else of it."""
    return str(read_yaml(path).get("title", ""))


def _folder() -> Path:
    return next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])


def _changes_by_scale(changes: Any, path: Path) -> Mapping[str, Any]:
    if isinstance(changes, Mapping) and all(own is None or isinstance(own, Mapping) for own in changes.values()):
        return changes
    raise RecipeError(f"{path}: scales: got {changes!r}, takes changes by scale, such as {{tiny: {{seeds: [0, 1]}}}}")


def _at_scale(values: Mapping[str, Any], scale: str, changes: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The scale's values, the study's over them, and its changes for that scale over both."""
    file = _scale_file(scale, path)
    if "recipe" in values and scale not in changes:
        raise RecipeError(f"{path}: names a recipe of its own and has no changes for the scale {scale}; leave it out")
    merged = dict(values) if "recipe" in values else merge(_anchored(read_yaml(file), file), values)
    own = changes.get(scale) or {}
    return _without_null_arms(merge(merged, _anchored(own, path)), merged)


def _refuse_null_arms(values: Mapping[str, Any], path: Path) -> None:
    """Refuses arms that a study's own file leaves empty, most often by a slip: they would be missing from its table."""
    empty = [name for name, arm in _arms(values).items() if arm is None]
    if empty:
        raise RecipeError(
            f"{path}: arms.{empty[0]}: is empty; write {{}} for an arm that changes nothing. null leaves an arm out at "
            "a scale or on the command line, not in the study itself"
        )


def _arms(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A study's arms, none where they are not the mapping that they will have to be."""
    arms = values.get("arms")
    return arms if isinstance(arms, Mapping) else {}


def _without_null_arms(values: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A study's values without the arms that changes to those `before` have set to null."""
    arms, known = _arms(values), _arms(before)
    unknown = [name for name, arm in arms.items() if arm is None and name not in known]
    if unknown:
        raise RecipeError(
            f"arms.{unknown[0]}: null leaves an arm out; there is none of that name, but {', '.join(known)}"
        )
    if not arms:
        return dict(values)
    return {**values, "arms": {name: arm for name, arm in arms.items() if arm is not None}}


def _scale_file(scale: str, path: Path) -> Path:
    folders = (path.parent / "scales", _folder() / "scales")
    for folder in folders:
        if (folder / f"{scale}.yaml").is_file():
            return folder / f"{scale}.yaml"
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise RecipeError(f"scale: got {scale!r}, takes {', '.join(known)}")


def _anchored(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The values with the recipe's path made independent of the file that names it."""
    anchored = dict(values)
    recipe = anchored.get("recipe")
    if isinstance(recipe, str) and recipe:
        anchored["recipe"] = str(path.parent / recipe)
    return anchored


def _with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A study's values with settings of the command line; a sweep given there replaces the file's."""
    before, values = values, dict(values)
    for override in overrides:
        if override.startswith("sweep."):
            given = flattened(apply_overrides({}, [override])["sweep"])
            values["sweep"] = {**flattened(values.get("sweep") or {}), **given}
        else:
            values = apply_overrides(values, [override])
    return _without_null_arms(values, before)
