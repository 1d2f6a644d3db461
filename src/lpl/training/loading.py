"""From a recipe or a checkpoint to a denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ..config import CustomTermConfig, Recipe, SelfPerceptualConfig
from ..denoisers import ClassConditionalMMDiT
from .checkpoints import (
    CheckpointError,
    initialize,
    load_weights,
    read_state,
    resolve_checkpoint,
    trained_recipe,
    verify,
)


def build_denoiser(recipe: Recipe, num_classes: int, latent_shape: tuple[int, int, int]) -> ClassConditionalMMDiT:
    """A recipe's denoiser with random weights that the recipe's seed alone decides.

    Args:
        recipe: its sections `denoiser` and `seed`.
        num_classes: how many classes the data has.
        latent_shape: (C, h, w).
    """
    config = recipe.denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        denoiser = ClassConditionalMMDiT(
            latent_channels=latent_shape[0],
            num_classes=num_classes,
            preset=config.preset,
            patch_size=config.patch_size,
            latent_size=latent_shape[1],
            qk_norm=config.qk_norm,
            max_tokens_per_side=config.max_tokens_per_side,
            label_dropout=config.label_dropout,
        )
    denoiser.set_gradient_checkpointing(config.gradient_checkpointing)
    return denoiser


def initial_checkpoint(recipe: Recipe) -> Path | None:
    """The checkpoint that post-training begins from, or None for a run that begins from random weights.

    Raises:
        CheckpointError: there is none at `training.initial_checkpoint`, or it was trained to predict something else.
    """
    if recipe.training.initial_checkpoint is None:
        return None
    checkpoint = resolve_checkpoint(recipe.training.initial_checkpoint)
    trained = trained_recipe(checkpoint).diffusion
    names = ["path", "prediction_type", "num_timesteps"] if trained.path == "ddpm" else ["path"]
    for name in names:
        before, now = getattr(trained, name), getattr(recipe.diffusion, name)
        if before != now:
            raise CheckpointError(
                f"{checkpoint}: was trained with diffusion.{name}={before}, and the recipe has {now}; its weights "
                "would mean something else"
            )
    return checkpoint


def compares_in_the_start(recipe: Recipe) -> bool:
    """Whether a term of the objective is, or may be, made from the weights that training starts from."""
    return any(isinstance(term, SelfPerceptualConfig | CustomTermConfig) for term in recipe.objective.terms.values())


def resumed_initial_checkpoint(recipe: Recipe, checkpoint: Path) -> Path | None:
    """The checkpoint that a run which is resumed did begin from; where no term compares in it, it may be gone.

    `training.initial_checkpoint` may have newer ones by now.

    Args:
        recipe: of the run.
        checkpoint: from which it is resumed.

    Raises:
        CheckpointError: a term compares in the initial checkpoint's weights, and it is gone or damaged.
    """
    recorded = read_state(checkpoint).get("initial_checkpoint")
    if recorded is not None and compares_in_the_start(recipe):
        try:
            verify(Path(recorded))
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}. {checkpoint} was trained from it, with an objective that goes on comparing in its weights: "
                "put it back, or give a new run another output"
            ) from None
    return None if recorded is None else Path(recorded)


def load_initial_weights(denoiser: ClassConditionalMMDiT, checkpoint: Path, weights: Literal["raw", "ema"]) -> None:
    """Begins post-training from a checkpoint's weights; the resolution may differ, nothing else.

    Raises:
        CheckpointError: the checkpoint lacks the average, or is of another model; the message lists what differs.
    """
    initialize(denoiser, load_weights(checkpoint, weights), str(checkpoint))


def load_denoiser(
    run_or_checkpoint: str | Path, weights: Literal["ema", "raw"] = "ema", device: str | torch.device = "cpu"
) -> tuple[ClassConditionalMMDiT, Recipe, dict[str, Any]]:
    """Loads a trained denoiser for sampling.

    Args:
        run_or_checkpoint: a run's folder (its newest checkpoint) or one checkpoint's.
        weights: "ema", the average, or "raw", the weights being trained.
        device: where to put it.

    Returns:
        The denoiser, in float32 and evaluation mode; the recipe it was trained with; and what else the checkpoint
        knows: "checkpoint" (its folder), "step", "seconds", "classes", "latent_shape", "weights".

    Raises:
        CheckpointError: there is no complete checkpoint, it is damaged, or it has no average yet.
    """
    checkpoint = resolve_checkpoint(run_or_checkpoint)
    state = read_state(checkpoint)
    denoiser = ClassConditionalMMDiT(**state["denoiser"])
    denoiser.load_state_dict(load_weights(checkpoint, weights))
    denoiser.requires_grad_(False).eval().to(device)
    information = {name: state[name] for name in ("step", "seconds", "classes", "latent_shape")}
    information |= {"checkpoint": str(checkpoint), "weights": weights}
    return denoiser, trained_recipe(checkpoint), information
