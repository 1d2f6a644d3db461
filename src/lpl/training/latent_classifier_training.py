"""Trains the classifier that `LatentLPIPS` compares in, on a recipe's latents and labels."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file

from ..autoencoders import Autoencoder
from ..config import LatentClassifierConfig, Recipe
from ..data import DataError, LatentCache, build_latent_cache
from .checkpoints import latest_checkpoint, read_state
from .clock import StopSignals
from .display import TrainingDisplay, say, say_where_slow
from .latent_classifier import DESCRIPTION, FORMAT, WEIGHTS, ClassifierError, read_description
from .latent_classifier_run import ClassifierData, LatentClassifierRun
from .metrics import MetricsLog
from .recorder import TrainingInterrupted
from .run_folder import hardware, timestamp, versions, write_text

LOG_EVERY = 10  # steps
FREE_SETTINGS = ("checkpoint_every",)  # change nothing about the result


def train_latent_classifier(
    train: LatentCache,
    held_out: LatentCache | None,
    config: LatentClassifierConfig,
    folder: Path | None = None,
    device: torch.device | None = None,
    progress: bool = True,
) -> Path:
    """Trains a classifier of latents, or carries on with one that was interrupted, or finds the one that is there.

    On SIGINT or SIGTERM the step under way is finished and saved. Of several processes that want the same classifier,
    one trains it and the others wait.

    Args:
        train: latents and labels to learn from.
        held_out: those that the accuracy is measured on; None: a tenth of the training images, kept from training.
        config: how to train.
        folder: where it goes; by default next to the latents, named after everything it depends on.
        device: where to compute; by default a GPU where there is one.
        progress: whether to show it, on standard error.

    Returns:
        The folder.

    Raises:
        ClassifierError: the folder holds another classifier.
        ValueError: there are too few images or classes, or the latents are too small for the poolings.
        TrainingInterrupted: a signal asked it to stop.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = ClassifierData.of(train, held_out)
    identity = identity_of(data, config)
    if folder is None:
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        folder = train.folder.with_name(f"{train.folder.name}-classifier-{name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            _refuse_another(folder, identity)
            say(f"{folder}: is complete already", progress)
            return folder
        say_where_slow({"classifier_training.precision": config.precision}, progress)
        work = folder.with_name(f"{folder.name}.training")
        run = _begin(work, data, config, device, identity)
        _train(run, work, folder, identity, progress)
        _publish(run, work, folder, identity, progress)
    return folder


def classifier_of(
    recipe: Recipe,
    autoencoder: Autoencoder,
    config: LatentClassifierConfig,
    folder: Path | None = None,
    progress: bool = True,
) -> Path:
    """A classifier of a recipe's latents: trained where there is none yet, after encoding its images.

    It is tested on the recipe's held-out images, where it has any.

    Args:
        recipe: its sections `data` and `autoencoder`.
        autoencoder: the one that they name.
        config: how to train.
        folder: where it goes; by default next to the latents, named after everything it depends on.
        progress: whether to show it, on standard error.

    Returns:
        The folder.

    Raises:
        ClassifierError: the folder holds another classifier.
        ValueError: there are too few images or classes, or the latents are too small for the poolings.
    """
    data, batch_size = recipe.data, recipe.autoencoder.batch_size
    if data.label_column is None:
        raise ClassifierError("data.label_column: got null; a classifier of latents learns from labels")
    train = build_latent_cache(data, autoencoder, batch_size, progress=progress)
    held_out = None
    try:
        held_out = build_latent_cache(data, autoencoder, batch_size, holdout=True, progress=progress)
    except DataError:
        if data.holdout is not None:
            raise
    return train_latent_classifier(train, held_out, config, folder, autoencoder.device, progress)


def identity_of(data: ClassifierData, config: LatentClassifierConfig) -> dict[str, Any]:
    """Everything that a classifier depends on, as JSON."""
    settings = {name: value for name, value in config.model_dump().items() if name not in FREE_SETTINGS}
    held_out = asdict(data.held_out.info.key) if data.held_out is not data.train else None
    identity = {"latents": asdict(data.train.info.key), "held_out": held_out, "settings": settings, "format": FORMAT}
    return dict(json.loads(json.dumps(identity)))  # as it will read back


def _begin(
    work: Path, data: ClassifierData, config: LatentClassifierConfig, device: torch.device, identity: Mapping[str, Any]
) -> LatentClassifierRun:
    """The run in a work folder, restored from its checkpoint where it has one."""
    run = LatentClassifierRun(data, config, device)
    checkpoint = latest_checkpoint(work / "checkpoints") if work.is_dir() else None
    if checkpoint is not None:
        if read_state(checkpoint)["identity"] != identity:
            raise ClassifierError(f"{work}: holds the training of another classifier; delete it or give another output")
        run.restore(checkpoint)
    work.mkdir(parents=True, exist_ok=True)
    return run


def _train(run: LatentClassifierRun, work: Path, folder: Path, identity: Mapping[str, Any], progress: bool) -> None:
    """Steps from where the run stands to the end."""
    steps, first = run.config.steps, run.step
    before = run.clock.seconds
    display = TrainingDisplay("latent classifier", run.step, steps, None, progress)
    losses: list[torch.Tensor] = []
    with StopSignals() as signals, display, closing(MetricsLog(work, run.step)) as log:
        run.clock.start()
        while run.step < steps and not signals.received:
            losses.append(run.advance())
            display.advance(run.step)
            stopping = run.step == steps or bool(signals.received)
            if run.step % LOG_EVERY == 0 or stopping:
                loss = torch.stack(losses).mean().item()
                losses.clear()
                seconds = run.clock.seconds
                rate = (run.step - first) * run.config.batch_size / max(seconds - before, 1e-9)
                display.log(loss, rate, seconds, seconds - before)
                log.write(run.step, {"seconds": seconds, "images_per_second": rate, "loss": loss})
            if run.step % run.config.checkpoint_every == 0 or stopping:
                with run.clock.paused():
                    log.sync()
                    run.save(work / "checkpoints", identity)
    if run.step < steps:
        say(f"{folder}: stopped at step {run.step} and saved; run the same command to carry on", progress)
        raise TrainingInterrupted(128 + signals.received)


def _publish(run: LatentClassifierRun, work: Path, folder: Path, identity: Mapping[str, Any], progress: bool) -> None:
    """Measures the accuracy, writes the classifier and gives the work folder its name."""
    seconds = round(run.clock.seconds, 3)
    accuracy, largest = run.accuracy(), run.largest_class()
    weights = {name: value.detach().cpu().contiguous() for name, value in run.model.state_dict().items()}
    save_file(weights, work / WEIGHTS)
    about = {
        **identity,
        "architecture": run.model.config,
        "classes": run.data.train.classes,
        "latent_shape": list(run.data.train.latent_shape),
        "accuracy": accuracy,
        "largest_class": largest,
        "tested_on": {"latents": len(run.data.held_out_entries), "which": run.data.origin},
        "weights_sha256": hashlib.sha256((work / WEIGHTS).read_bytes()).hexdigest(),
        "seconds": seconds,
        "ended": timestamp(),
        "hardware": hardware(run.device, processes=1),
        "versions": versions(),
    }
    write_text(work / DESCRIPTION, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(work / "checkpoints")
    os.replace(work, folder)
    say(
        f"{folder}: {accuracy:.1%} right of {len(run.data.held_out_entries):,} latents ({run.data.origin}); the "
        f"commonest class is {largest:.1%} of them",
        progress,
    )


def _refuse_another(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises where a folder holds anything but the classifier wanted."""
    about = read_description(folder)
    changed = [name for name, value in identity.items() if about.get(name) != value]
    if changed:
        raise ClassifierError(
            f"{folder}: holds another classifier ({', '.join(changed)} differ); delete it or give another output"
        )
