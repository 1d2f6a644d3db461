"""From a study to the runs it needs and the points at which they are measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..config import EvaluationConfig, Recipe, RecipeError, SamplingConfig, build_recipe, merge
from ..training.checkpoints import CheckpointError, read_state, resolve_checkpoint
from .config import PRETRAINING
from .files import Study
from .identity import Adopted, Training
from .measures import needs_features
from .recipes import (
    Values,
    base_name,
    refuse_idle_overrides,
    run_label,
    seeded,
    seeds_of,
    study_recipe,
    swept,
    with_training,
)

Trainings = dict[tuple[str, Values, int], "Training"]  # by arm, point of its sweep and seed


class Measured(Protocol):
    """What a plan needs to have measured on this machine."""

    def steps(self, other: Training, training: Training) -> int:
        """How many steps of `training` take as long as all of `other`'s."""

    def batch_size(self, training: Training) -> int:
        """The largest batch with which `training` fits the memory."""


@dataclass(frozen=True)
class Point:
    """One measurement: of one run, at one checkpoint, by one way of sampling.

    Attributes:
        arm: its name, or "pretraining".
        values: where in the sweep.
        seed: of post-training.
        training: the run.
        step: of the checkpoint; None for the last one.
        iteration: of post-training, where points are plotted over iterations: 0 is what it began from.
        sampling: how its images are drawn.
        evaluation: how they are measured.
    """

    arm: str
    values: Values
    seed: int
    training: Training | Adopted
    step: int | None
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    iteration: int | None = None

    @property
    def recipe(self) -> Recipe:
        """Of the run."""
        return self.training.recipe


def plan(study: Study, measured: Measured, chosen: Mapping[str, Values] | None = None) -> list[Point]:
    """Every point of a study's table or plot, arm by arm, and seed by seed within each row.

    All recipes are checked, so that a mistake in the last arm stops a study before it starts.

    Args:
        study: what is to be compared.
        measured: answers what depends on this machine.
        chosen: the one point of its sweep at which each arm is shown, where that has been selected; an arm for which
            none could be is left out, and so is one that takes as long as it.

    Raises:
        RecipeError: a recipe that can't be run, or an override that no arm takes.
        CheckpointError: a checkpoint to begin from is missing, or is of other latents.
    """
    refuse_idle_overrides(study)
    seeds = seeds_of(study)
    made: Trainings = {}
    for arm, changes in study.config.arms.items():
        if changes.same_time_as is not None and all(changes.same_time_as != other for other, _, _ in made):
            continue
        for values in _sweep(study, arm, chosen):
            for seed in seeds:
                made[arm, values, seed] = _training(study, measured, made, arm, values, seed)
    points = [point for key, training in made.items() for point in _points(study, *key, training)]
    return points + (_starting_points(study, made) if study.config.show_pretraining else [])


def plan_selection(study: Study, measured: Measured) -> list[Point]:
    """The points by which each arm's place in its sweep is chosen: drawn from other noise than the figures' samples."""
    select = study.config.select
    assert select is not None
    points: list[Point] = []
    for point in plan(study, measured):
        if point.arm == PRETRAINING or not point.values:
            continue
        sampling = point.sampling.model_copy(update={"seed": point.sampling.seed + select.seed_offset})
        changed = merge(point.evaluation.model_dump(), select.evaluation)
        evaluation = build_recipe(changed, f"{study.origin}, select.evaluation", EvaluationConfig)
        if evaluation.extractor == "none" and needs_features(select.by):
            raise RecipeError(
                f"{study.origin}: select.by={select.by} needs features, and there is no extractor while choosing; set "
                "select.evaluation.extractor, for example to inception, or choose by sliced_wasserstein"
            )
        points.append(replace(point, sampling=sampling, evaluation=evaluation))
    return points


def _sweep(study: Study, arm: str, chosen: Mapping[str, Values] | None) -> Iterator[Values]:
    sweep = swept(study, arm)
    if chosen is not None and sweep:
        yield from [chosen[arm]] if arm in chosen else []
        return
    for combination in itertools.product(*sweep.values()):
        yield tuple(zip(sweep, (_hashable(value) for value in combination), strict=True))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(entry) for entry in value) if isinstance(value, list) else value


def _training(study: Study, measured: Measured, made: Trainings, arm: str, values: Values, seed: int) -> Training:
    """An arm's run at one point of its sweep, for one seed."""
    config, changes = study.config, study.config.arms[arm]
    recipe = study_recipe(study, arm, values=values)
    trained = tuple((key, value) for key, value in values if not key.startswith(("sampling.", "evaluation.")))
    label = run_label(study, arm, trained, seed)
    recipe = seeded(study, recipe, seed, label)
    start = _start(study, arm, seed) if changes.start == "pretraining" else None
    training = Training(label, recipe, start)
    if changes.largest_batch:
        training = _with_largest_batch(training, measured)
    if changes.same_time_as is not None:
        other = _made(made, changes.same_time_as, seed)
        if changes.equal_time == "clock":
            training = replace(training, same_time_as=other)
        else:
            _refuse_unknown_length(study, arm, other, training)
            steps = measured.steps(other, training)
            training = replace(training, recipe=with_training(training.recipe, steps=steps))
    if config.iterations is not None:
        recipe = with_training(training.recipe, keep_every=config.iterations)
        training = replace(training, recipe=recipe, milestones=_milestones(study, recipe))
    return training


