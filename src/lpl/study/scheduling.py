"""Does jobs in their order, in this process or several at a time in processes of their own.

A job that fails takes with it those that depend on it; all others go on, and the failures are named at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console

from ..config import RecipeError
from ..reports.wording import duration
from ..training.run_folder import write_text
from .running import Job, carry_out, job_to_json
from .store import is_complete, slug
from .worker import ERROR_SUFFIX, reason

POLL = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True, eq=False)
class Slot:
    """A place where one process at a time may run.

    Attributes:
        name: for people.
        environment: what is set for its processes.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of a list of jobs.

    Attributes:
        failures: why jobs failed, by label.
    """

    failures: dict[str, str] = field(default_factory=dict)


def device_slots(devices: Sequence[str]) -> list[Slot]:
    """One process a GPU.

    Args:
        devices: numbers of GPUs, as this process sees them; one may be named several times.

    Raises:
        RecipeError: a GPU that this machine doesn't have.
    """
    import torch

    found = [str(number) for number in range(torch.cuda.device_count())]
    for device in devices:
        if device not in found:
            takes = f"takes {', '.join(found)}" if found else "torch finds no GPU here; --jobs runs on the CPU"
            raise RecipeError(f"--devices: got {device!r}, {takes}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # of which torch counts alone
    names = found if visible is None else visible.split(",")
    return [Slot(f"GPU {device}", {"CUDA_VISIBLE_DEVICES": names[int(device)].strip()}) for device in devices]


def processor_slots(count: int) -> list[Slot]:
    """That many processes, which share the cores that this one may use, or as OMP_NUM_THREADS says."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, available_cores() // count))
    return [Slot(f"process {number}", {"OMP_NUM_THREADS": threads}) for number in range(1, count + 1)]


def available_cores() -> int:
    """The cores that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_turn(jobs: Sequence[Job], console: Console) -> Outcome:
    """Does the jobs one after the other in this process.

    Raises:
        TrainingInterrupted, KeyboardInterrupt: someone asked it to stop; running it again carries on.
    """
    outcome = Outcome()
    failed: set[Path] = set()
    for number, job in enumerate(jobs, 1):
        if job.done:
            continue
        console.rule(f"{job.label} ({number} of {len(jobs)})", align="left")
        blocked = _blocked(job, failed)
        try:
            if blocked is not None:
                raise Blocked(blocked)
            carry_out(job)
        except Exception as error:
            if os.environ.get("LPL_TRACEBACK"):
                traceback.print_exc()
            _fail(job, reason(error), outcome, failed, console)
    return outcome


def run_in_processes(jobs: Sequence[Job], slots: Sequence[Slot], folder: Path, console: Console) -> Outcome:
    """Does the jobs in processes of their own, as many at a time as there are slots.

    Args:
        jobs: in an order in which each comes after those it depends on.
        slots: where processes run. With a single one they write to this terminal, else to files.
        folder: for the jobs' descriptions and logs.
        console: where to say what begins and ends.

    Raises:
        KeyboardInterrupt: someone asked it to stop, by Ctrl-C or SIGTERM; the processes were told to save and ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome, failed = Outcome(), set[Path]()
    waiting = [job for job in jobs if not job.done]
    clock = _Remaining(len(waiting), len(slots))
    free, running = list(slots), dict[Slot, _Process]()
    with _interrupted_by_termination():
        try:
            while waiting or running:
                for job in [job for job in waiting if _blocked(job, failed)]:
                    waiting.remove(job)
                    _fail(job, str(_blocked(job, failed)), outcome, failed, console)
                _start_ready(waiting, free, running, folder, console)
                _collect(free, running, outcome, failed, clock, console)
                if running:
                    time.sleep(POLL)
        except BaseException:
            for process in running.values():
                process.ask_to_stop()
            for process in running.values():
                process.wait()
            raise
    return outcome


