"""Says where the time of a piece of software goes, by timing some of its functions from outside."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

REST = "everything else"


class Stopwatch:
    """Counts seconds by stage.

    In the thread that starts it, stages are exclusive: time in a stage within another counts for the inner one alone,
    so that all stages and `REST` add up to the whole. Other threads' stages are counted apart.

    Attributes:
        seconds: by stage.
        calls: of each stage.
        threads: seconds by stage, in other threads.
        waits: called before a stage begins and ends, to wait for a device.
    """

    def __init__(self, waits: Callable[[], None] | None = None) -> None:
        self.waits = waits or (lambda: None)
        self._thread = threading.get_ident()
        self._stack = [REST]
        self.reset()

    def reset(self) -> None:
        """Begins anew, in the stage it is in."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.threads: dict[str, float] = defaultdict(float)
        self._since = self._start = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since it began, up to the last stage's end."""
        return self._since - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time within the block counts for a stage."""
        if threading.get_ident() != self._thread:
            start = time.perf_counter()
            try:
                yield
            finally:
                self.threads[name] += time.perf_counter() - start
            return
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()
            self.calls[name] += 1

    def relabel(self, name: str, other: str) -> None:
        """Where `name` is the stage under way, its time since it began or went on counts for another."""
        if self._stack[-1] == name:
            self._stack[-1] = other
            self._switch()
            self._stack[-1] = name

    def stop(self) -> None:
        """Takes in the time up to now."""
        self._switch()

    def _switch(self) -> None:
        self.waits()
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, each call of which counts for a stage."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        return call

    def waited_for(self, function: Callable[..., Iterator[Any]], name: str) -> Callable[..., Iterator[Any]]:
        """The generator function, the time until each of whose items comes counts for a stage."""

        @functools.wraps(function)
        def generate(*arguments: Any, **options: Any) -> Iterator[Any]:
            items = function(*arguments, **options)
            while True:
                with self.stage(name):
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item

        return generate


@contextmanager
def replaced(owner: Any, attribute: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """A class's or module's function is another one, made of it, within the block.

    Raises:
        AttributeError: there is none of that name.
    """
    own = vars(owner).get(attribute)
    setattr(owner, attribute, make(getattr(owner, attribute)))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, own)


@contextmanager
def watching(watch: Stopwatch, stages: dict[str, list[tuple[Any, str]]]) -> Iterator[Stopwatch]:
    """Times functions within the block: by stage, the owners and names of those that belong to it."""
    with ExitStack() as stack:
        for name, functions in stages.items():
            for owner, attribute in functions:
                stack.enter_context(replaced(owner, attribute, functools.partial(watch.timed, name=name)))
        yield watch
        watch.stop()
