"""Seconds of training, and signals that end it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class TrainingClock:
    """Counts the seconds in which a run trained, over all its sessions; it stands until it is started.

    Args:
        seconds: what earlier sessions counted.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._counted = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._counted + (time.monotonic() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        """Counts from now on."""
        self._since = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time within the block does not count."""
        self._counted, self._since = self.seconds, None
        try:
            yield
        finally:
            self.start()

    def forget_since(self, seconds: float) -> None:
        """Sets a running clock back to an earlier reading: what happened since was not training."""
        self._counted = seconds
        self.start()


class StopSignals:
    """Turns SIGINT and SIGTERM into a wish to stop, which the training loop grants after the step it is in.

    A second signal of the same kind acts as it did before, so that an impatient Ctrl-C ends the run at once. Outside
    the main thread, where Python delivers no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._previous):
            self._restore(number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore(number)

    def _restore(self, number: int) -> None:
        if number in self._previous:
            signal.signal(number, self._previous.pop(number) or signal.SIG_DFL)  # None: not set from Python