def _refuse_unknown_length(study: Study, arm: str, other: Training, training: Training) -> None:
    """Refuses to take as many steps as fit another's time, where not its steps but the clock ends one of them."""
    for run in (other, training):
        if run.same_time_as is not None or run.recipe.training.time_budget is not None:
            raise RecipeError(
                f"{study.origin}: arms.{arm}.equal_time=ratio: needs numbers of steps that are known beforehand, and "
                f"the clock ends {run.label} (training.time_budget or equal_time=clock); take equal_time=clock"
            )


def _made(made: Trainings, arm: str, seed: int) -> Training:
    """An arm's run for one seed; where its sweep is over sampling, all of its points have the same one."""
    return next(run for (name, _, of), run in made.items() if (name, of) == (arm, seed))


def _points(study: Study, arm: str, values: Values, seed: int, training: Training) -> Iterator[Point]:
    recipe = training.recipe
    # The same run serves every way of sampling it.
    sampling = seeded(study, study_recipe(study, arm, values=values), seed, training.label).sampling
    if not training.milestones:
        yield Point(arm, values, seed, training, None, sampling, recipe.evaluation)
        return
    if training.start is not None:
        yield Point(arm, values, seed, training.start, None, sampling, recipe.evaluation, iteration=0)
    for step in training.milestones:
        averaged = step >= recipe.training.ema_start
        weights = sampling if averaged else sampling.model_copy(update={"weights": "raw"})
        yield Point(arm, values, seed, training, step, weights, recipe.evaluation, iteration=step)


def _starting_points(study: Study, made: Trainings) -> list[Point]:
    """Where the arms began, where that is one and the same for all of them; sampled as the first arm is."""
    if not study.config.train or study.config.iterations is not None:
        return []
    starts = {(seed, run.start): None for (_, _, seed), run in made.items() if run.start is not None}
    if not starts or len({seed for seed, _ in starts}) < len(starts):
        return []
    baseline, values, _ = next((key for key in made if key[0] == study.config.compared_with), next(iter(made)))
    points = []
    for seed, start in starts:
        assert start is not None
        like = made[baseline, values, seed].recipe
        points.append(Point(PRETRAINING, (), seed, start, None, like.sampling, like.evaluation))
    return points


def _start(study: Study, arm: str, seed: int) -> Training | Adopted:
    """What an arm begins from: its pre-training, or a checkpoint that exists."""
    config, changes = study.config, study.config.arms[arm]
    recipe = study_recipe(study, arm, pretraining=True)
    label = f"{base_name(study)}-{PRETRAINING}{f'-{arm}' if changes.throughout else ''}"
    path = changes.pretrained or config.pretrained
    if path is not None:
        return Adopted(label, _checkpoint(path, recipe), recipe)
    if config.reseed_pretraining:
        label = f"{label}-seed{seed}" if seed else label
        recipe = recipe.model_copy(update={"seed": seed})
    return Training(label, recipe.model_copy(update={"name": label, "output": None}))


def _checkpoint(path: str, recipe: Recipe) -> Path:
    """A checkpoint to begin from, once it is known to be of the latents that the recipe's autoencoder makes."""
    import torch

    from ..autoencoders import load_autoencoder

    checkpoint = resolve_checkpoint(Path(path).expanduser())
    config = recipe.autoencoder
    codec = load_autoencoder(config.path, config.subfolder, getattr(torch, config.precision))
    trained = (read_state(checkpoint).get("latents") or {}).get("autoencoder")
    if trained is not None and trained != codec.fingerprint():
        raise CheckpointError(
            f"{checkpoint}: was trained on latents of another autoencoder than autoencoder.path={config.path}; its "
            "weights would mean something else"
        )
    return checkpoint


def _milestones(study: Study, recipe: Recipe) -> tuple[int, ...]:
    every, steps = study.config.iterations, recipe.training.steps
    assert every is not None
    if recipe.training.time_budget is not None:
        raise RecipeError(
            f"{study.origin}: iterations={every} are counted up to training.steps of {recipe.name}, which "
            f"training.time_budget={recipe.training.time_budget:g} may end before; give one of them"
        )
    if every > steps:
        raise RecipeError(f"{study.origin}: iterations={every} is more than training.steps={steps} of {recipe.name}")
    return tuple(sorted({*range(every, steps + 1, every), steps}))


def _with_largest_batch(training: Training, measured: Measured) -> Training:
    """The largest batch that fits, and the learning rate scaled linearly with it."""
    from ..training.batch_size import with_batch_size

    return replace(training, recipe=with_batch_size(training.recipe, measured.batch_size(training)))


def training_order(points: Sequence[Point]) -> list[Training | Adopted]:
    """The runs of a plan, each once and after those that it depends on."""
    order: dict[Training | Adopted, None] = {}

    def add(training: Training | Adopted | None) -> None:
        if training is None or training in order:
            return
        if isinstance(training, Training):
            add(training.start)
            add(training.same_time_as)
        order[training] = None

    for point in points:
        add(point.training)
    return list(order)
