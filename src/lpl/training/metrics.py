"""What a run writes down while it trains: metrics.jsonl and TensorBoard's event files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..errors import LplError
from .run_folder import write_text
from .terms import Terms

Row = dict[str, float]


class TrainingDiverged(LplError, FloatingPointError):
    """The loss became NaN or infinite; the message names the step and the term."""


class TermWindow:
    """The terms of every step since the last log, kept on the device until someone asks for them.

    Args:
        tolerated: terms that may be infinite, such as the gradient's norm where a loss scaler skips such steps; those
            values are left out of the mean.
    """

    def __init__(self, tolerated: Collection[str] = ()) -> None:
        self.tolerated = frozenset(tolerated)
        self._rows: list[Row] = []
        self._pending: list[tuple[int, list[Terms]]] = []

    def add(self, step: int, batches: list[Terms]) -> None:
        """Takes in the terms of a step's forward passes, without waiting for the device."""
        self._pending.append((step, [_packed(terms) for terms in batches]))

    def means(self, gather: Callable[[list[list[float]]], list[list[float]]] = list) -> Row:
        """Each term's mean over the steps since `clear`, and over all processes; waits for the device.

        Args:
            gather: concatenates a list of every process, as `accelerate.utils.gather_object`.

        Raises:
            TrainingDiverged: a term of some process was not finite.
        """
        rows = self._fetch()
        names = sorted({name for row in rows for name in row} - {"step"})
        own = [_mean([row[name] for row in rows if name in row], name in self.tolerated) for name in names]
        processes = gather([own])
        self._refuse_nonfinite(rows, names, processes)
        return {
            name: _mean(list(values), True) for name, values in zip(names, zip(*processes, strict=True), strict=True)
        }

    def clear(self) -> None:
        """Starts a new window."""
        self._rows.clear()

    def state_dict(self) -> list[Row]:
        """The window's steps, as plain numbers."""
        return self._fetch()

    def load_state_dict(self, state: list[Row]) -> None:
        """Continues a window saved by `state_dict`."""
        self._rows, self._pending = [dict(row) for row in state], []

    def _fetch(self) -> list[Row]:
        for step, batches in self._pending:
            unpacked = [_unpacked(terms) for terms in batches]
            self._rows.append({"step": step, **{name: _mean([t[name] for t in unpacked]) for name in unpacked[0]}})
        self._pending.clear()
        return self._rows

    def _refuse_nonfinite(self, rows: list[Row], names: list[str], processes: list[list[float]]) -> None:
        """Every process sees the same values, so all of them stop together."""
        strict = [index for index, name in enumerate(names) if name not in self.tolerated]
        if all(math.isfinite(values[index]) for values in processes for index in strict):
            return
        for row in rows:
            # The total is the sum of the others: name what it came from.
            for name in sorted(row, key=lambda name: (name == "loss", name == "gradient_norm")):
                if name not in self.tolerated and not math.isfinite(row[name]):
                    raise diverged(int(row["step"]), name)
        raise TrainingDiverged(f"the loss of another process became NaN or infinite by step {int(rows[-1]['step'])}")


def diverged(step: int, term: str) -> TrainingDiverged:
    """The error for a term that stopped being a number."""
    return TrainingDiverged(
        f"step {step}: {term} is NaN or infinite; lower training.learning_rate, lengthen training.warmup_steps, or set "
        "training.clip_norm or training.precision=no"
    )


class MetricsLog:
    """Appends to metrics.jsonl and TensorBoard, from where a resumed run's checkpoint was taken.

    Args:
        run: the run's folder.
        step: the checkpoint's step; what was logged after it is removed, as it will be logged again. 0: everything.
    """

    def __init__(self, run: Path, step: int) -> None:
        path = run / "metrics.jsonl"
        truncate_metrics(path, step)
        self._file = path.open("a", encoding="utf-8")
        events = run / "tensorboard"
        self._writer = SummaryWriter(str(events), purge_step=step + 1 if events.is_dir() else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one step."""
        row: dict[str, Any] = {"step": step, **values}
        row = {name: value if math.isfinite(value) else None for name, value in row.items()}  # JSON knows no NaN
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        """Brings everything logged to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._writer.flush()

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        self._writer.close()


def truncate_metrics(path: Path, step: int) -> None:
    """Removes the lines of later steps from metrics.jsonl, and one that a killed run left half written."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


def _packed(terms: Terms) -> Terms:
    """The terms with all tensors in one, so that logging costs a step one small operation on the device."""
    names = [name for name, value in terms.items() if isinstance(value, Tensor)]
    numbers: Terms = {name: value for name, value in terms.items() if name not in names}
    if names:
        numbers["\0".join(names)] = torch.stack([torch.as_tensor(terms[name]).detach().float() for name in names])
    return numbers


def _unpacked(terms: Terms) -> Row:
    row: Row = {}
    for name, value in terms.items():
        if isinstance(value, Tensor):
            row.update(zip(name.split("\0"), value.tolist(), strict=True))
        else:
            row[name] = float(value)
    return row


def _mean(values: list[float], tolerant: bool = False) -> float:
    if tolerant:
        values = [value for value in values if math.isfinite(value)]
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
