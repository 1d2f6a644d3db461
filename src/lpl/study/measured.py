"""What plans need to have measured on this machine, kept in the store so that it is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..analysis.inputs import tracked
from ..config import Recipe, RecipeError
from ..data.images import digest
from ..objective_sections import SelfPerceptualConfig
from ..training.run_folder import hardware, timestamp
from .identity import Training, identity_key, identity_of
from .store import Store, is_complete

if TYPE_CHECKING:
    from ..training.batch_size import Probe

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
        """The recipe with random weights, which cost the same; but a term that compares in the start has that.

        Raises:
            RecipeError: the start is not there yet.
        """
        checkpoint = None
        if any(isinstance(term, SelfPerceptualConfig) for term in training.recipe.objective.terms.values()):
            start = None if training.start is None else self.store.locate(training.start)
            if start is None or not is_complete(start):
                raise RecipeError(
                    f"{training.label}: its cost can't be measured before the pre-training that it begins from; run "
                    "the study without this arm first"
                )
            checkpoint = str(start)
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

            search = largest_batch_size(self._startable(training), self._limit, self._report)
            found = search.batch_size
            about = {"run": training.label, "measured": timestamp()}
            record = {**about, **asdict(search)}
            self.store.remember(BATCH_SIZES, self._batch_key(training), record)
        return found

    def recalled_batch_size(self, training: Training) -> int | None:
        """What `batch_size` found before."""
        record = self.store.recall(BATCH_SIZES, self._batch_key(training))
        return None if record is None else int(record["batch_size"])

    def _report(self, probe: Probe) -> None:
        from ..training.batch_size_report import probe_line

        self.console.print(probe_line(probe), markup=False, highlight=False)

    @property
    def _limit(self) -> int | None:
        return None if self.memory_limit is None else int(self.memory_limit * GIB)

    def _times_key(self, trainings: Sequence[Training]) -> str:
        return digest([cost_key(training, self.store) for training in trainings], machine())[:10]

    def _batch_key(self, training: Training) -> str:
        return digest(cost_key(training, self.store), self._limit, machine())[:10]


def machine() -> list[tuple[str, Any]]:
    """What measurements are true of: a store that is shared or has moved holds those of other machines, too."""
    import torch

    return sorted(hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"), 1).items())


def cost_key(training: Training, store: Store) -> str:
    """The key of what a training step costs: neither the seed counts, nor where the run begins, nor its length."""
    return identity_key(identity_of(Training("", _at_fewest_steps(training.recipe)), store.known))


def _at_fewest_steps(recipe: Recipe) -> Recipe:
    # As few as a recipe may have: its average begins, and its weights are matched, before they end.
    needed = [recipe.training.ema_start, *(term.matching_batches for term in recipe.objective.terms.values())]
    training = recipe.training.model_copy(update={"steps": max(needed) + 1, "time_budget": None})
    return recipe.model_copy(update={"seed": 0, "training": training})
