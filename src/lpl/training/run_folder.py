"""A run's folder: its recipe, run.json, who trains in it, and whether a run may be resumed with a recipe."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..config import Recipe, dump_recipe, load_recipe
from ..errors import LplError
from ..sections import Section
from .checkpoints import latest_checkpoint, read_state, sync, trained_recipe

logger = logging.getLogger(__name__)

LOCK = ".lock"  # in a run's folder; held by the process that trains there

# Keys that a resumed run may change: they say where files go, how often something is written, what is done with the
# weights afterwards, or how the same numbers are computed. All others change what is trained.
FREE_KEYS = frozenset(
    {
        "name",
        "output",
        "data.cache",
        "data.holdout",
        "data.holdout_split",
        "autoencoder.batch_size",
        "denoiser.gradient_checkpointing",
        "training.accumulation",  # checked together with the number of processes
        "training.time_budget",
        "training.log_every",
        "training.checkpoint_every",
        "training.keep_checkpoints",
        "training.sample_every",
        "training.keep_every",
    }
)
FREE_SECTIONS = ("sampling.", "evaluation.")
# Of an autoencoder or a tiny decoder that is trained, the PSNR on held-out images is part of the result.
MEASURED_ON = frozenset({"data.holdout", "data.holdout_split"})


class ResumeError(LplError, RuntimeError):
    """A run that can't be resumed with the recipe given; the message lists the keys that differ."""


