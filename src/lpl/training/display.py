"""Progress of a training run: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..precision import slow_precisions

LINE_EVERY = 15.0  # seconds between lines where there is no terminal to draw a bar in


def say(message: str, enabled: bool = True, console: Console | None = None) -> None:
    """Prints a line on standard error as it is: no colours, no wrapping; paths stay in one piece."""
    if enabled:
        (console or Console(stderr=True)).print(message, highlight=False, soft_wrap=True, markup=False)


def say_where_slow(settings: Mapping[str, str], enabled: bool = True) -> None:
    """Says which of the precisions, by their keys in a recipe, this machine is slow at."""
    for sentence in slow_precisions(settings):
        say(sentence, enabled)


class TrainingDisplay:
    """Shows the step, the loss, images/s and the time left, on standard error.

    Args:
        name: of the run.
        step: where it starts.
        steps: where it ends.
        time_budget: seconds of training after which it ends earlier, or None.
        enabled: False shows nothing, as on all processes but the first.
    """

    def __init__(self, name: str, step: int, steps: int, time_budget: float | None, enabled: bool = True) -> None:
        self.name = name
        self.step = self.first = step
        self.steps = steps
        self.time_budget = time_budget
        self.enabled = enabled
        self.console = Console(stderr=True)
        self._text = ""
        self._last_line = -LINE_EVERY
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not (enabled and self.console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=steps, completed=step, text="")

    def __enter__(self) -> TrainingDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """A step is done; nothing waits for the device."""
        self.step = step
        self._bar.update(self._task, completed=step)

    def log(self, loss: float, images_per_second: float, seconds: float, elapsed: float) -> None:
        """New figures.

        Args:
            loss: mean over the last steps.
            images_per_second: over the last steps.
            seconds: of training since the run began, over all its sessions.
            elapsed: of training in this session, in which the steps since its start were taken.
        """
        left = self._seconds_left(seconds, elapsed)
        self._text = f"loss {loss:.4f}  {images_per_second:.1f} images/s  {timedelta(seconds=round(left))} left"
        self._bar.update(self._task, text=self._text)
        if self.enabled and not self.console.is_terminal and time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            self.say(f"{self.name}: step {self.step}/{self.steps}  {self._text}")

    def say(self, message: str) -> None:
        """Prints a line, above the bar where there is one."""
        say(message, self.enabled, self.console)

    def _seconds_left(self, seconds: float, elapsed: float) -> float:
        left = elapsed / max(1, self.step - self.first) * (self.steps - self.step)
        return left if self.time_budget is None else max(0.0, min(left, self.time_budget - seconds))
