"""What a run shows and writes between optimiser steps: progress, metrics, checkpoints, run.json."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch

from .clock import TrainingClock
from .display import TrainingDisplay
from .metrics import MetricsLog
from .previews import Previews
from .run_folder import RunFolder, peak_memory, timestamp
from .state import TrainingState

GatherLists = Callable[[list[list[float]]], list[list[float]]]


class TrainingInterrupted(SystemExit):
    """Training ended on a signal, after saving a checkpoint; the exit code is 128 + the signal's number."""


class Recorder:
    """Keeps the records of one session of a run; a context within which training takes place.

    Args:
        run: where to write; processes other than the first only take part in gathering.
        state: what is trained.
        device: it computes on.
        gather: concatenates a list of every process.
    """

    def __init__(self, run: RunFolder, state: TrainingState, device: torch.device, gather: GatherLists) -> None:
        training = run.recipe.training
        self.run = run
        self.state = state
        self.device = device
        self.gather = gather
        self.display = TrainingDisplay(run.recipe.name, state.step, training.steps, training.time_budget, run.write)
        self._log = MetricsLog(run.path, state.step) if run.write else None
        self._previews = Previews(run.recipe, device) if run.write and training.sample_every else None
        self._peak_before = run.information.get("peak_memory_bytes") or 0 if state.step else 0
        self._start = self._logged = (state.images, state.clock.seconds)

    @property
    def clock(self) -> TrainingClock:
        """Seconds of training."""
        return self.state.clock

    def __enter__(self) -> Recorder:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)  # encoding the images was not training
        self.display.__enter__()
        if self.state.step:
            self.display.say(f"{self.run.path}: resuming from step {self.state.step}")
        self.clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.__exit__(kind, error, trace)
        if self._log is not None:
            self._log.close()
        if error is not None:
            reason = str(error) or type(error).__name__
            self.run.update(status="failed", ended=timestamp(), ended_by=reason, **self._figures())

    def end_step(self) -> None:
        """An optimiser step was taken."""
        self.display.advance(self.state.step)
        if self.run.recipe.training.compile and self.state.images == self._start[0] + self.state.images_per_step:
            self._synchronize()
            self.clock.forget_since(self._start[1])  # it was spent compiling
            self._logged = (self.state.images, self._start[1])

    def log(self, learning_rate: float) -> None:
        """Writes and shows the means since the last log; the only place where an ordinary step waits for the device.

        Raises:
            TrainingDiverged: a term was not finite.
        """
        values = self.state.window.means(self.gather)
        self.state.window.clear()
        images, seconds = self.state.images, self.clock.seconds
        rate = (images - self._logged[0]) / max(seconds - self._logged[1], 1e-9)
        self._logged = (images, seconds)
        self.display.log(values["loss"], rate, seconds, seconds - self._start[1])
        if self._log is not None:
            columns = {"seconds": seconds, "images_per_second": rate, "learning_rate": learning_rate}
            self._log.write(self.state.step, {**columns, **values})

    def save(self) -> None:
        """Writes a checkpoint, off the clock.

        Raises:
            TrainingDiverged: a term was not finite since the last log; the last good checkpoint stays.
        """
        self.state.window.means(self.gather)
        self._synchronize()
        with self.clock.paused():
            if self._log is not None:
                self._log.sync()  # whatever a checkpoint comes after must not be lost when it survives
                self.state.save(self.run.checkpoints, self.run.recipe)
            self.run.update(**self._figures())

    def preview(self) -> None:
        """Draws a few images, off the clock; see `Previews`."""
        if self._previews is not None:
            self._synchronize()
            with self.clock.paused():
                self._previews.draw(self.state, self.run.path)

    def finish(self, ended_by: str) -> None:
        """Ends the run: "steps", "time_budget", or a signal's name."""
        complete = ended_by in ("steps", "time_budget")
        figures = self._figures()
        self.run.update(
            status="complete" if complete else "interrupted", ended=timestamp(), ended_by=ended_by, **figures
        )
        spent = timedelta(seconds=round(self.clock.seconds))
        summary = f"{self.run.path}: step {self.state.step} after {spent} of training"
        if complete:
            reason = "" if ended_by == "steps" else ", the end of its time budget"
            self.display.say(f"{summary}{reason}, {figures['images_per_second']:.1f} images/s")
        else:
            self.display.say(f"{summary}: stopped by {ended_by} and saved; run the same command to carry on")

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _figures(self) -> dict[str, Any]:
        seconds = self.clock.seconds
        memory = peak_memory(self.device)
        if memory["peak_memory_bytes"] is not None:
            memory["peak_memory_bytes"] = max(memory["peak_memory_bytes"], self._peak_before)
        return {
            "step": self.state.step,
            "seconds": round(seconds, 3),
            "images": self.state.images,
            "images_per_second": round(self.state.images / seconds, 3) if seconds else None,
            "perceptual_weight": self.state.objective.weight,
            **memory,
        }
