"""Draws a run's samples and writes them as images."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from ..autoencoders import load_autoencoder
from ..config import AutoencoderConfig, SamplingConfig
from ..data import to_pil
from ..denoisers import ClassConditionalMMDiT
from ..diffusion import DiffusionPath, make_path
from ..diffusion.guidance import Denoiser, guided
from ..diffusion.samplers import initial_noise, sample_generators, sample_latents
from .display import say_where_slow
from .loading import load_denoiser
from .run_folder import write_text

GRID_IMAGES = 64  # shown in grid.png, at most
GRID_GAP = 2  # pixels between them


def sample_run(
    run: str | Path,
    config: SamplingConfig,
    set_name: str = "default",
    progress: bool = True,
    checkpoint: str | Path | None = None,
    autoencoder_config: AutoencoderConfig | None = None,
) -> Path:
    """Draws samples with one of a run's checkpoints and writes them to RUN/samples/SET.

    Sample i has noise of its own, seeded by (config.seed, i), and label i of `config.labels` in turn, or class i modulo
    the number of classes; the same seed therefore gives the same images whatever the batch size. A set that exists is
    replaced when the new one is complete.

    Args:
        run: the run's folder.
        config: how to sample.
        set_name: name of the folder within RUN/samples.
        progress: whether to show a progress bar, on standard error.
        checkpoint: which one to sample from; by default the newest.
        autoencoder_config: where the autoencoder lies now, where that is not where it lay while training.

    Returns:
        The folder: 000000.png …, samples.json and grid.png.

    Raises:
        CheckpointError: the run has no complete checkpoint, or no average yet.
        ValueError: a label the run does not know, a name that is no folder's, or settings that don't fit its path.
    """
    run = Path(run)
    if not set_name or Path(set_name).name != set_name or set_name.startswith("."):
        raise ValueError(f"set_name: got {set_name!r}, takes the name of one folder")
    say_where_slow({"sampling.precision": config.precision}, progress)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    denoiser, recipe, information = load_denoiser(checkpoint or run, config.weights, device)
    labels = sample_labels(config, information["classes"])
    path = make_path(recipe.diffusion)
    codec = autoencoder_config or recipe.autoencoder
    autoencoder = load_autoencoder(codec.path, codec.subfolder, getattr(torch, codec.precision), device)

    temporary = run / f".samples-{set_name}"  # not within samples/, where it would pass for a set
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    shown: list[Image.Image] = []
    with _progress_bar(progress) as bar:
        task = bar.add_task(f"Sampling {run.name}", total=config.count)
        for start in range(0, config.count, config.batch_size):
            indices = range(start, min(start + config.batch_size, config.count))
            report = partial(_report, bar, task, indices)
            latents = draw_latents(denoiser, path, information["latent_shape"], config, indices, labels, report)
            parts = latents.split(codec.batch_size)
            images = [to_pil(image) for part in parts for image in autoencoder.decode(part)]
            for index, image in zip(indices, images, strict=True):
                image.save(temporary / f"{index:06d}.png")
            shown += images[: GRID_IMAGES - len(shown)]
    image_grid(shown).save(temporary / "grid.png")
    details = {
        "labels": labels,
        "seed": config.seed,
        "settings": config.model_dump(mode="json"),
        "checkpoint": information["checkpoint"],
        "step": information["step"],
        "classes": information["classes"],
    }
    write_text(temporary / "samples.json", json.dumps(details, indent=1, ensure_ascii=False) + "\n")
    return publish(temporary, run / "samples" / set_name)


def sample_labels(config: SamplingConfig, classes: Sequence[str]) -> list[int]:
    """The label of every sample: those asked for in turn, or every class in turn.

    Raises:
        ValueError: a label that no class has.
    """
    wanted = config.labels or tuple(range(len(classes)))
    unknown = [label for label in wanted if label >= len(classes)]
    if unknown:
        raise ValueError(f"sampling.labels: got {unknown[0]}, this run takes 0 to {len(classes) - 1}")
    return [wanted[index % len(wanted)] for index in range(config.count)]


def draw_latents(
    denoiser: ClassConditionalMMDiT,
    path: DiffusionPath,
    latent_shape: Sequence[int],
    config: SamplingConfig,
    indices: Sequence[int],
    labels: Sequence[int],
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Latents of some of the samples, float32 (len(indices), C, h, w).

    Args:
        denoiser: the model.
        path: it was trained on.
        latent_shape: (C, h, w).
        config: how to sample.
        indices: which samples.
        labels: of all samples.
        progress: called with the share done.
    """
    device = next(denoiser.parameters()).device
    return sample_latents(
        path,
        in_precision(guided(denoiser, config.guidance_scale, config.guidance_interval), config.precision),
        initial_noise(config.seed, indices, latent_shape, device),
        torch.tensor([labels[index] for index in indices], device=device),
        method=config.method,
        steps=config.steps,
        eta=config.eta,
        tolerance=config.tolerance,
        generators=sample_generators(config.seed, indices) if config.eta > 0 else None,
        progress=progress,
    )


def in_precision(denoiser: Denoiser, precision: str) -> Denoiser:
    """A denoiser that runs under autocast and gives float32, so that rounding doesn't build up over a sampler's steps.

    Args:
        denoiser: in float32.
        precision: "bf16" or "fp16"; "no" gives the denoiser itself.
    """
    if precision == "no":
        return denoiser
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def predict(latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, dtype):
            return denoiser(latents, conditioning, labels).float()

    return predict


def image_grid(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size in a square-ish grid, row by row, on white."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].width + GRID_GAP, images[0].height + GRID_GAP
    grid = Image.new("RGB", (columns * width - GRID_GAP, rows * height - GRID_GAP), "white")
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid


def _report(bar: Progress, task: TaskID, indices: range, share: float) -> None:
    """A share of the samples `indices` is done."""
    bar.update(task, completed=indices.start + share * len(indices))


def publish(temporary: Path, final: Path) -> Path:
    """Gives a folder that is complete its name, in the place of one that has it."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    return final


def _progress_bar(enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not enabled,
    )
