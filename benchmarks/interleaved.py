"""Times several computations in turn, again and again, so that whatever slows the machine down slows all of them."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Spread(NamedTuple):
    """The median of repeats, and their smallest and largest."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Of one or more repeats."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: list[float], to: list[float]) -> Spread:
    """Of what was measured round by round to something measured in the same rounds."""
    return spread([value / other for value, other in zip(values, to, strict=True)])


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, seed: int = 0
) -> dict[str, list[float]]:
    """Times every function once a round, in an order that is shuffled each round.

    Args:
        functions: by name; each has run before, so that nothing is compiled or loaded any more.
        rounds: how often.
        device: that is waited for.
        seed: of the orders.

    Returns:
        The seconds of each, by round.
    """
    *_, seconds = interleaved_rounds(functions, rounds, device, seed)
    return seconds


def interleaved_rounds(
    functions: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, seed: int = 0
) -> Iterator[dict[str, list[float]]]:
    """The same, round by round: yields the seconds so far, so that what ends early has lost nothing."""
    order = list(functions)
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with progress() as bar:
        task = bar.add_task("timing", total=rounds * len(order))
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                bar.update(task, description=f"timing {name}")
                seconds[name].append(timed(functions[name], device))
                bar.advance(task)
            yield seconds


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of wall time."""
    synchronize(device)
    start = time.perf_counter()
    result = function()
    synchronize(device)
    seconds = time.perf_counter() - start
    del result
    return seconds


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def progress() -> Progress:
    """A bar on standard error with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(file=sys.stderr))
