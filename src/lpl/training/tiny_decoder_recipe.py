"""What can be set about distilling a tiny decoder: one YAML file, one decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from ..config import (
    AutoencoderConfig,
    DataConfig,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)
from .autoencoder_recipe import UNUSED_DATA, CropConfig, OptimisationConfig, refuse_unused

UNUSED = {**UNUSED_DATA, "autoencoder.batch_size": "training.batch_size says how many images are encoded at once"}


class TinyArchitectureConfig(Section):
    """An AutoencoderTiny's shape; it gets as many levels as the full autoencoder's downsampling asks for."""

    channels: PositiveInt = 64  # of every level
    blocks: PositiveInt = 3  # residual blocks a level of the decoder; the level at full resolution has one
    encoder_blocks: PositiveInt = 1  # residual blocks a level of the encoder


class DistillationConfig(Section):
    """pixel + pyramid_weight · pyramid + feature_weight · features + encoder_weight · encoder."""

    pixel: Literal["l1", "l2"] = "l1"  # between the images that both decoders make of the same latents
    pyramid_weight: NonNegativeFloat = 1.0
    pyramid_levels: PositiveInt = 3
    feature_weight: NonNegativeFloat = 0.0  # of what a linear map of the tiny's features misses of the full one's
    encoder_weight: PositiveFloat = 1.0  # of the encoder's squared error on the latents
    latent_noise: NonNegativeFloat = 0.5  # largest standard deviation added to latents: predictions are not exact


class TinyDecoderRecipe(Section):
    """One distillation: from an autoencoder and images to a diffusers folder."""

    name: str = "tiny-decoder"
    output: str | None = None  # the run's folder; by default runs/NAME
    seed: NonNegativeInt = 0
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig()
    crops: CropConfig = CropConfig()
    architecture: TinyArchitectureConfig = TinyArchitectureConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: OptimisationConfig = OptimisationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> TinyDecoderRecipe:
        refuse_unused(self, UNUSED)
        return self

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.output).expanduser() if self.output else Path("runs") / self.name
