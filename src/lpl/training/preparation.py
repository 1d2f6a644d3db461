"""From a recipe to everything that training needs; what can be wrong comes to light before anything takes long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs

from ..autoencoders import Autoencoder, load_autoencoder
from ..config import LatentClassifierConfig, PerceptualConfig, Recipe, TrainingConfig
from ..data import LatentCache, build_latent_cache, open_images
from ..denoisers import ClassConditionalMMDiT, count_parameters
from ..diffusion import make_path
from ..objective_sections import LatentLPIPSConfig, SelfPerceptualConfig
from .batches import BatchSource
from .checkpoints import read_state
from .display import say_where_slow
from .ema import EMA
from .latent_classifier_training import classifier_of
from .loading import (
    build_denoiser,
    compares_in_the_start,
    initial_checkpoint,
    load_initial_weights,
    resumed_initial_checkpoint,
)
from .metrics import TermWindow
from .objective import Objective
from .run_folder import ResumeError, RunFolder, hardware
from .sampling import sample_labels
from .state import TrainingState
from .terms import TermParts

LONGEST_WAIT = timedelta(hours=24)  # of the other processes, while the first one encodes the images
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")  # on which AdamW updates all weights in one kernel


def make_accelerator(training: TrainingConfig) -> Accelerator:
    """Accelerate's view of this machine: device, processes, mixed precision."""
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and training.precision == "fp16":
        raise ValueError("training.precision: fp16 needs a GPU; on this machine's CPU takes no or bf16")
    AcceleratorState._reset_state()  # a process may train several recipes, each with a precision of its own
    return Accelerator(
        cpu=on_cpu,  # says that several processes without a GPU are meant to work together
        mixed_precision=training.precision,
        # Accumulation is spelt out in the training loop: a setting of the launcher must not scale gradients once more.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
        ],
    )


def prepare(
    recipe: Recipe, accelerator: Accelerator, run: RunFolder, checkpoint: Path | None
) -> tuple[TrainingState, BatchSource]:
    """Builds a run's state, restored from its checkpoint where it has one, and its source of batches.

    Raises:
        ResumeError: the checkpoint is of other latents, or of steps of another size.
        CheckpointError: the initial checkpoint can't be used, where training begins or a term compares in its weights.
        ValueError: previews are asked for, of a class that the images don't have.
    """
    device, training = accelerator.device, recipe.training
    say_where_slow(_precisions(recipe), run.write)
    start = initial_checkpoint(recipe) if checkpoint is None else resumed_initial_checkpoint(recipe, checkpoint)
    path = make_path(recipe.diffusion)
    codec = _load_autoencoder(recipe, recipe.autoencoder.precision, device)
    latent_shape = codec.latent_shape(recipe.data.resolution)
    classes = open_images(recipe.data).classes
    if training.sample_every is not None:
        sample_labels(recipe.sampling, classes)
    denoiser = build_denoiser(recipe, len(classes), latent_shape)
    origin = None
    if start is not None and (checkpoint is None or compares_in_the_start(recipe)):
        load_initial_weights(denoiser, start, training.initial_weights)
        origin = _weights_name(start, training.initial_weights)
    denoiser.to(device).train()
    parts = TermParts(
        path=path,
        autoencoder=codec,
        decoder=_decoder(recipe, codec),
        denoiser=denoiser,
        origin=origin,
        classifier=partial(_classifier, recipe, accelerator, codec),
        device=device,
    )
    # Before encoding, so that mistakes come to light; a classifier that is to be trained encodes by itself.
    objective = Objective(path, codec, recipe.objective, parts)
    cache = _encode(recipe, accelerator, codec)

    if training.compile:
        denoiser.compile_blocks()
    batches = _batches(recipe, accelerator, cache, denoiser)
    facts = {
        "classes": cache.classes,
        "latent_shape": list(latent_shape),
        "latents": asdict(cache.info.key),
        "forward_passes": batches.slots,
        "initial_checkpoint": str(start) if start is not None else None,
        "terms": objective.facts,
    }
    state = TrainingState(
        denoiser=denoiser,
        ema=EMA(denoiser, training.ema_decay, training.ema_start, training.ema_every, training.ema_warmup),
        optimizer=make_optimizer(denoiser, training),
        objective=objective,
        scaler=accelerator.scaler,
        images_per_step=training.batch_size * batches.slots,
        facts=facts,
        window=TermWindow(tolerated=["gradient_norm"] if training.precision == "fp16" else []),
    )
    if checkpoint is not None:
        _refuse_other_facts(checkpoint, facts)
        state.restore(checkpoint)
    about = {"steps": training.steps, "parameters": count_parameters(denoiser), "samples": len(cache)}
    run.begin(state.step, {**facts, **about, "hardware": hardware(device, accelerator.num_processes)})
    accelerator.wait_for_everyone()
    return state, batches


