"""What can be set about training an autoencoder: one YAML file, one autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..config import DataConfig
from ..sections import Fraction, MixedPrecision, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class ArchitectureConfig(Section):
    """The autoencoder's shape: one level a number in `block_channels`, the first at full resolution."""

    block_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (64, 128, 256, 256)
    latent_channels: PositiveInt = 4
    layers_per_block: PositiveInt = 1  # residual blocks a level of the encoder; the decoder has one more
    norm_groups: PositiveInt = 16  # of 4 channels or more: CPUs are many times slower on those of 2
    mid_attention: bool = True

    @model_validator(mode="after")
    def _divisible(self) -> ArchitectureConfig:
        for channels in self.block_channels:
            if channels % self.norm_groups:
                raise ValueError(f"block_channels: {channels} is not a multiple of norm_groups={self.norm_groups}")
        return self

    @property
    def downsampling(self) -> int:
        """f: image pixels a side of one latent pixel."""
        return 2 ** (len(self.block_channels) - 1)


class CropConfig(Section):
    """How training crops are cut from the images; of held-out images the central square is taken."""

    min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0  # smallest crop as a share of an image's short side


_CROPS = "every training step cuts its own random crops, as crops.min_scale says, and of held-out images the centre"
# Keys of the section `data` that say how latents are cached, and what there is instead.
UNUSED_DATA = {
    "data.crop": _CROPS,
    "data.crops_per_image": _CROPS,
    "data.cache": "images are kept in memory, and no latents are cached",
}


def refuse_unused(recipe: Section, unused: Mapping[str, str]) -> None:
    """Refuses keys that nothing reads here, where they are given other values than their defaults.

    Args:
        recipe: that has them.
        unused: dotted keys, and what there is instead.

    Raises:
        ValueError: keys have been set; the message lists all of them.
    """
    problems = []
    for key, instead in unused.items():
        name, _, field = key.partition(".")
        section = getattr(recipe, name)
        value = getattr(section, field)
        if value != type(section).model_fields[field].default:
            problems.append(f"{key}={value} has no use here: {instead}; leave it out")
    if problems:
        raise ValueError("; ".join(problems))


class ReconstructionConfig(Section):
    """pixel + pyramid_weight · pyramid + kl_weight · KL + adversarial_weight · balance · adversarial."""

    pixel: Literal["l1", "l2"] = "l1"
    pyramid_weight: NonNegativeFloat = 1.0
    pyramid_levels: PositiveInt = 3
    kl_weight: NonNegativeFloat = 1e-6  # of the KL of an image in nats, over its number of pixel values
    adversarial_weight: NonNegativeFloat = 0.0  # relative to the gradient of the reconstruction at the last layer
    adversarial_start: NonNegativeInt = 0  # step from which the discriminator is trained and used
    discriminator_channels: Annotated[int, Field(gt=0, multiple_of=8)] = 32


class OptimisationConfig(Section):
    """Optimisation, and how often it is looked at."""

    steps: PositiveInt = 2000
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 1e-3  # warmed up, then a cosine down to zero
    warmup_steps: NonNegativeInt = 100
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    clip_norm: PositiveFloat | None = 1.0
    precision: MixedPrecision = "no"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995  # of the weights that are saved; 0: the last ones
    log_every: PositiveInt = 20
    checkpoint_every: PositiveInt = 500
    heldout_images: PositiveInt = 256  # how many held-out images the PSNR is measured on
    save_precision: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _warm_up_ends(self) -> OptimisationConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} is not before steps={self.steps}")
        return self


class AutoencoderTrainingConfig(OptimisationConfig):
    """The same, and the latents' scale."""

    statistics_images: PositiveInt = 1024  # training crops whose latents set scaling_factor and shift_factor


class AutoencoderRecipe(Section):
    """One autoencoder: from images to a diffusers folder."""

    name: str = "autoencoder"
    output: str | None = None  # the run's folder; by default runs/NAME
    seed: NonNegativeInt = 0
    data: DataConfig = DataConfig()
    crops: CropConfig = CropConfig()
    architecture: ArchitectureConfig = ArchitectureConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    training: AutoencoderTrainingConfig = AutoencoderTrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> AutoencoderRecipe:
        refuse_unused(self, UNUSED_DATA)
        factor = self.architecture.downsampling
        if self.data.resolution % factor:
            raise ValueError(
                f"data.resolution={self.data.resolution} is not a multiple of {factor}, the downsampling of "
                f"architecture.block_channels={list(self.architecture.block_channels)}"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.output).expanduser() if self.output else Path("runs") / self.name
