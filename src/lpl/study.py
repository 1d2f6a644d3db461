"""Studies: one pre-training, several arms of post-training from it, and all of them side by side.

A study is a YAML file that names a recipe and says what each arm changes in it. Every step is skipped where its result
is there already, so that a study that was stopped carries on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from rich.console import Console

from .config import Recipe, Section, apply_overrides, build_recipe, merge, read_yaml

PRETRAINING = "pretraining"


class ArmConfig(Section):
    """One post-training."""

    recipe: dict[str, Any] = Field(default_factory=dict)  # what it changes in the study's recipe
    same_time_as: str | None = None  # an arm listed before: this one trains for as many seconds as that one took


class StudyConfig(Section):
    """A study's file."""

    name: str
    title: str | None = None  # heading of the report
    recipe: str  # a recipe's file, relative to the study's
    pretraining: dict[str, Any] = Field(default_factory=dict)  # changes to the recipe for pre-training
    posttraining: dict[str, Any] = Field(default_factory=dict)  # changes to the recipe for every arm
    arms: dict[str, ArmConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_times(self) -> StudyConfig:
        earlier: list[str] = []
        for name, arm in self.arms.items():
            if name == PRETRAINING:
                raise ValueError(f"arms.{name}: is the name of the run that all arms begin from; choose another")
            if arm.same_time_as is not None and arm.same_time_as not in earlier:
                listed = ", ".join(earlier) or "none"
                raise ValueError(
                    f"arms.{name}.same_time_as: {arm.same_time_as} is not an arm listed before (those are: {listed})"
                )
            earlier.append(name)
        return self


@dataclass(frozen=True)
class Study:
    """A study with its recipe read.

    Attributes:
        config: the study's file.
        base: the recipe's values, before any change.
        origin: the file's path, for messages.
    """

    config: StudyConfig
    base: Mapping[str, Any]
    origin: str


def load_study(path: str | Path) -> Study:
    """Reads a study and the recipe it names.

    Raises:
        RecipeError: a file is missing, a key unknown or a value impossible.
    """
    path = Path(path)
    config = build_recipe(read_yaml(path), str(path), StudyConfig)
    return Study(config, read_yaml(path.parent / config.recipe), str(path))


def run_study(
    study: Study, overrides: Sequence[str] = (), output: Path | None = None, console: Console | None = None
) -> Path:
    """Runs whatever of a study is not done yet, prints its table and writes its report.

    All recipes are checked before the first one starts.

    Args:
        study: what to run.
        overrides: `key=value` settings for every run.
        output: the study's folder, by default runs/NAME.
        console: where to print.

    Returns:
        The report's path.

    Raises:
        RecipeError: a recipe that can't be run.
    """
    console = console or Console()
    folder = output or Path("runs") / study.config.name
    recipes = {name: study_recipe(study, name, folder, overrides) for name in (PRETRAINING, *study.config.arms)}
    start = time.monotonic()
    for number, name in enumerate(recipes, 1):
        recipe = _with_time_budget(study, name, recipes)
        console.rule(f"{study.config.name}: {name} ({number} of {len(recipes)})", align="left")
        _run(recipe, console)
    # The first arm is what the others are compared with; where they all began comes last.
    ordered = [recipes[name].folder for name in (*study.config.arms, PRETRAINING)]
    return _present(study, ordered, folder, time.monotonic() - start, console)


def study_recipe(study: Study, name: str, folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the pre-training or of an arm.

    Raises:
        RecipeError: it can't be run.
    """
    config = study.config
    changes = [config.pretraining] if name == PRETRAINING else [config.posttraining, config.arms[name].recipe]
    values: dict[str, Any] = dict(study.base)
    for change in changes:
        values = merge(values, change)
    values = apply_overrides(values, overrides)
    values |= {"name": name, "output": str(folder / name)}
    if name != PRETRAINING:
        values = merge(values, {"training": {"initial_checkpoint": str(folder / PRETRAINING)}})
    return build_recipe(values, f"{study.origin}, {name}")


def _with_time_budget(study: Study, name: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """The arm's recipe, with the time that the arm it is compared with took, where it asks for that."""
    recipe = recipes[name]
    other = study.config.arms[name].same_time_as if name != PRETRAINING else None
    if other is None:
        return recipe
    seconds = _information(recipes[other].folder)["seconds"]
    training = recipe.training.model_copy(update={"time_budget": float(seconds)})
    return recipe.model_copy(update={"training": training})


def _run(recipe: Recipe, console: Console) -> None:
    """Trains, samples and evaluates one run, as far as that is not done."""
    from .evaluation.run import evaluate_run
    from .training import sample_run, train

    train(recipe)
    if not _has_samples(recipe):
        sample_run(recipe.folder, recipe.sampling)
        (recipe.folder / "metrics.json").unlink(missing_ok=True)
    if not (recipe.folder / "metrics.json").is_file():
        evaluate_run(recipe.folder, recipe.evaluation, cache_dir=recipe.folder.parent / "reference")
    console.print(f"{recipe.name}: {_information(recipe.folder)['seconds']:.0f} s of training")


def _has_samples(recipe: Recipe) -> bool:
    """Whether the samples there are those that the recipe asks for."""
    path = recipe.folder / "samples" / "default" / "samples.json"
    if not path.is_file():
        return False
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    return bool(settings == recipe.sampling.model_dump(mode="json"))


def _present(study: Study, runs: Sequence[Path], folder: Path, seconds: float, console: Console) -> Path:
    """The table and the page."""
    from .reports import compare_table, write_report

    page = write_report(runs, folder / "report.html", study.config.title)
    console.print(compare_table(runs))
    console.print(f"report: {page} ({seconds / 60:.1f} minutes in all)")
    return page


def _information(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content