def make_optimizer(denoiser: ClassConditionalMMDiT, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; the learning rate is set at every step."""
    device = next(denoiser.parameters()).device
    return torch.optim.AdamW(
        denoiser.parameters(),
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
        fused=device.type in FUSED_DEVICES,
    )


def _precisions(recipe: Recipe) -> dict[str, str]:
    """What training computes in, by the recipe's keys."""
    named: dict[str, str] = {"training.precision": recipe.training.precision}
    for key, term in recipe.objective.terms.items():
        if isinstance(term, PerceptualConfig | LatentLPIPSConfig | SelfPerceptualConfig):
            named[f"objective.{key}.precision"] = term.precision
    return named


def _load_autoencoder(recipe: Recipe, precision: str, device: torch.device) -> Autoencoder:
    config = recipe.autoencoder
    return load_autoencoder(config.path, config.subfolder, dtype=getattr(torch, precision), device=device)


def _decoder(recipe: Recipe, codec: Autoencoder) -> Autoencoder:
    """The autoencoder for a latent perceptual loss: loaded anew where that wants digits that `codec` has lost."""
    for term in recipe.objective.terms.values():
        if isinstance(term, PerceptualConfig) and recipe.autoencoder.precision not in ("float32", term.precision):
            return _load_autoencoder(recipe, term.precision, codec.device)
    return codec


def _weights_name(checkpoint: Path, weights: str) -> str:
    """What tells a checkpoint's weights from others, wherever it lies."""
    file = "model.safetensors" if weights == "raw" else "ema.safetensors"
    return f"{checkpoint.name}, {file}, crc32 {read_state(checkpoint)['files'][file]['crc32']:08x}"


def _encode(recipe: Recipe, accelerator: Accelerator, codec: Autoencoder) -> LatentCache:
    """Images → latents, once: the first process encodes, and the others find the result."""
    with accelerator.main_process_first():
        return build_latent_cache(
            recipe.data, codec, recipe.autoencoder.batch_size, progress=accelerator.is_main_process
        )


def _classifier(recipe: Recipe, accelerator: Accelerator, codec: Autoencoder, config: LatentClassifierConfig) -> Path:
    """A classifier of the recipe's latents, once: the first process trains it, and the others find the result."""
    with accelerator.main_process_first():
        return classifier_of(recipe, codec, config, progress=accelerator.is_main_process)


def _batches(
    recipe: Recipe, accelerator: Accelerator, cache: LatentCache, denoiser: ClassConditionalMMDiT
) -> BatchSource:
    return BatchSource(
        cache=cache,
        path=make_path(recipe.diffusion),
        denoiser=denoiser,
        seed=recipe.seed,
        batch_size=recipe.training.batch_size,
        accumulation=recipe.training.accumulation,
        flip=recipe.data.flip,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        pin=accelerator.device.type == "cuda",
    )


def _refuse_other_facts(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """What a recipe does not fix must not have changed either: images, the autoencoder's weights, processes."""
    before = read_state(checkpoint)
    if before["forward_passes"] != facts["forward_passes"]:
        raise ResumeError(
            f"{checkpoint}: a step took {before['forward_passes']} forward passes over all processes, and now takes "
            f"{facts['forward_passes']}; set training.accumulation so that accumulation times processes is the same"
        )
    if before.get("terms", {}) != facts["terms"]:  # checkpoints from before there were terms of other kinds have none
        raise ResumeError(
            f"{checkpoint}: its objective depended on {before.get('terms', {})}, and now does on {facts['terms']}; put "
            "files and checkpoints back as they were, or give the new run another output"
        )
    changed = [name for name, value in facts["latents"].items() if before["latents"].get(name) != value]
    if changed or before["classes"] != facts["classes"]:
        raise ResumeError(
            f"{checkpoint}: was trained on other latents: {', '.join(changed) or 'classes'} changed since; put the "
            "data and the autoencoder back as they were, or give the new run another output"
        )
