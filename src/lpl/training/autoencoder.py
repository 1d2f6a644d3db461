"""Trains a Stable-Diffusion-like autoencoder (diffusers' AutoencoderKL) from images.

The loss is that of latent diffusion's autoencoders (Rombach et al., 2022, appendix G): reconstruction, a slight
Kullback-Leibler term, and from some step on an adversarial one. Where they use LPIPS to keep edges sharp, a distance
between Laplacian pyramids does it here, which needs no other network's weights.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from ..config import dump_recipe
from ..data import DataError, ImageSource, UnreadableImage, crop_and_resize, open_images, seeded_generator, to_pil
from .autoencoder_recipe import AutoencoderRecipe
from .autoencoder_run import AutoencoderRun, latent_statistics, learning_rate
from .clock import StopSignals, TrainingClock
from .crops import CropMemory
from .display import TrainingDisplay, say, say_where_slow
from .ema import EMA
from .metrics import MetricsLog, TermWindow
from .reconstruction import psnr
from .recorder import TrainingInterrupted
from .run_folder import (
    checkpoint_of,
    hardware,
    held,
    peak_memory,
    refuse_another,
    timestamp,
    versions,
    write_text,
)
from .tiny_decoder_recipe import TinyDecoderRecipe

STATISTICS_STEP = 0  # training steps count from 1, so the crops for the statistics are none of theirs
HELDOUT_SEED = 0
SHEET_COLUMNS, SHEET_ROWS = 12, 4  # images of reconstructions.png

logger = logging.getLogger(__name__)


def train_autoencoder(recipe: AutoencoderRecipe) -> Path:
    """Trains an autoencoder, or carries on with one that was interrupted, and saves it for diffusers.

    The run's folder receives recipe.yaml, metrics.jsonl and checkpoints/ while it trains; then run.json, metrics.json
    (PSNR in dB on held-out images, over all and for each class), reconstructions.png (held-out images, each above its
    reconstruction) and the folder `autoencoder`. One process trains, on a GPU where there is one. On SIGINT or SIGTERM
    the step under way is finished and saved.

    Args:
        recipe: what to do; see `AutoencoderRecipe`.

    Returns:
        The folder `autoencoder`, which `AutoencoderKL.from_pretrained` reads. Its shift_factor and scaling_factor give
        training latents, (z − shift) · scaling, zero mean and unit variance.

    Raises:
        ResumeError: the run's folder holds a run of another recipe or other images, or another process trains there.
        CheckpointError: it holds checkpoints, and none can be used.
        DataError: the images can't be opened, none is readable, or no held-out ones are named.
        TrainingDiverged: the loss became NaN or infinite.
        TrainingInterrupted: a signal asked it to stop.
    """
    return once(recipe, lambda: _train(recipe, recipe.folder))


def once(recipe: AutoencoderRecipe | TinyDecoderRecipe, train: Callable[[], None]) -> Path:
    """The folder `autoencoder` of a run, trained unless it is there; one process at a time."""
    result = recipe.folder / "autoencoder"
    with held(recipe.folder):
        refuse_another(recipe.folder, recipe)
        if result.is_dir():
            say(f"{result}: is complete already")
        else:
            train()
            shutil.rmtree(recipe.folder / "checkpoints")
    return result


def _train(recipe: AutoencoderRecipe, folder: Path) -> None:
    """Trains from the newest checkpoint, or from the start, to the end."""
    source = open_images(recipe.data)
    contents = {"data.source": source.fingerprint()}
    checkpoint = checkpoint_of(folder, contents)
    heldout = HeldOut(recipe)
    run = AutoencoderRun(recipe, training_crops(recipe, source), contents)
    if checkpoint is not None:
        run.restore(checkpoint)
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    seconds = run_steps(run, folder, heldout)
    _finish(run, folder, heldout, seconds)


def training_crops(recipe: AutoencoderRecipe | TinyDecoderRecipe, source: ImageSource) -> CropMemory:
    """The training images in memory, to be cut as the recipe says."""
    images = (image for image, _ in readable(source, range(len(source))))
    return CropMemory(images, recipe.data.resolution, recipe.crops.min_scale, recipe.data.flip)


class Steps(Protocol):
    """Something in training, step by step: an autoencoder, or a tiny decoder."""

    recipe: Any
    step: int
    ema: EMA
    window: TermWindow
    clock: TrainingClock

    def advance(self) -> None:
        """Makes one step; its terms go to `window`."""

    def save(self, folder: Path) -> Path:
        """Writes a checkpoint into the folder of checkpoints."""


class HeldOut:
    """Held-out images, of which the central square is taken, and how well an autoencoder reconstructs them.

    Args:
        recipe: names the images, and how many of them to take at random.
    """

    def __init__(self, recipe: AutoencoderRecipe | TinyDecoderRecipe) -> None:
        source = open_images(recipe.data, holdout=True)
        # At random, since sources may hold their classes one after the other or in turn; the same in every run.
        order = torch.randperm(len(source), generator=seeded_generator(HELDOUT_SEED))
        indices = order[: recipe.training.heldout_images].tolist()
        pairs = [(crop_and_resize(image, recipe.data.resolution), label) for image, label in readable(source, indices)]
        self.classes = source.classes
        self.images = torch.stack([image for image, _ in pairs])
        self.labels = torch.tensor([label for _, label in pairs])
        self.batch_size = recipe.training.batch_size

    @torch.no_grad()
    def reconstructions(self, model: Any) -> Tensor:
        """Decoded posterior means, float32 (N, 3, R, R) clamped to [−1, 1]."""
        batches = []
        for images in self.images.split(self.batch_size):
            mean = model.encode(images.to(model.device, model.dtype)).latent_dist.mean
            batches.append(model.decode(mean).sample.float().clamp(-1, 1).cpu())
        return torch.cat(batches)

    def measure(self, reconstructions: Tensor) -> dict[str, float]:
        """Mean PSNR in dB: "psnr" over all images, "psnr/<class>" over those of a class."""
        values = psnr(reconstructions, self.images)
        results = {"psnr": values.mean().item()}
        for label in self.labels.unique().tolist():
            results[f"psnr/{self.classes[label]}"] = values[self.labels == label].mean().item()
        return results


class _Records:
    """What a session of training shows and writes: progress, metrics.jsonl, checkpoints."""

    def __init__(self, run: Steps, folder: Path, heldout: HeldOut) -> None:
        self.run = run
        self.folder = folder
        self.heldout = heldout
        self.display = TrainingDisplay(run.recipe.name, run.step, run.recipe.training.steps, None)
        self.log = MetricsLog(folder, run.step)
        self._start = self._logged = (run.step, run.clock.seconds)

    def end_step(self, stopping: bool) -> None:
        """A step was taken, the last one of this session if `stopping`."""
        run, training = self.run, self.run.recipe.training
        self.display.advance(run.step)
        saving = stopping or run.step % training.checkpoint_every == 0
        if not saving and run.step % training.log_every:
            return
        values = self._figures()
        with run.clock.paused():
            if saving:
                with run.ema.swapped() as model:
                    values["psnr"] = self.heldout.measure(self.heldout.reconstructions(model))["psnr"]
                self.display.say(f"{run.recipe.name}: step {run.step}, held-out PSNR {values['psnr']:.2f} dB")
            self.log.write(run.step, values)
            if saving:
                self.log.sync()
                run.save(self.folder / "checkpoints")

    def _figures(self) -> dict[str, float]:
        """Means since the last log; shows them too."""
        run, training = self.run, self.run.recipe.training
        values = run.window.means()
        run.window.clear()
        seconds = run.clock.seconds
        rate = (run.step - self._logged[0]) * training.batch_size / max(seconds - self._logged[1], 1e-9)
        self._logged = (run.step, seconds)
        self.display.log(values["loss"], rate, seconds, seconds - self._start[1])
        columns = {"seconds": seconds, "images_per_second": rate, "learning_rate": learning_rate(run.step, training)}
        return {**columns, **values}


def run_steps(run: Steps, folder: Path, heldout: HeldOut) -> float:
    """Steps from where the run stands to the end; returns the seconds of training, over all sessions."""
    steps = run.recipe.training.steps
    say_where_slow({"training.precision": run.recipe.training.precision})
    records = _Records(run, folder, heldout)
    with StopSignals() as signals, records.display, contextlib.closing(records.log):
        run.clock.start()
        while run.step < steps and not signals.received:
            run.advance()
            records.end_step(stopping=run.step == steps or bool(signals.received))
    seconds = run.clock.seconds
    if run.step < steps:
        say(f"{folder}: stopped at step {run.step} and saved; run the same command to carry on")
        raise TrainingInterrupted(128 + signals.received)
    return seconds


def _finish(run: AutoencoderRun, folder: Path, heldout: HeldOut, seconds: float) -> None:
    """Measures the latents' scale and the reconstruction, and writes everything that a finished run has."""
    training = run.recipe.training
    model = run.averaged()
    if training.save_precision == "float16":
        model.half().float()  # what is measured is what is saved; float32 is several times as fast on CPUs
    generator = seeded_generator(run.recipe.seed, STATISTICS_STEP)
    sizes = [len(part) for part in torch.arange(training.statistics_images).split(training.batch_size)]
    mean, std = latent_statistics(model, (run.memory.crops(size, generator) for size in sizes), generator)
    model.register_to_config(scaling_factor=1 / std, shift_factor=mean)
    reconstructions = heldout.reconstructions(model)
    results = heldout.measure(reconstructions)
    sheet(heldout.images, reconstructions).save(folder / "reconstructions.png")
    settings = {"images": len(heldout.images), "resolution": run.recipe.data.resolution, "latents": "posterior means"}
    record_finished(folder, run.recipe.name, run.step, seconds, model, settings, results)
    publish(model.half() if training.save_precision == "float16" else model, folder / "autoencoder")
    say(f"{folder / 'autoencoder'}: {parameter_count(model):,} parameters, held-out PSNR {results['psnr']:.2f} dB")


