"""Checkpoints: folders that are written whole or not at all.

A checkpoint is RUN/checkpoints/step-00001000 with model.safetensors, ema.safetensors (once averaging has started),
optimizer.safetensors and state.json. It is written into a temporary folder beside it, brought to the disk, and renamed,
so that whatever carries its final name was complete when it got it. state.json records each file's size and checksum,
which tells a copy cut short or a damaged disk from a good checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import Recipe, RecipeError, build_recipe
from ..errors import LplError

logger = logging.getLogger(__name__)

FORMAT = 1  # of state.json
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".incomplete-"
_CHUNK = 1 << 24  # bytes read at a time for a checksum


class CheckpointError(LplError, RuntimeError):
    """A checkpoint that is missing, damaged or of another model; the message says which and why."""


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    keep_every: int | None = None,
) -> Path:
    """Writes checkpoint `step`, then removes all but the newest `keep` complete ones up to it.

    Later ones, which this run found damaged when it resumed, count for nothing; each is replaced when its step comes.

    Args:
        folder: RUN/checkpoints, made where it is missing.
        step: the optimiser step just taken.
        tensors: from a file's name without its ending ("model", "ema", "optimizer") to its tensors; empty ones are
            left out.
        state: anything JSON holds.
        keep: how many checkpoints to keep, ≥ 1.
        keep_every: checkpoints of steps that this divides are kept, too.

    Returns:
        The checkpoint's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover)
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{_TEMPORARY}{final.name}"
    temporary.mkdir()
    files = {}
    for name, values in tensors.items():
        if values:
            path = temporary / f"{name}.safetensors"
            save_file({key: value.detach().contiguous() for key, value in values.items()}, path)
            files[path.name] = {"bytes": path.stat().st_size, "crc32": _checksum(path)}
    content = {"format": FORMAT, "step": step, **state, "files": files}
    (temporary / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    if final.exists():  # an earlier session's, found damaged when this one resumed
        _remove(final)
    os.replace(temporary, final)
    sync(folder)
    earlier = [path for path in complete_checkpoints(folder) if _step(path) < step]
    for old in [*earlier, final][:-keep]:
        if keep_every is None or _step(old) % keep_every:
            _remove(old)
    return final


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in RUN/checkpoints whose files are all there in full length, the newest last.

    What is not complete is logged as a warning with the reason, and ignored.
    """
    found = []
    for path in _named(folder):
        try:
            read_state(path)
        except CheckpointError as error:
            logger.warning("ignored: %s", error)
        else:
            found.append(path)
    return found


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in RUN/checkpoints whose checksums all hold, or None where there is not a single one.

    Newer ones that are damaged are logged as warnings with the reason.

    Raises:
        CheckpointError: there are some, and none can be used. A run that began anew would overwrite them.
    """
    problems: list[CheckpointError] = []
    for path in reversed(_named(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            problems.append(error)
        else:
            for problem in problems:
                logger.warning("ignored: %s", problem)
            return path
    if problems:
        raise CheckpointError(
            f"{folder}: none of the checkpoints there can be used: {'; '.join(map(str, problems))}. Put back what is "
            "missing; or, to train from the beginning, delete this folder or give another output"
        )
    return None


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path means: itself, or the newest intact one of a run.

    Raises:
        CheckpointError: there is no such folder, it is damaged, or the run has no complete checkpoint.
    """
    path = Path(path).expanduser()
    if (path / STATE).is_file() or _NAME.fullmatch(path.name):
        verify(path)
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a run's folder or one of its checkpoints")
    latest = latest_checkpoint(path / "checkpoints")
    if latest is None:
        raise CheckpointError(f"{path}: has no complete checkpoint (step-* folders in {path / 'checkpoints'})")
    return latest


def read_state(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's state.json, once all its files are found in full length.

    Raises:
        CheckpointError: a file is missing or cut short, or state.json is not what this version writes.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: is not complete, {STATE} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{checkpoint}: {STATE} is damaged ({error})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("files"), dict):
        raise CheckpointError(f"{checkpoint}: {STATE} is not of format {FORMAT}, the one that this version reads")
    for name, record in state["files"].items():
        path = checkpoint / name
        size = path.stat().st_size if path.is_file() else None
        if size != record["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise CheckpointError(f"{checkpoint}: is not complete, {name} {found} where {record['bytes']} were written")
    return state


def trained_recipe(checkpoint: Path) -> Recipe:
    """The recipe that a checkpoint was trained with; keys that have been added since have their defaults.

    Raises:
        CheckpointError: the checkpoint is not complete, or its recipe has keys or values that no recipe has any more.
    """
    try:
        return build_recipe(read_state(checkpoint)["recipe"], f"{checkpoint}, its recipe")
    except RecipeError as error:
        raise CheckpointError(f"{error}; it was written by a version that this one can't follow") from None


def verify(checkpoint: Path) -> None:
    """Reads a checkpoint's files and compares their checksums with those written down.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    for name, record in read_state(checkpoint)["files"].items():
        if _checksum(checkpoint / name) != record["crc32"]:
            raise CheckpointError(f"{checkpoint}: {name} is damaged, its checksum is not the one written down")


def load_tensors(checkpoint: Path, name: str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of one of a checkpoint's files ("model", "ema", "optimizer"); empty where there is no such file."""
    path = checkpoint / f"{name}.safetensors"
    return load_file(path, device=str(device)) if path.is_file() else {}


def load_weights(checkpoint: Path, weights: str) -> dict[str, Tensor]:
    """A checkpoint's weights: "raw", those being trained, or "ema", their average.

    Raises:
        CheckpointError: averaging had not started.
        ValueError: `weights` is neither.
    """
    if weights not in ("raw", "ema"):
        raise ValueError(f"weights: got {weights!r}, takes 'ema' or 'raw'")
    tensors = load_tensors(checkpoint, "model" if weights == "raw" else "ema")
    if not tensors:
        raise CheckpointError(f"{checkpoint}: holds no averaged weights yet (training.ema_start); take weights=raw")
    return tensors


def initialize(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copies weights into a model for post-training; the buffers of positional embeddings stay the model's own.

    They alone depend on the resolution, which may change between pre- and post-training.

    Args:
        model: what is about to be trained.
        weights: another model's `state_dict`.
        origin: where the weights come from, for the message.

    Raises:
        CheckpointError: any other tensor is missing, left over or of another shape; the message lists all of them.
    """
    kept = {name for name, _ in model.named_buffers() if name.rpartition(".")[2] == "pos_embed"}
    own = {name: value for name, value in model.state_dict().items() if name not in kept}
    given = {name: value for name, value in weights.items() if name not in kept}
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} {tuple(given[name].shape)} has no place" for name in given if name not in own]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, the model takes {tuple(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"{origin}: its weights are of another model than the recipe's data, autoencoder and denoiser make: "
            + "; ".join(problems)
        )
    model.load_state_dict(given, strict=False)


def flatten_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimiser's state as `field/parameter name` → tensor; hyperparameters are the recipe's and not part of it."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{field}/{names[parameter]}": torch.as_tensor(value)
        for parameter, fields in optimizer.state.items()
        for field, value in fields.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `flatten_optimizer` made, for the same model.

    Raises:
        CheckpointError: a tensor belongs to no parameter.
    """
    positions = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        field, _, name = key.partition("/")
        if name not in positions:
            raise CheckpointError(f"the optimiser's state holds {key}, and the model has no parameter of that name")
        state.setdefault(positions[name], {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named(folder: Path) -> list[Path]:
    """The folders in RUN/checkpoints that carry a checkpoint's name, in the order of their steps."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _remove(checkpoint: Path) -> None:
    """Takes away the name before the files, so that half a checkpoint never carries it."""
    doomed = checkpoint.with_name(f"{_TEMPORARY}removed-{checkpoint.name}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def sync(path: Path) -> None:
    """Brings a file or a folder's entries to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows can't open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
