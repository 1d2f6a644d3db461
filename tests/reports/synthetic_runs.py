"""Run folders as the trainer, the sampler and the evaluation would leave them, made in a moment from photographs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from skimage import data

from lpl.config import Recipe, build_recipe, dump_recipe

CLASSES = ["astronaut", "cat", "coffee", "rocket"]
BLOCKS = ["mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2", "up_blocks.3"]
MEASURES = {
    "sliced_wasserstein": {"label": "sliced Wasserstein", "better": "lower", "description": "Distance of patches."},
    "log_spectral_distance": {"label": "log-spectral distance", "better": "lower", "description": "In dB."},
    "high_frequency_ratio": {"label": "high frequencies", "better": "one", "description": "Power above 0.25."},
    "contrast": {"label": "contrast", "better": None, "description": "Standard deviation of luminance."},
    "frechet_distance": {"label": "Fréchet distance", "better": "lower", "description": "Between Gaussians."},
    "kernel_distance": {"label": "kernel distance", "better": "lower", "description": "Unbiased."},
    "precision": {"label": "precision", "better": "higher", "description": "Share of samples near the data."},
}
RESULTS = {
    "sliced_wasserstein": 21.4,
    "sliced_wasserstein/64": 30.1,
    "sliced_wasserstein/32": 12.7,
    "log_spectral_distance": 2.31,
    "high_frequency_ratio": 0.52,
    "contrast": 0.213,
    "frechet_distance": 48.2,
    "kernel_distance": 0.0123,
    "kernel_distance_std": 0.0004,
    "precision": 0.61,
}
NOTE = "recall: 8 samples are fewer than neighbours + 1"


def write_run(
    folder: Path,
    perceptual: bool = False,
    seed: int = 0,
    count: int = 8,
    side: int = 64,
    steps: int = 300,
    sharpen: float = 0.0,
    labels: list[int] | None = None,
    results: dict[str, float] | None = None,
    extractor: str = "inception",
    **recipe: Any,
) -> Path:
    """Writes everything that a finished and evaluated run leaves behind, and returns its folder."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(_recipe(folder.name, perceptual, **recipe)), encoding="utf-8")
    _dump(folder / "run.json", _info(steps, perceptual))
    rows = [_row(step, perceptual) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _dump(folder / "metrics.json", _metrics(RESULTS if results is None else results, count, extractor, sharpen))
    write_samples(folder / "samples" / "default", seed, count, side, sharpen, labels)
    return folder


def write_samples(
    folder: Path, seed: int, count: int, side: int, sharpen: float = 0.0, labels: list[int] | None = None
) -> None:
    """Crops of photographs, blurred or sharpened, as samples 0 … count − 1."""
    folder.mkdir(parents=True)
    labels = [index % len(CLASSES) for index in range(count)] if labels is None else labels
    generator = np.random.default_rng(seed)
    for index, label in enumerate(labels):
        _picture(CLASSES[label], side, generator, sharpen).save(folder / f"{index:06d}.png")
    details = {"labels": labels, "seed": seed, "classes": CLASSES, "checkpoint": "step-00000300"}
    _dump(folder / "samples.json", {**details, "settings": {"method": "euler", "steps": 50, "guidance_scale": 1.0}})


def _picture(name: str, side: int, generator: np.random.Generator, sharpen: float) -> Image.Image:
    photograph = _photograph(name)
    span = int(generator.integers(150, min(photograph.size)))
    left, top = (int(generator.integers(0, extent - span + 1)) for extent in photograph.size)
    crop = photograph.crop((left, top, left + span, top + span)).resize((side, side), Image.Resampling.LANCZOS)
    if sharpen:
        return ImageEnhance.Sharpness(crop).enhance(sharpen)
    return crop.filter(ImageFilter.GaussianBlur(side / 90))


@cache
def _photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def _recipe(name: str, perceptual: bool, **sections: Any) -> Recipe:
    values: dict[str, Any] = {"name": name, "training": {"initial_checkpoint": "runs/pretrained", "steps": 300}}
    if perceptual:
        values["objective"] = {"perceptual": {"weight": 0.2}}
    return build_recipe({**values, **sections})


def _info(steps: int, perceptual: bool) -> dict[str, Any]:
    return {
        "status": "complete",
        "parameters": 9_812_345,
        "seconds": 214.2,
        "images_per_second": 58.1 if perceptual else 96.4,
        "peak_memory_bytes": 1_400_000_000 if perceptual else 900_000_000,
        "step": steps,
        "classes": CLASSES,
        "latent_shape": [4, 16, 16],
        "hardware": {"device": "cpu", "processes": 1, "cpu": "x86_64", "cpu_threads": 2},
        "versions": {"torch": "2.6.0", "python": "3.11.7"},
    }


@cache
def _row(step: int, perceptual: bool) -> dict[str, float]:
    generator = np.random.default_rng(step)
    noise = generator.normal(size=12)
    speed = 58.0 if perceptual else 96.0
    decay = float(np.exp(-step / 90))
    row = {
        "step": step,
        "seconds": step * 64 / speed,
        "images_per_second": speed + 3 * noise[0],
        "learning_rate": 1e-4 * min(1.0, step / 30),
        "loss": 0.62 + 0.3 * decay + 0.03 * noise[1],
        "loss/diffusion": 0.62 + 0.3 * decay + 0.03 * noise[1],
        "gradient_norm": 0.8 + 0.2 * abs(noise[2]),
    }
    if not perceptual:
        return row
    terms = {
        f"loss/perceptual/{block}": (0.1 + 0.05 * i) * (1 + decay + 0.1 * noise[i]) for i, block in enumerate(BLOCKS)
    }
    shares = {f"outliers/{block}": 0.002 * i + 0.0005 * abs(noise[i]) for i, block in enumerate(BLOCKS)}
    total = sum(terms.values())
    extra = {"loss/perceptual": total, "passed": 0.7 + 0.03 * noise[8], "gradient_ratio": 0.9 + 0.2 * abs(noise[9])}
    return {**row, "loss": row["loss"] + 0.2 * total, **extra, **terms, **shares}


def _metrics(results: dict[str, float], count: int, extractor: str, sharpen: float) -> dict[str, Any]:
    frequency = np.linspace(1 / 64, 0.5, 32)
    reference = 0.02 * frequency**-2.1
    samples = reference * (1 + (2 * frequency) ** 2 * (0.5 if sharpen else -0.6))
    spectrum = {"frequency": frequency.tolist(), "samples": samples.tolist(), "reference": reference.tolist()}
    flat = {**spectrum, "samples": (reference * 0.97).tolist()}
    reconstruction = {"count": 40, "results": {"sliced_wasserstein": 4.2}, "notes": [], "spectrum": flat}
    entry = {
        "settings": {"extractor": extractor, "reference": "holdout", "neighbours": 5, "batch_size": 64, "seed": 0},
        "results": results,
        "notes": [NOTE],
        "spectrum": spectrum,
        "baselines": {"reconstruction": reconstruction},
        "provenance": {
            "samples": {"set": "default", "count": count, "resolution": 64, "seed": 0, "checkpoint": "step-00000300"},
            "reference": {"description": "bundled photographs", "count": 40, "resolution": 64, "fingerprint": "ab12"},
            "extractor": {"spec": extractor, "name": extractor, "fingerprint": "cd34", "dimension": 2048},
        },
    }
    measures = {**MEASURES, "recall": {"label": "Recall", "better": "higher", "description": "Share of the data."}}
    return {"format": 1, "measures": measures, "sets": {"default": entry}}


def _dump(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
