"""The loop: reads the runs' files every few seconds and draws them anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..errors import LplError
from .facts import status_of
from .files import RunReader, RunState
from .panels import View, frame
from .thumbnails import can_show

INTERVAL = 5.0  # seconds


class WatchError(LplError, ValueError):
    """Runs that can't be watched; the message says which and why."""


def watch(
    runs: Sequence[Path],
    interval: float = INTERVAL,
    once: bool = False,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Shows how runs are doing until all of them have ended, or until Ctrl-C, from their folders alone.

    Nothing is asked of the process that trains, which may run on another machine that shares the folder. A folder that
    does not exist yet is waited for. Where the output is no terminal, one frame is printed.

    Args:
        runs: folders that `lpl train` or `lpl train-autoencoder` writes.
        interval: seconds between two looks at the files.
        once: print one frame, as long as it takes, and return.
        console: where to draw.
        sleep: waits a number of seconds.

    Raises:
        WatchError: no run is given, one is given twice, one is a file, or the interval is not positive.
    """
    console = console or Console()
    _check(runs, interval)
    readers = [RunReader(Path(run)) for run in runs]
    if not once and console.is_terminal:
        _follow(readers, interval, console, sleep)
    # What was drawn on the terminal's other screen is gone with it: the last frame stays.
    console.print(draw(_read(readers), console, whole=True))


def draw(states: Sequence[RunState], console: Console, whole: bool = False, footer: str = "") -> RenderableType:
    """One frame, as wide as the console and, unless it is to be drawn whole, as high."""
    height = None if whole else console.size.height - bool(footer)
    drawn = frame(states, View(console.size.width, height, time.time(), can_show(console)))
    return Group(drawn, Text(footer, style="dim", no_wrap=True, overflow="ellipsis")) if footer else drawn


def _follow(readers: Sequence[RunReader], interval: float, console: Console, sleep: Callable[[float], None]) -> None:
    footer = f"every {interval:g} s from files alone; Ctrl-C ends the view, not the training"
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        try:
            while True:
                states = _read(readers)
                live.update(draw(states, console, footer=footer), refresh=True)
                if all(status_of(state, time.time()).ended for state in states):
                    return
                sleep(interval)
        except KeyboardInterrupt:
            return


def _read(readers: Sequence[RunReader]) -> list[RunState]:
    return [reader.read() for reader in readers]


def _check(runs: Sequence[Path], interval: float) -> None:
    if not runs:
        raise WatchError("runs: got none; give at least one run's folder")
    if not interval > 0:
        raise WatchError(f"interval: got {interval}, takes a positive number of seconds")
    seen: set[Path] = set()
    for run in map(Path, runs):
        if run.exists() and not run.is_dir():
            raise WatchError(f"runs: {run} is a file; give a folder that `lpl train` writes")
        if run.resolve() in seen:
            raise WatchError(f"runs: {run} is given twice")
        seen.add(run.resolve())