@contextlib.contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, so that it ends the processes too rather than this one alone."""
    if threading.current_thread() is not threading.main_thread():  # where signals can't be handled
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Blocked(RuntimeError):
    """A job whose beginning is missing."""


def _blocked(job: Job, failed: set[Path]) -> str | None:
    # A run may begin from one that was trained and could not be measured.
    missing = [path for path in job.after if path in failed and not is_complete(path)]
    return f"not started, because {missing[0].name} failed" if missing else None


def _fail(job: Job, why: str, outcome: Outcome, failed: set[Path], console: Console) -> None:
    outcome.failures[job.label] = why
    if job.folder is not None:
        failed.add(job.folder)
    console.print(f"{job.label}: failed: {why}", style="red", markup=False, highlight=False, soft_wrap=True)


class _Process:
    """A job that is being done elsewhere."""

    def __init__(self, job: Job, slot: Slot, folder: Path, to_file: bool) -> None:
        self.job = job
        # A run's folder is its own, with the key in its name; labels may differ in what no file's name holds.
        name = slug(job.label) if job.folder is None else job.folder.name
        self.description = folder / f"{name}.json"
        self.log: IO[str] | None = None
        write_text(self.description, job_to_json(job))
        if to_file:
            self.log = self.description.with_suffix(".log").open("a", encoding="utf-8")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lpl.study.worker", str(self.description)],
            env={**os.environ, **slot.environment},
            stdout=self.log,
            stderr=self.log,
        )

    def ask_to_stop(self) -> None:
        """Asks it to save and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Waits until it has ended."""
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Ends its log."""
        if self.log is not None:
            self.log.close()

    def failure(self) -> str | None:
        """Why it failed, once it has ended."""
        code = self.process.returncode
        where = f"; see {self.description.with_suffix('.log')}" if self.log is not None else ""
        if code == 0:
            unfinished = self.job.folder is not None and not self.job.done
            return f"ended without an error and without having done everything{where}" if unfinished else None
        file = self.description.with_suffix(ERROR_SUFFIX)
        if file.is_file():
            return file.read_text(encoding="utf-8")
        if code < 0:
            killed = signal.Signals(-code).name
            return f"was killed by {killed}{' (out of memory?)' if killed == 'SIGKILL' else ''}{where}"
        return f"ended with exit code {code}{where}"


def _start_ready(
    waiting: list[Job], free: list[Slot], running: dict[Slot, _Process], folder: Path, console: Console
) -> None:
    """Starts jobs whose beginnings are there, in as many slots as are free."""
    to_file = len(free) + len(running) > 1
    unfinished = {job.folder for job in waiting} | {process.job.folder for process in running.values()}
    encoding = any(process.job.folder is None for process in running.values())
    for job in list(waiting):
        # Encoding comes first: every other job reads the latents. What a run begins from need not be measured yet.
        if not free or encoding or any(path in unfinished and not is_complete(path) for path in job.after):
            continue
        waiting.remove(job)
        slot = free.pop(0)
        running[slot] = _Process(job, slot, folder, to_file)
        where = f" on {slot.name}, log {running[slot].description.with_suffix('.log')}" if to_file else ""
        console.print(f"{job.label}: started{where}", markup=False, highlight=False, soft_wrap=True)
        encoding = job.folder is None


def _collect(
    free: list[Slot],
    running: dict[Slot, _Process],
    outcome: Outcome,
    failed: set[Path],
    clock: _Remaining,
    console: Console,
) -> None:
    """Takes note of processes that have ended."""
    for slot, process in list(running.items()):
        if process.process.poll() is None:
            continue
        process.close()
        del running[slot]
        free.append(slot)
        why = process.failure()
        took = time.monotonic() - process.started
        text = clock.finished(took)
        if why is not None:
            _fail(process.job, why, outcome, failed, console)
        console.print(f"{process.job.label}: {duration(took)}; {text}", markup=False, highlight=False, soft_wrap=True)


class _Remaining:
    """How much of a list of jobs is left, and for about how long."""

    def __init__(self, total: int, slots: int) -> None:
        self.total, self.slots = total, slots
        self._seconds: list[float] = []

    def finished(self, seconds: float) -> str:
        """A job took that long; what is left, in words."""
        self._seconds.append(seconds)
        left = self.total - len(self._seconds)
        estimate = left * sum(self._seconds) / len(self._seconds) / self.slots
        about = f", about {duration(estimate)} left" if left else ""
        return f"{len(self._seconds)} of {self.total} jobs done{about}"
