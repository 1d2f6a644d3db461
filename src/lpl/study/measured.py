"""What plans need to have measured on this machine, kept in the store so that it is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ..analysis.inputs import tracked
from ..config import Recipe
from ..data.images import digest
from ..training.run_folder import timestamp
from .identity import Training, identity_key, identity_of
from .store import Store, is_complete

TIMINGS, BATCH_SIZES = "timings", "batch-sizes"
GIB = 1 << 30


class MachineMeasurements:
    """Measures what a plan depends on, or recalls it.

    Args:
        store: keeps the measurements.
        console: where to say what was found.
        memory_limit: GiB that a run may take; None for all that the device has.
    """

    def __init__(self, store: Store, console: Console | None = None, memory_limit: float | None = None) -> None:
        self.store, self.memory_limit = store, memory_limit
        self.console = console or Console(quiet=True)

    def steps(self, other: Training, training: Training) -> int:
        """How many steps of `training` take as long as all of `other`'s, by `measure_step_times`."""
        record = self.times([other, training])
        ratio = float(record["ratios"][0])
        steps = max(1, round(other.recipe.training.steps * ratio))
        self.console.print(
            f"{training.label}: {steps} steps for the time of {other.recipe.training.steps} of {other.label}'s "
            f"(a step of the latter takes {ratio:.3g} times as long)",
            markup=False,
            highlight=False,
        )
        return steps

    def times(self, trainings: Sequence[Training]) -> dict[str, Any]:
        """Seconds per step of runs trained in turn in one process: "seconds", "ratios" to the last and "speeds"."""
        record = self.recalled_times(trainings)
        if record is None:
            from .timing import ROUNDS, measure_step_times

            recipes = [self._startable(training) for training in trainings]
            rounds = iter(tracked(range(ROUNDS), "Timing objectives"))
            next(rounds, None)
            times = measure_step_times(recipes, advance=lambda: next(rounds, None))
            last = len(recipes) - 1
            record = {
                "runs": [training.label for training in trainings],
                "ratios": [times.ratio(index, last) for index in range(len(recipes))],
                "speeds": [times.images_per_second(index) for index in range(len(recipes))],
                "measured": timestamp(),
                **times.to_json(),
            }
            self.store.remember(TIMINGS, self._times_key(trainings), record)
        return record

    def _startable(self, training: Training) -> Recipe:
        """The recipe with the checkpoint to begin from where that is there already, else with random weights."""
        start = None if training.start is None else self.store.locate(training.start)
        checkpoint = str(start) if start is not None and is_complete(start) else None
        changed = training.recipe.training.model_copy(update={"initial_checkpoint": checkpoint})
        return training.recipe.model_copy(update={"training": changed})

    def recalled_times(self, trainings: Sequence[Training]) -> dict[str, Any] | None:
        """What `times` measured before."""
        return self.store.recall(TIMINGS, self._times_key(trainings))

    def batch_size(self, training: Training) -> int:
        """The largest batch that fits the memory."""
        found = self.recalled_batch_size(training)
        if found is None:
            from ..training.batch_size import largest_batch_size

            found = largest_batch_size(training.recipe, self._limit)
            record = {"run": training.label, "limit": self._limit, "batch_size": found, "measured": timestamp()}
            self.store.remember(BATCH_SIZES, self._batch_key(training), record)
        return found

    def recalled_batch_size(self, training: Training) -> int | None:
        """What `batch_size` found before."""
        record = self.store.recall(BATCH_SIZES, self._batch_key(training))
        return None if record is None else int(record["batch_size"])

    @property
    def _limit(self) -> int | None:
        return None if self.memory_limit is None else int(self.memory_limit * GIB)

    def _times_key(self, trainings: Sequence[Training]) -> str:
        return digest([cost_key(training, self.store) for training in trainings])[:10]

    def _batch_key(self, training: Training) -> str:
        return digest(cost_key(training, self.store), self._limit)[:10]


def cost_key(training: Training, store: Store) -> str:
    """The key of what a training step costs: neither the seed counts, nor where the run begins, nor its length."""
    return identity_key(identity_of(Training("", _at_one_step(training.recipe)), store.known))


def _at_one_step(recipe: Recipe) -> Recipe:
    training = recipe.training.model_copy(update={"steps": max(1, recipe.training.ema_start + 1), "time_budget": None})
    return recipe.model_copy(update={"seed": 0, "training": training})
