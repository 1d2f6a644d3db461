"""Everything that training changes, and that a checkpoint therefore holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Recipe
from ..denoisers import ClassConditionalMMDiT
from .checkpoints import flatten_optimizer, load_tensors, load_weights, read_state, restore_optimizer, save_checkpoint
from .clock import TrainingClock
from .ema import EMA
from .metrics import TermWindow
from .objective import Objective, Terms
from .run_folder import versions


@dataclass
class TrainingState:
    """The state of a run between two optimiser steps.

    Attributes:
        denoiser: the weights being trained.
        ema: their average.
        optimizer: AdamW over the denoiser's parameters.
        objective: with the matched weight, where there is one.
        scaler: of the loss in fp16, or None.
        images_per_step: samples of an optimiser step, over all processes.
        facts: what a checkpoint says about the run beside its state, so that it can be used alone.
        window: terms since the last log.
        clock: seconds of training.
        step: optimiser steps taken.
        images: trained on, over all sessions and processes.
    """

    denoiser: ClassConditionalMMDiT
    ema: EMA
    optimizer: torch.optim.Optimizer
    objective: Objective
    scaler: Any
    images_per_step: int
    facts: Mapping[str, Any]
    window: TermWindow = field(default_factory=TermWindow)
    clock: TrainingClock = field(default_factory=TrainingClock)
    step: int = 0
    images: int = 0

    def end_step(self, terms: list[Terms], gather: Callable[[Tensor], Tensor]) -> None:
        """Takes in the optimiser step just taken, and the terms of its forward passes in this process."""
        self.step += 1
        self.images += self.images_per_step
        self.ema.update(self.step)
        self.objective.end_step(gather)
        self.window.add(self.step, terms)

    def save(self, folder: Path, recipe: Recipe) -> Path:
        """Writes the checkpoint of this step into RUN/checkpoints."""
        tensors = {
            "model": self.denoiser.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": flatten_optimizer(self.optimizer, self.denoiser),
        }
        state = {
            "seconds": self.clock.seconds,
            "images": self.images,
            "objective": self.objective.state_dict(),
            "window": self.window.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "denoiser": self.denoiser.config,
            "recipe": recipe.model_dump(mode="json"),
            "versions": versions(),
            **self.facts,
        }
        training = recipe.training
        return save_checkpoint(folder, self.step, tensors, state, training.keep_checkpoints, training.keep_every)

    def restore(self, checkpoint: Path) -> None:
        """Puts back everything that `save` wrote."""
        state = read_state(checkpoint)
        self.denoiser.load_state_dict(load_weights(checkpoint, "raw"))
        self.ema.load_state_dict(load_tensors(checkpoint, "ema"))
        restore_optimizer(self.optimizer, self.denoiser, load_tensors(checkpoint, "optimizer"))
        self.objective.load_state_dict(state["objective"])
        self.window.load_state_dict(state["window"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.clock = TrainingClock(state["seconds"])
        self.step = state["step"]
        self.images = state["images"]