def record_finished(
    folder: Path,
    name: str,
    step: int,
    seconds: float,
    model: nn.Module,
    settings: Mapping[str, Any],
    results: Mapping[str, float],
) -> None:
    """Writes run.json and metrics.json of a finished run that trained an autoencoder.

    Args:
        folder: of the run.
        name: of the run.
        step: the last one.
        seconds: of training.
        model: the autoencoder, on the device that it was trained on.
        settings: how the results were measured.
        results: the measures.
    """
    device = next(model.parameters()).device
    about = {
        "name": name,
        "status": "complete",
        "ended": timestamp(),
        "step": step,
        "seconds": round(seconds, 3),
        "parameters": parameter_count(model),
        "versions": versions(),
        "hardware": hardware(device, processes=1),
        **peak_memory(device),
    }
    write_text(folder / "run.json", json.dumps(about, indent=1) + "\n")
    metrics = {"settings": settings, "results": results, "provenance": {"run": str(folder), **about}}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def parameter_count(model: nn.Module) -> int:
    """Number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def publish(model: Any, folder: Path) -> None:
    """Saves for diffusers, under a temporary name until it is complete."""
    partial = folder.with_name(f".incomplete-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    os.replace(partial, folder)


def sheet(images: Tensor, reconstructions: Tensor) -> Image.Image:
    """Rows of images (N, 3, R, R), the first of them where there are many, each above the row of reconstructions."""
    count = min(len(images), SHEET_COLUMNS * SHEET_ROWS)
    size = images.shape[-1]
    rows = -(-count // SHEET_COLUMNS)
    sheet = Image.new("RGB", (min(count, SHEET_COLUMNS) * size, 2 * rows * size))
    for index in range(count):
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(to_pil(images[index]), (column * size, 2 * row * size))
        sheet.paste(to_pil(reconstructions[index]), (column * size, (2 * row + 1) * size))
    return sheet


def readable(source: ImageSource, indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
    """The images and their labels; those that can't be decoded are counted, named in the log and left out.

    Raises:
        DataError: none can be decoded.
    """
    skipped = []
    for index in indices:
        try:
            yield source[index]
        except UnreadableImage as error:
            logger.warning("skipped: %s", error)
            skipped.append(error)
    if len(skipped) == len(indices):
        raise DataError(f"data.source: none of the {len(indices)} images can be read; the first: {skipped[0]}")
    if skipped:
        logger.warning("skipped %d of %d images that can't be read", len(skipped), len(indices))
