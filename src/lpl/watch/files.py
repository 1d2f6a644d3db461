"""Reading the folder of a run that may still be training, elsewhere: only what is new, and never more than is there.

Everything comes from files that other programs write meanwhile, perhaps on another machine and over a network. A file
that is missing, half written or in between two versions is not an error: what was read before holds until it can be
read again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml
from numpy.typing import NDArray

from ..reports.runs import JSON, is_number, mapping

Values = NDArray[np.float64]

METRICS = "metrics.jsonl"
MOST_PICTURES = 16  # of a set, that are ever shown
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class CheckpointFile:
    """The newest checkpoint."""

    step: int
    modified: float  # seconds since 1970, by the clock of the file system


@dataclass(frozen=True)
class Pictures:
    """The newest images of a run, and what they are."""

    title: str
    paths: tuple[Path, ...]
    modified: float


@dataclass(frozen=True)
class RunState:
    """What a run's folder holds at one moment; a part that is not there yet is empty.

    Attributes:
        folder: as it was given.
        exists: whether there is such a folder.
        recipe: recipe.yaml.
        information: run.json.
        history: each logged column's values, float64 (N,), NaN where a row lacks it; "step" is always among them.
        unreadable: complete lines of metrics.jsonl that hold no logged step.
        checkpoint: the newest one.
        pictures: the newest ones.
        modified: when anything of it was last written, in seconds since 1970, or None.
    """

    folder: Path
    exists: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    information: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Values] = field(default_factory=dict)
    unreadable: int = 0
    checkpoint: CheckpointFile | None = None
    pictures: Pictures | None = None
    modified: float | None = None

    def last(self, column: str) -> float | None:
        """A column's newest value, or None where it was never logged."""
        values = self.history.get(column)
        if values is None:
            return None
        logged = values[np.isfinite(values)]
        return float(logged[-1]) if logged.size else None


class RunReader:
    """Reads one run's folder again and again.

    Args:
        folder: it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metrics = MetricsTail(folder / METRICS)
        self._recipe = _Cached(folder / "recipe.yaml", yaml.safe_load)
        self._information = _Cached(folder / "run.json", JSON.decode)

    def read(self) -> RunState:
        """What the folder holds now."""
        self._metrics.read()
        checkpoint, pictures = newest_checkpoint(self.folder), newest_pictures(self.folder)
        written = [_modified(self.folder / name) for name in (METRICS, "run.json", "recipe.yaml")]
        written += [found.modified for found in (checkpoint, pictures) if found]
        return RunState(
            folder=self.folder,
            exists=self.folder.is_dir(),
            recipe=self._recipe.read(),
            information=self._information.read(),
            history=self._metrics.columns(),
            unreadable=self._metrics.unreadable,
            checkpoint=checkpoint,
            pictures=pictures,
            modified=max((time for time in written if time is not None), default=None),
        )


class MetricsTail:
    """Follows metrics.jsonl: each call reads the bytes added since, whole lines alone.

    A run that is resumed writes the file anew without the steps after its checkpoint. Where the line read last is not
    where it was, all of the file is read again.

    Args:
        path: of the file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0
        self._rows: dict[float, dict[str, float]] = {}
        self._offset = 0  # of the first byte not taken in
        self._last = b""  # the line before it
        self._columns: dict[str, Values] | None = {}

    def read(self) -> None:
        """Takes in what is new."""
        try:
            with self.path.open("rb") as file:
                self._follow(file)
        except FileNotFoundError:
            self._forget()
        except OSError:
            return  # a network's: what is known holds until the file can be read again

    def columns(self) -> dict[str, Values]:
        """The logged columns over increasing steps."""
        if self._columns is None:
            rows = [self._rows[step] for step in sorted(self._rows)]
            names = dict.fromkeys(name for row in rows for name in row)
            self._columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
        return self._columns

    def _follow(self, file: BinaryIO) -> None:
        file.seek(self._offset - len(self._last))
        found = file.read()
        if not found.startswith(self._last):
            self._forget()
            file.seek(0)
            found = file.read()
        added = found[len(self._last) :]
        whole = added[: added.rfind(b"\n") + 1]  # the rest is being written, or was when the run was killed
        lines = whole.splitlines(keepends=True)
        for line in filter(bytes.strip, lines):
            self._take(line)
        if lines:
            self._offset += len(whole)
            self._last = lines[-1]

    def _take(self, line: bytes) -> None:
        try:
            row = JSON.decode(line.decode())
        except ValueError:
            row = None
        if not isinstance(row, dict) or not is_number(row.get("step")):
            self.unreadable += 1
            return
        self._rows[row["step"]] = {name: float(value) for name, value in row.items() if is_number(value)}
        self._columns = None

    def _forget(self) -> None:
        self._rows, self._offset, self._last, self.unreadable, self._columns = {}, 0, b"", 0, {}


class _Cached:
    """A small file's mapping, parsed again only when the file changed."""

    def __init__(self, path: Path, parse: Any) -> None:
        self.path = path
        self.parse = parse
        self._seen: tuple[float, int] | None = None
        self._content: Mapping[str, Any] = {}

    def read(self) -> Mapping[str, Any]:
        try:
            status = self.path.stat()
            seen = (status.st_mtime, status.st_size)
            if seen != self._seen:
                self._content = mapping(self.parse(self.path.read_text(encoding="utf-8")))
                self._seen = seen
        except (OSError, ValueError, yaml.YAMLError):
            pass  # missing, or between two versions: what was read before holds
        return self._content


def newest_checkpoint(folder: Path) -> CheckpointFile | None:
    """The checkpoint of the latest step in RUN/checkpoints, which carries its name once it is complete."""
    found = [(int(match[1]), path) for path in _children(folder / "checkpoints") if (match := _named(path))]
    for step, path in sorted(found, reverse=True):
        time = _modified(path)
        if time is not None:  # it may just have been removed
            return CheckpointFile(step, time)
    return None


def newest_pictures(folder: Path) -> Pictures | None:
    """The images written last: a preview of training, a set of samples, or an autoencoder's reconstructions."""
    found = [*_previews(folder / "previews"), *_sample_sets(folder / "samples"), *_reconstructions(folder)]
    return max(found, key=lambda pictures: pictures.modified, default=None)


def _previews(folder: Path) -> list[Pictures]:
    named = [(int(match[1]), path) for path in _children(folder) if (match := _named(path)) and path.is_dir()]
    return _some(f"preview at step {max(named)[0]:,}", max(named)[1]) if named else []


def _sample_sets(folder: Path) -> list[Pictures]:
    return [pictures for path in _children(folder) for pictures in _some(f"samples/{path.name}", path)]


def _reconstructions(folder: Path) -> list[Pictures]:
    path = folder / "reconstructions.png"
    time = _modified(path)
    return [] if time is None else [Pictures("originals above their reconstructions", (path,), time)]


def _some(title: str, folder: Path) -> list[Pictures]:
    """A folder's numbered images, as a list of one or none."""
    time = _modified(folder)
    paths = _numbered(folder, time) if time is not None else ()
    return [Pictures(title, paths, time)] if paths and time is not None else []


@lru_cache(maxsize=64)
def _numbered(folder: Path, modified: float) -> tuple[Path, ...]:
    """A folder's first images; a set may hold thousands, and is listed once a change."""
    found = (path for path in _children(folder) if path.suffix == ".png" and path.stem.isdigit())
    return tuple(sorted(found)[:MOST_PICTURES])


def _named(path: Path) -> re.Match[str] | None:
    return _STEP.fullmatch(path.name)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
