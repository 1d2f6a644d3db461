"""Seconds per training step of several recipes, measured in turn in one process.

A machine that also does other work is slower in one minute than in the next. Here the recipes take turns of a few steps
each, and ratios are taken within a round, so that what slows one of them down slows the others down as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..config import PerceptualConfig, Recipe, RecipeError
from ..training.batches import BatchSource
from ..training.preparation import make_accelerator, prepare
from ..training.run_folder import RunFolder, hardware
from ..training.state import TrainingState
from ..training.trainer import compute_gradients

WARM_UP = 2  # steps of each recipe before the clock counts: allocation, kernels' choice, compilation
GPU_WARM_UP = 8  # periods of each on a GPU, which prepares kernels anew for most numbers of samples that pass the gate
ROUNDS = 8
TURN_SECONDS = 1.0  # about how long a recipe's turn takes


@dataclass(frozen=True)
class StepTimes:
    """What was measured.

    Attributes:
        seconds: of a step, for each round and recipe.
        batch_sizes: samples a step, for each recipe.
        about: the machine.
    """

    seconds: tuple[tuple[float, ...], ...]
    batch_sizes: tuple[int, ...]
    about: Mapping[str, Any]

    def ratio(self, above: int, below: int) -> float:
        """Median over rounds of one recipe's seconds per step over another's."""
        return statistics.median(row[above] / row[below] for row in self.seconds)

    def images_per_second(self, index: int) -> float:
        """Median over rounds, of one recipe."""
        return self.batch_sizes[index] / statistics.median(row[index] for row in self.seconds)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"seconds": [list(row) for row in self.seconds], "batch_sizes": list(self.batch_sizes), **self.about}


def measure_step_times(
    recipes: Sequence[Recipe],
    rounds: int = ROUNDS,
    turn_seconds: float = TURN_SECONDS,
    advance: Callable[[], object] | None = None,
) -> StepTimes:
    """Trains each recipe for a few steps in turn, round after round; nothing of it is kept.

    A weight that would be matched first is 1 throughout, for while it is being matched a step costs less. What a step
    costs does not depend on the denoiser's weights: they may be random.

    Args:
        recipes: what to time, all of one `training.precision`.
        rounds: how often each takes its turn.
        turn_seconds: about how long a turn is; at least one step, or as many as an estimator computes one of.
        advance: called after every round.

    Raises:
        RecipeError: the recipes differ in precision, which one process can't serve.
    """
    precisions = {recipe.training.precision for recipe in recipes}
    if len(precisions) > 1:
        raise RecipeError(f"training.precision: the runs that are timed together differ in it: {sorted(precisions)}")
    accelerator = make_accelerator(recipes[0].training)
    steppers = [_Stepper(_as_timed(recipe), accelerator) for recipe in recipes]
    for stepper in steppers:
        stepper.run(warm_up_steps(stepper.period, accelerator.device))
    turns = [
        max(1, round(turn_seconds / (stepper.run(stepper.period) * stepper.period))) * stepper.period
        for stepper in steppers
    ]
    rows = []
    for _ in range(rounds):
        rows.append(tuple(stepper.run(steps) for stepper, steps in zip(steppers, turns, strict=True)))
        if advance is not None:
            advance()
    sizes = tuple(recipe.training.batch_size * recipe.training.accumulation for recipe in recipes)
    about = {"steps_a_turn": turns, "hardware": hardware(accelerator.device, 1)}
    return StepTimes(tuple(rows), sizes, about)


def warm_up_steps(period: int, device: torch.device) -> int:
    """How many steps a recipe takes before the clock counts; what they cost recurs after `period` steps."""
    return max(WARM_UP, period if device.type == "cpu" else GPU_WARM_UP * period)


class _Stepper:
    """One recipe, ready to take optimiser steps."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.state: TrainingState
        self.batches: BatchSource
        self.state, self.batches = prepare(recipe, accelerator, RunFolder(recipe, write=False), None)
        self.model: nn.Module
        self.model, self.optimizer = accelerator.prepare(self.state.denoiser, self.state.optimizer)
        term = recipe.objective.perceptual
        # Steps after which what they cost recurs.
        self.period = term.estimator.every if isinstance(term, PerceptualConfig) else 1

    def run(self, steps: int) -> float:
        """Seconds per step over that many; the batches are made beforehand, as training makes them in advance."""
        first = self.state.step + 1
        batches = [self.batches.step(number) for number in range(first, first + steps)]
        self._wait()
        start = time.perf_counter()
        for micro_batches in batches:
            terms = compute_gradients(self.accelerator, self.model, self.state.objective, micro_batches, False)
            self.accelerator.clip_grad_norm_(
                self.state.denoiser.parameters(), self.recipe.training.clip_norm or float("inf")
            )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.state.end_step(terms, self.accelerator.gather)
            self.state.window.clear()
        self._wait()
        return (time.perf_counter() - start) / steps

    def _wait(self) -> None:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)


def _as_timed(recipe: Recipe) -> Recipe:
    """The recipe as it is once weights have been matched; its own don't change."""
    objective = recipe.objective
    if objective.perceptual is not None and objective.perceptual.weight == "matched":
        perceptual = objective.perceptual.model_copy(update={"weight": 1.0})
        objective = objective.model_copy(update={"perceptual": perceptual})
    if objective.gate_gain == "measured":
        objective = objective.model_copy(update={"gate_gain": 1.0, "gate_perceptual": None})
    training = recipe.training.model_copy(update={"learning_rate": 0.0, "warmup_steps": 0})
    return recipe.model_copy(update={"objective": objective, "training": training})
