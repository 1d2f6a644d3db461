"""The stages of the package's commands, and what would stand out among them.

Each profile runs a command as it is and times, from outside, the functions named here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from PIL import Image
from torch import Tensor

import lpl.data.encoding as encoding_module
import lpl.evaluation.run as evaluation_run
import lpl.evaluation.summary as summary_module
import lpl.losses.perceptual as perceptual_module
import lpl.training.objective as objective_module
import lpl.training.sampling as sampling_module
import lpl.training.trainer as trainer_module
from lpl.autoencoders import Autoencoder, load_autoencoder
from lpl.config import Recipe
from lpl.data.writing import CacheWriter
from lpl.denoisers import ClassConditionalMMDiT
from lpl.evaluation.reference import ReferenceImages
from lpl.evaluation.samples import SampleSet
from lpl.evaluation.sliced_wasserstein import PatchSampler
from lpl.losses import LatentPerceptualLoss
from lpl.training.batches import BatchSource
from lpl.training.ema import EMA
from lpl.training.metrics import TermWindow
from lpl.training.objective import Objective
from lpl.training.recorder import Recorder
from lpl.training.run_folder import RunFolder
from lpl.training.terms import TrainingBatch
from lpl.training.terms.latent_perceptual import LatentPerceptualTerm

from .interleaved import synchronize
from .stopwatch import REST, Stopwatch, replaced, watching

# By name: the package's attribute `evaluate` is the function.
evaluate_module = importlib.import_module("lpl.evaluation.evaluate")

DATA, EMA_STAGE, LOGGING, GRADIENT_RATIO = "waiting for data", "average (EMA)", "logging", "gradient ratio"
FORWARD, PERCEPTUAL, BACKWARD = "denoiser, forward", "perceptual, decoder", "backward, denoiser"
PERCEPTUAL_BACKWARD = "backward, perceptual"


@dataclass(frozen=True)
class Profile:
    """Where a command's time went.

    Attributes:
        name: of the command.
        what: was done in that time.
        total: seconds.
        seconds: by stage, which add up to the total.
        calls: by stage.
        threads: seconds by stage in other threads, beside the total.
        notes: facts worth knowing.
        numbers: what remarks are made of.
    """

    name: str
    what: str
    total: float
    seconds: dict[str, float]
    calls: dict[str, int]
    threads: dict[str, float]
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def share(self, stage: str) -> float:
        """Of the total."""
        return self.seconds.get(stage, 0.0) / self.total


def profile_encoding(recipe: Recipe) -> Profile:
    """Images into a latent cache; `LPL_CACHE` must name a folder without it."""
    autoencoder = _autoencoder(recipe)
    watch = _stopwatch()
    stages: dict[str, list[tuple[Any, str]]] = {
        "opening the images": [(encoding_module, "open_images")],
        "fingerprints": [(encoding_module, "cache_key")],
        "autoencoder": [(encoding_module, "encode_batch")],
        "writing": [(CacheWriter, "append"), (CacheWriter, "close")],
        "reading and cropping": [(encoding_module, "_read")],
    }
    waiting = partial(watch.waited_for, name=DATA)
    with replaced(encoding_module, "read_crops", waiting), watching(watch, stages):
        cache = encoding_module.build_latent_cache(recipe.data, autoencoder, recipe.autoencoder.batch_size)
    return _profile(watch, "Encoding", f"{len(cache)} latents of {recipe.data.resolution}²")


def profile_training(recipe: Recipe, warmup: int, name: str) -> Profile:
    """Training, after `warmup` steps."""
    watch = _stopwatch()
    stages: dict[str, list[tuple[Any, str]]] = {
        "copy to the device": [(TrainingBatch, "to")],
        FORWARD: [(ClassConditionalMMDiT, "forward")],
        "noise, ẑ0 and ℓ2": [(Objective, "__call__")],
        PERCEPTUAL: [(LatentPerceptualTerm, "__call__")],
        "perceptual, outliers": [(perceptual_module, "find_outliers")],
        "perceptual, distances": [(LatentPerceptualLoss, "_distance")],
        GRADIENT_RATIO: [(objective_module, "_with_gradient_ratio")],
        PERCEPTUAL_BACKWARD: [(objective_module, "gradient_of")],  # in steps that measure the ratio
        BACKWARD: [(Accelerator, "backward")],
        "gradient clipping": [(Accelerator, "clip_grad_norm_")],
        "optimiser": [(AcceleratedOptimizer, "step"), (AcceleratedOptimizer, "zero_grad")],
        EMA_STAGE: [(EMA, "update")],
        LOGGING: [(TermWindow, "add"), (Recorder, "end_step"), (Recorder, "log")],
        "making batches": [(BatchSource, "step")],
        "checkpoint": [(Recorder, "save"), (Recorder, "finish"), (RunFolder, "update")],
    }
    with ExitStack() as stack:
        stack.enter_context(replaced(LatentPerceptualTerm, "__call__", partial(_noting_arrival, watch)))
        stack.enter_context(watching(watch, stages))
        stack.enter_context(replaced(trainer_module, "prefetched", partial(_counted_batches, watch, warmup)))
        trainer_module.train(recipe)
    seconds = dict(watch.seconds)
    checkpoint = seconds.pop("checkpoint", 0.0)
    steps = recipe.training.steps - warmup
    what = f"{steps} steps of {recipe.training.batch_size}"
    notes = [f"Checkpoint, once: {checkpoint:.2f} s, not counted."]
    return _profile(watch, name, what, seconds, watch.total - checkpoint, notes)


def profile_sampling(recipe: Recipe) -> Profile:
    """Samples of the run that `recipe` trained."""
    watch = _stopwatch()
    batches: list[int] = []
    stages: dict[str, list[tuple[Any, str]]] = {
        "loading": [(sampling_module, "load_denoiser"), (sampling_module, "load_autoencoder")],
        FORWARD: [(ClassConditionalMMDiT, "forward")],
        "decoding": [(Autoencoder, "decode")],
        "PNG files": [(Image.Image, "save"), (sampling_module, "to_pil")],
        "grid": [(sampling_module, "image_grid")],
        "initial noise": [(sampling_module, "initial_noise")],
    }
    with replaced(ClassConditionalMMDiT, "forward", partial(_noting_batches, batches)), watching(watch, stages):
        sampling_module.sample_run(recipe.folder, recipe.sampling)
    settings = recipe.sampling
    notes = [
        f"The denoiser was called {len(batches)} times, on batches of {', '.join(map(str, sorted(set(batches))))}."
    ]
    numbers = {
        "calls": float(len(batches)),
        "largest": float(max(batches)),
        "batch": min(settings.batch_size, settings.count),
    }
    what = f"{settings.count} images, {settings.method}, {settings.steps} steps, guidance {settings.guidance_scale:g}"
    return _profile(watch, "Sampling", what, notes=notes, numbers=numbers | {"guidance": settings.guidance_scale})


def profile_evaluation(recipe: Recipe) -> Profile:
    """Measures of the samples of the run that `recipe` trained."""
    watch = _stopwatch()
    stages: dict[str, list[tuple[Any, str]]] = {
        "loading": [(evaluation_run, "load_autoencoder"), (evaluation_run, "open_images")],
        "reading samples": [(SampleSet, "__getitem__")],
        "reading and cropping the reference": [(ReferenceImages, "__getitem__")],
        "reconstructions": [(Autoencoder, "encode"), (Autoencoder, "decode")],
        "patches": [(PatchSampler, "add"), (PatchSampler, "finish")],
        "spectra": [(summary_module, "radial_power_spectrum")],
        "contrast and saturation": [(summary_module, "contrast"), (summary_module, "saturation")],
        "rounding to 8 bits": [(summary_module, "to_bytes"), (summary_module, "from_bytes")],
        "comparing": [(evaluate_module, "compare")],
    }
    with watching(watch, stages):
        evaluation_run.evaluate_run(recipe.folder, recipe.evaluation)
    return _profile(watch, "Evaluation", f"{recipe.sampling.count} samples")


def remarks(profile: Profile) -> list[str]:
    """What stands out in a profile: what one would not expect to pay for."""
    found = []
    for stage, limit in (("opening the images", 0.1), ("fingerprints", 0.1), ("loading", 0.2), ("PNG files", 0.1)):
        if profile.share(stage) > limit:
            found.append(f"{profile.name}: {stage} takes {profile.share(stage):.1%} (more than {limit:.0%}).")
    if "Training" in profile.name:
        small = profile.share(EMA_STAGE) + profile.share(LOGGING)
        if small > 0.02:
            found.append(f"{profile.name}: average and logging take {small:.1%} (at most 2 % wanted).")
        if profile.share(DATA) > 0.01:
            found.append(f"{profile.name}: waits for data {profile.share(DATA):.1%} of the time (never wanted).")
        if profile.share(GRADIENT_RATIO) > 0.02:
            found.append(
                f"{profile.name}: the gradient ratio that is logged takes {profile.share(GRADIENT_RATIO):.1%}."
            )
    guided = profile.numbers.get("guidance", 1.0) != 1.0
    if guided and profile.numbers["largest"] != 2 * profile.numbers["batch"]:
        found.append(f"{profile.name}: guidance does not run in one batch of twice the size.")
    if profile.share(REST) > 0.1:
        found.append(f"{profile.name}: {profile.share('everything else'):.1%} is in no stage named here.")
    return found


def _profile(
    watch: Stopwatch,
    name: str,
    what: str,
    seconds: dict[str, float] | None = None,
    total: float | None = None,
    notes: list[str] | None = None,
    numbers: dict[str, float] | None = None,
) -> Profile:
    seconds = dict(watch.seconds) if seconds is None else seconds
    total = watch.total if total is None else total
    return Profile(name, what, total, seconds, dict(watch.calls), dict(watch.threads), notes or [], numbers or {})


def _stopwatch() -> Stopwatch:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Stopwatch(partial(synchronize, device))


def _autoencoder(recipe: Recipe) -> Autoencoder:
    config = recipe.autoencoder
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_autoencoder(config.path, config.subfolder, getattr(torch, config.precision), device)


def _counted_batches(watch: Stopwatch, warmup: int, prefetched: Any) -> Any:
    """The trainer's batches; the stopwatch begins anew after `warmup` of them."""

    def generate(*arguments: Any) -> Iterator[Any]:
        watch.reset()
        for number, item in enumerate(watch.waited_for(prefetched, DATA)(*arguments)):
            if number == warmup:
                watch.reset()
            yield item

    return generate


def _noting_arrival(watch: Stopwatch, call: Any) -> Any:
    """The perceptual term, after whose backward pass, when the gradient at ẑ0 is known, a new stage begins."""

    def compare(self: Any, prediction: Any) -> Any:
        if prediction.predicted.requires_grad:
            prediction.predicted.register_hook(lambda _: watch.relabel(BACKWARD, PERCEPTUAL_BACKWARD))
        return call(self, prediction)

    return compare


def _noting_batches(batches: list[int], forward: Any) -> Any:
    def call(self: Any, latents: Tensor, *arguments: Any) -> Any:
        batches.append(len(latents))
        return forward(self, latents, *arguments)

    return call