class RunFolder:
    """The files of one run.

    Args:
        recipe: what is run.
        write: whether this process writes; the others only read.
    """

    def __init__(self, recipe: Recipe, write: bool = True) -> None:
        self.recipe = recipe
        self.path = recipe.folder
        self.write = write

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def held(self) -> AbstractContextManager[None]:
        """See `held`; processes that only read hold nothing."""
        return held(self.path) if self.write else nullcontext()

    def checkpoint(self, resume: bool) -> Path | None:
        """The checkpoint to resume from, or None for a run that begins.

        Raises:
            ResumeError: the folder holds a run of another recipe, or one that may not be resumed.
            CheckpointError: it holds checkpoints, and none can be used.
        """
        checkpoint = latest_checkpoint(self.checkpoints)
        if checkpoint is None:
            return None
        if not resume:
            raise ResumeError(
                f"{self.path}: holds a run with checkpoints; resume it, or begin anew with another output"
            )
        refuse_changes(self.path, trained_recipe(checkpoint), self.recipe, read_state(checkpoint)["step"])
        return checkpoint

    def begin(self, step: int, about: Mapping[str, Any]) -> None:
        """Writes the recipe, and run.json with what is known at the start of a session.

        Args:
            step: that of the checkpoint, 0 for a run that begins.
            about: what else to write.
        """
        if not self.write:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "recipe.yaml", dump_recipe(self.recipe))
        now = timestamp()
        before = self.information if step else {}
        content = {
            "name": self.recipe.name,
            "status": "running",
            "started": before.get("started", now),
            "sessions": [*before.get("sessions", []), {"started": now, "step": step}],
            "ended": None,
            "ended_by": None,
            "step": step,
            "versions": versions(),
            **about,
        }
        write_text(self.path / "run.json", json.dumps({**before, **content}, indent=1, ensure_ascii=False) + "\n")

    def update(self, **values: Any) -> None:
        """Changes some of run.json's values."""
        if self.write:
            content = {**self.information, **values}
            write_text(self.path / "run.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @property
    def information(self) -> dict[str, Any]:
        """See `run_information`."""
        return run_information(self.path)


def run_information(folder: Path) -> dict[str, Any]:
    """The content of a run's run.json; empty where there is none, or, with a warning, where it can't be read."""
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        logger.warning("%s: is damaged (%s); what it said of earlier sessions is lost", path, error)
        return {}
    return content


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a run's folder, which is made where it is missing.

    On file systems without locks there is a warning, and nothing is held. A folder that was made and is empty when the
    block ends, because of a mistake in the recipe for instance, is removed.

    Raises:
        ResumeError: another process trains there.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:  # an OSError, too
        raise ResumeError(
            f"{folder}: another process is training this run; wait until it ends, or give this one another output"
        ) from None
    except (OSError, NotImplementedError) as error:
        logger.warning("%s: can't be locked (%s); take care that no other process trains this run", folder, error)
    try:
        yield
    finally:
        if made:
            _remove_where_empty(folder)
        lock.release()


def _remove_where_empty(folder: Path) -> None:
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def refuse_changes(run: Path, trained: Recipe, recipe: Recipe, step: int) -> None:
    """Refuses to resume with a recipe that would not have led to the checkpoint.

    Args:
        run: the run's folder, for the message.
        trained: the recipe of the checkpoint.
        recipe: the recipe given now.
        step: of the checkpoint.

    Raises:
        ResumeError: keys differ that change what is trained; the message lists them with both values.
    """
    changed = {key: values for key, *values in _changes(trained, recipe) if not _free(key)}
    if "training.steps" in changed and recipe.training.schedule == "constant":
        if recipe.training.steps < step:
            raise ResumeError(f"{run}: is at step {step} already, beyond training.steps={recipe.training.steps}")
        del changed["training.steps"]
    hint = " (it may change with training.schedule=constant only)" if "training.steps" in changed else ""
    _refuse(run, changed, hint)


def refuse_another(folder: Path, recipe: Section) -> None:
    """Refuses a folder that holds a run of another autoencoder or tiny decoder, finished or not.

    Args:
        folder: of the run.
        recipe: the one given now.

    Raises:
        ResumeError: keys differ that change the result; the message lists them with both values.
        RecipeError: the recipe in the folder can't be read.
    """
    path = folder / "recipe.yaml"
    if path.is_file():
        changes = _changes(load_recipe(path, (), type(recipe)), recipe)
        _refuse(folder, {key: values for key, *values in changes if key in MEASURED_ON or not _free(key)})


def checkpoint_of(folder: Path, contents: Mapping[str, str]) -> Path | None:
    """The checkpoint with which an autoencoder or a tiny decoder carries on, or None where it begins.

    Args:
        folder: of the run.
        contents: fingerprints of what the recipe only names, by the recipe's key; checkpoints hold them as "contents".

    Raises:
        ResumeError: something else lies now where the recipe names it.
        CheckpointError: there are checkpoints, and none can be used.
    """
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        return None
    before = read_state(checkpoint).get("contents", {})  # those of earlier versions have none
    changed = [key for key, value in contents.items() if before.get(key, value) != value]
    if changed:
        raise ResumeError(
            f"{checkpoint}: what the recipe names in {' and '.join(changed)} has changed since; put it back as it was, "
            "or give the new run another output"
        )
    return checkpoint


def _changes(before: Section, now: Section) -> Iterator[tuple[str, Any, Any]]:
    return differences(before.model_dump(mode="json"), now.model_dump(mode="json"))


def _refuse(run: Path, changed: Mapping[str, Any], hint: str = "") -> None:
    """Raises where there are keys that differ, each with both values."""
    if changed:
        listed = "; ".join(f"{key} was {before!r} and is now {now!r}" for key, (before, now) in changed.items())
        raise ResumeError(
            f"{run}: holds a run of another recipe: {listed}{hint}; set them back, or give the new run another output"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ between two recipes, with both values; a section that is off is one value."""
    for key in dict.fromkeys([*before, *now]):
        first, second = before.get(key), now.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from differences(first, second, f"{prefix}{key}.")
        elif first != second:
            yield f"{prefix}{key}", first, second


def _free(key: str) -> bool:
    return key in FREE_KEYS or key.startswith(FREE_SECTIONS)


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step, so that nobody ever finds half of it, even after a power cut."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)  # else the name might reach the disk before the content
    os.replace(temporary, path)
    sync(path.parent)


def timestamp() -> str:
    """Now, in UTC, as ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("latent-perceptual-loss", "torch", "diffusers", "accelerate", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """What the run computes on."""
    found: dict[str, Any] = {
        "device": device.type,
        "processes": processes,
        "cpu": platform.processor() or platform.machine(),
        "cpu_threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def peak_memory(device: torch.device) -> dict[str, Any]:
    """The largest memory in use so far, in bytes, and what it counts."""
    if device.type == "cuda":
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device), "peak_memory_of": "GPU tensors"}
    try:
        import resource
    except ImportError:  # Windows
        return {"peak_memory_bytes": None, "peak_memory_of": "not measured on this system"}
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": peak, "peak_memory_of": "process, resident"}
