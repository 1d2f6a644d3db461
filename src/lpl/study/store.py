"""Where runs lie: one folder for all studies, in which a run is found by what went into it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import Recipe, RecipeError, dump_recipe
from ..data.images import digest
from ..training.checkpoints import complete_checkpoints, read_state, resolve_checkpoint, trained_recipe
from ..training.metrics import truncate_metrics
from ..training.run_folder import run_information, write_text
from .identity import Adopted, Fingerprints, Training, identity_key, identity_of

IDENTITY = "identity.json"


class Store:
    """Runs, each in a folder with a readable name and the key of its identity.

    Args:
        folder: of all runs, made where it is missing.
        known: contents of data sets and weights that have been looked at.
    """

    def __init__(self, folder: Path, known: Fingerprints | None = None) -> None:
        self.folder = folder
        self.known = known or Fingerprints()
        self._found: dict[tuple[str, tuple[int, ...]], Path] = {}

    def key(self, training: Training | Adopted) -> str:
        """The key of a run's identity.

        Raises:
            DataError, FileNotFoundError: its images or its autoencoder can't be opened.
        """
        return identity_key(identity_of(training, self.known))

    def locate(self, training: Training | Adopted) -> Path:
        """The folder of a run: the one that is there already, or the one it would get."""
        key = self.key(training)
        milestones = training.milestones if isinstance(training, Training) else ()
        if (key, milestones) not in self._found:
            self._found[key, milestones] = self._search(key, milestones, training.label)
        return self._found[key, milestones]

    def _search(self, key: str, milestones: tuple[int, ...], label: str) -> Path:
        runs = [folder for folder, recorded in self._recorded.items() if recorded == key]
        for folder in runs:
            if has_milestones(folder, milestones):
                return folder
        # There is one without the checkpoints that a curve needs: it is trained again, beside those that are there.
        suffix = f"-checkpoints-{digest(milestones)[:6]}" if runs else ""
        return self.folder / f"{slug(label)}-{key}{suffix}"

    @cached_property
    def _recorded(self) -> dict[Path, str]:
        """Every run of the store with the key of its identity as this version sees it."""
        found = {}
        for file in sorted(self.folder.glob(f"*/{IDENTITY}")):
            try:
                found[file.parent] = identity_key(json.loads(file.read_text(encoding="utf-8")))
            except (RecipeError, ValueError, KeyError):
                continue  # of a version that this one can't follow; it is not taken for anything else
        return found

    def claim(self, training: Training | Adopted) -> Path:
        """Makes a run's folder, with its identity in it; one that is adopted is complete then."""
        folder = self.locate(training)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / IDENTITY).is_file():
            identity = identity_of(training, self.known)
            write_text(folder / IDENTITY, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")
        if isinstance(training, Adopted):
            adopt(training, folder)
        return folder

    def lock_file(self, folder: Path) -> Path:
        """A file that is held by whoever works on a run, so that two studies at once don't."""
        return self.folder / ".locks" / f"{folder.name}.lock"

    def remember(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keeps a measurement that plans depend on, such as the ratio of two objectives' speeds."""
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{key}.json", json.dumps(value, indent=1) + "\n")

    def recall(self, kind: str, key: str) -> dict[str, Any] | None:
        """What `remember` kept."""
        file = self.folder / kind / f"{key}.json"
        if not file.is_file():
            return None
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content


def slug(label: str) -> str:
    """A label as part of a folder's name."""
    return re.sub(r"[^\w.=-]+", "-", label).strip("-") or "run"


def is_complete(folder: Path) -> bool:
    """Whether a run was trained to its end."""
    return run_information(folder).get("status") == "complete"


def has_milestones(folder: Path, milestones: Iterable[int]) -> bool:
    """Whether those of a run's checkpoints that it has come to are there, of the steps that are wanted."""
    steps = {int(path.name.removeprefix("step-")) for path in complete_checkpoints(folder / "checkpoints")}
    reached = max(steps, default=0)
    return {step for step in milestones if step <= reached or is_complete(folder)} <= steps


def adopt(adopted: Adopted, folder: Path) -> None:
    """Makes a checkpoint from elsewhere a complete run of the store, without copying its weights.

    One that was adopted before and has moved since is linked to where it lies now.
    """
    checkpoint = resolve_checkpoint(adopted.checkpoint).resolve()
    link = folder / "checkpoints" / checkpoint.name
    if link.exists() and is_complete(folder):
        return
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link_or_copy(checkpoint, link)
    state = read_state(checkpoint)
    write_text(folder / "recipe.yaml", dump_recipe(adopted_recipe(adopted, checkpoint)))
    origin = checkpoint.parent.parent
    if (origin / "metrics.jsonl").is_file():
        shutil.copyfile(origin / "metrics.jsonl", folder / "metrics.jsonl")
        truncate_metrics(folder / "metrics.jsonl", state["step"])
    information = {
        **run_information(origin),
        "name": adopted.label,
        "status": "complete",
        "step": state["step"],
        "seconds": round(state["seconds"], 3),
        "images": state["images"],
        "adopted_from": str(checkpoint),
    }
    write_text(folder / "run.json", json.dumps(information, indent=1, ensure_ascii=False) + "\n")


def adopted_recipe(adopted: Adopted, checkpoint: Path) -> Recipe:
    """The recipe that a checkpoint was trained with, its images and autoencoder where they lie now."""
    trained = trained_recipe(checkpoint)
    return trained.model_copy(
        update={
            "name": adopted.label,
            "data": adopted.recipe.data,
            "autoencoder": adopted.recipe.autoencoder,
            "sampling": adopted.recipe.sampling,
            "evaluation": adopted.recipe.evaluation,
        }
    )


def link_or_copy(target: Path, link: Path) -> None:
    """A symbolic link, or a copy where the file system has none."""
    try:
        link.symlink_to(os.path.relpath(target, link.parent.resolve()), target_is_directory=True)
    except OSError:
        shutil.copytree(target, link)
