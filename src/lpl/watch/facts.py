"""What a run's files say about how it is doing: status, time left, and the figures that matter, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..reports import wording
from ..reports.runs import is_number, mapping
from .files import RunState

RECENT = 20  # logged rows over which the pace is taken
SILENT_AFTER = 60.0  # seconds without a word that are never remarkable
SILENT_INTERVALS = 5  # times the usual time between two rows after which silence is
ENDED = ("complete", "failed", "interrupted")
STYLES = {"complete": "green", "failed": "bold red", "interrupted": "yellow", "silent": "yellow", "running": "cyan"}


@dataclass(frozen=True)
class Status:
    """How a run is doing.

    Attributes:
        word: "waiting", "starting", "running", "silent", "complete", "interrupted" or "failed".
        remark: what else is worth a line, or "".
    """

    word: str
    remark: str = ""

    @property
    def style(self) -> str:
        """The colour of the word."""
        return STYLES.get(self.word, "dim")

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come, unless somebody resumes the run."""
        return self.word in ENDED


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: the last one logged.
        steps: of the whole run, or None where no file says.
        seconds: of training so far, over all its sessions.
        left: seconds of training to come at the recent pace, or None where that can't be told.
    """

    step: int
    steps: int | None
    seconds: float
    left: float | None


def status_of(state: RunState, now: float) -> Status:
    """How a run is doing.

    A run that is killed leaves no word of it: then only its silence tells.

    Args:
        state: what its folder holds.
        now: seconds since 1970.
    """
    if state.modified is None:
        where = "is empty" if state.exists else "does not exist yet"
        return Status("waiting", f"the folder {where}: runs appear once their images are encoded")
    word = str(state.information.get("status", "running"))
    if word in ENDED:
        return Status(word, _ending(state) if word != "complete" else _completion(state))
    silence = max(0.0, now - state.modified)
    usual = usual_interval(state)
    if silence > max(SILENT_AFTER, SILENT_INTERVALS * usual):
        before = f", before that every {wording.duration(usual)}" if usual else ""
        return Status("silent", f"nothing written for {wording.duration(silence)}{before}")
    return Status("running") if state.history else Status("starting", "nothing logged yet")


def usual_interval(state: RunState) -> float:
    """Seconds of training between two logged rows, the recent median; 0 where there are too few."""
    seconds = state.history.get("seconds")
    return float(np.median(np.diff(seconds[-RECENT:]))) if seconds is not None and seconds.size > 1 else 0.0


def progress_of(state: RunState) -> Progress:
    """How far a run is, and when it ends."""
    training = mapping(state.recipe.get("training"))
    step = state.last("step")
    if step is None:
        step = _number(state.information.get("step")) or 0.0
    steps = _number(state.information.get("steps")) or _number(training.get("steps"))
    seconds = state.last("seconds") or _number(state.information.get("seconds")) or 0.0
    left = None
    pace = seconds_a_step(state)
    if pace is not None and steps is not None:
        left = max(0.0, steps - step) * pace
        budget = _number(training.get("time_budget"))
        left = left if budget is None else min(left, max(0.0, budget - seconds))
    return Progress(int(step), int(steps) if steps is not None else None, seconds, left)


def seconds_a_step(state: RunState) -> float | None:
    """The recent pace, or None before a step was logged."""
    steps, seconds = state.history.get("step"), state.history.get("seconds")
    if steps is None or seconds is None:
        return None
    if steps.size == 1:
        return float(seconds[0] / max(steps[0], 1.0))
    steps, seconds = steps[-RECENT:], seconds[-RECENT:]
    pace = (seconds[-1] - seconds[0]) / max(steps[-1] - steps[0], 1.0)
    return float(pace) if np.isfinite(pace) and pace >= 0 else None


def facts_of(state: RunState, now: float) -> dict[str, str]:
    """Single figures, by what they are; those that no file holds are left out."""
    found = {
        "images/s": _throughput(state),
        "learning rate": _last(state, "learning_rate", "{:.3g}"),
        "gradient ratio": _last(state, "gradient_ratio", "{:.3g}"),
        "LPL's weight": _last(state, "perceptual_weight", "{:.3g}"),
        "passed the gate": _share(state, "passed"),
        "held-out PSNR": _last(state, "psnr", "{:.2f} dB"),
        "peak memory": _memory(state),
        "checkpoint": _checkpoint(state, now),
        "parameters": _parameters(state),
        "on": _hardware(state),
    }
    return {name: text for name, text in found.items() if text}


def _ending(state: RunState) -> str:
    """Why a run ended early, and when."""
    reason, ended = state.information.get("ended_by"), state.information.get("ended")
    return ", ".join(str(part) for part in (reason, ended) if part)


def _completion(state: RunState) -> str:
    budget = state.information.get("ended_by") == "time_budget"
    return "the end of its time budget" if budget else ""


def _throughput(state: RunState) -> str:
    """Images a second over the recent rows: each row's rate counts for the seconds since the row before."""
    rates, seconds = state.history.get("images_per_second"), state.history.get("seconds")
    if rates is None or seconds is None:
        return ""
    rates, spent = rates[-RECENT:], np.diff(seconds, prepend=0.0)[-RECENT:]
    kept = np.isfinite(rates) & (spent > 0)
    return f"{np.average(rates[kept], weights=spent[kept]):.3g}" if kept.any() else ""


def _last(state: RunState, column: str, form: str) -> str:
    value = state.last(column)
    return "" if value is None else form.format(value)


def _share(state: RunState, column: str) -> str:
    value = state.last(column)
    return "" if value is None else wording.percent(value)


def _memory(state: RunState) -> str:
    size, kind = _number(state.information.get("peak_memory_bytes")), state.information.get("peak_memory_of")
    return "" if size is None else f"{wording.byte_size(size)}{f' ({kind})' if kind else ''}"


def _checkpoint(state: RunState, now: float) -> str:
    if state.checkpoint is None:
        return ""
    age = max(0.0, now - state.checkpoint.modified)
    return f"step {state.checkpoint.step:,}, {wording.duration(age)} ago"


def _parameters(state: RunState) -> str:
    count = _number(state.information.get("parameters"))
    return "" if count is None else wording.quantity(count)


def _hardware(state: RunState) -> str:
    hardware = mapping(state.information.get("hardware"))
    device = hardware.get("gpu") or hardware.get("device")
    processes = _number(hardware.get("processes")) or 1
    return "" if not device else f"{device}{f' × {processes:.0f}' if processes > 1 else ''}"


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None
