"""What a study would do, without doing it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

from rich.table import Table

from ..data.images import DataError
from ..errors import LplError
from ..training.checkpoints import complete_checkpoints
from .files import Study
from .identity import Adopted, Training
from .measured import MachineMeasurements
from .planning import Point, plan, plan_selection, training_order
from .store import Store, is_complete
from .study import STORE, measurements_of


class NotMeasured:
    """Answers a plan's questions from what has been measured before, and with the recipe's own numbers otherwise.

    Where the images or the autoencoder are not here, nothing can have been measured of them.
    """

    def __init__(self, measured: MachineMeasurements) -> None:
        self.measured = measured
        self.guessed: set[str] = set()

    def steps(self, other: Training, training: Training) -> int:
        """As measured before, or as many as the other's."""
        with contextlib.suppress(DataError, FileNotFoundError):
            if self.measured.recalled_times([other, training]) is not None:
                return self.measured.steps(other, training)
        self.guessed.add(training.label)
        return other.recipe.training.steps

    def batch_size(self, training: Training) -> int:
        """As measured before, or the recipe's."""
        with contextlib.suppress(DataError, FileNotFoundError):
            found = self.measured.recalled_batch_size(training)
            if found is not None:
                return found
        self.guessed.add(training.label)
        return training.recipe.training.batch_size


def dry_run_table(study: Study, store: Path | None = None) -> Table:
    """The runs that a study needs, with what of them is there already.

    Raises:
        RecipeError: a recipe that can't be run.
    """
    shelf = Store(store or STORE)
    measured = NotMeasured(MachineMeasurements(shelf, memory_limit=study.config.memory_limit))
    points = plan_selection(study, measured) if study.config.select else []
    points += plan(study, measured, _first_places(points) if study.config.select else None)
    at = f" at {study.scale}" if study.scale else ""
    table = Table(title=f"{study.config.name}{at}: what it needs", title_justify="left")
    for heading in ("run", "begins from", "steps", "batch", "training", "measurements"):
        table.add_column(heading, overflow="fold")
    for training in _each_once(shelf, training_order(points), measured.guessed):
        state = None if study.config.train else ("none, it is counted from its recipe", "")
        table.add_row(*_row(shelf, training, points, measured.guessed, state))
    return table


def _each_once(
    store: Store, trainings: Iterable[Training | Adopted], guessed: Collection[str]
) -> list[Training | Adopted]:
    """Without those that are the same run under another arm's name; until its steps are measured, none is."""
    found: dict[object, Training | Adopted] = {}
    for training in trainings:
        try:
            run: object = training if training.label in guessed else store.locate(training)
        except (LplError, FileNotFoundError):  # said in its row
            run = training
        found.setdefault(run, training)
    return list(found.values())


def _first_places(points: list[Point]) -> dict[str, tuple[tuple[str, object], ...]]:
    """Some place in each arm's sweep: runs are the same whichever will be chosen, unless the sweep is over training."""
    return {point.arm: point.values for point in reversed(points)}


def _row(
    store: Store,
    training: Training | Adopted,
    points: list[Point],
    guessed: set[str],
    state: tuple[str, str] | None = None,
) -> list[str]:
    settings = training.recipe.training
    if isinstance(training, Adopted):
        start, steps, batch = str(training.checkpoint), "–", "–"
    else:
        start = training.start.label if training.start is not None else "random weights"
        steps = "to be measured" if training.label in guessed else f"{settings.steps:,}"
        steps = f"at most {steps}" if training.same_time_as is not None else steps
        batch = str(settings.batch_size)
    # The run that there would be if the guess were right is another's.
    if state is None:
        state = ("known once measured", "") if training.label in guessed else _state(store, training, points)
    return [training.label, start, steps, batch, *state]


def _state(store: Store, training: Training | Adopted, points: list[Point]) -> tuple[str, str]:
    """How far a run is, and how many of its measurements are made."""
    try:
        folder = store.locate(training)
        wanted = measurements_of(store, training, points)
    except (LplError, FileNotFoundError) as error:
        return f"can't begin here: {error}", ""
    if is_complete(folder):
        from .running import read_measurement

        made = sum(read_measurement(folder, measurement) is not None for measurement in wanted)
        return f"done, {folder.name}", f"{made} of {len(wanted)} made"
    checkpoints = complete_checkpoints(folder / "checkpoints")
    begun = f"begun, {checkpoints[-1].name}" if checkpoints else "to be done"
    return ("exists" if isinstance(training, Adopted) else begun), f"{len(wanted)} to be made"
