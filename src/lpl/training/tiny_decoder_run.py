"""One tiny decoder in distillation: the two networks, the optimiser, one step, and its state."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from ..autoencoders import Autoencoder, DecoderFeatures
from ..autoencoders.blocks import layout_of
from ..data.order import seeded_generator
from .autoencoder_run import learning_rate
from .checkpoints import flatten_optimizer, load_tensors, read_state, restore_optimizer, save_checkpoint
from .clock import TrainingClock
from .crops import CropMemory
from .ema import EMA
from .metrics import TermWindow
from .reconstruction import pixel_distance, pyramid_distance
from .tiny_decoder_recipe import TinyArchitectureConfig, TinyDecoderRecipe


def build_tiny(config: TinyArchitectureConfig, autoencoder: Autoencoder) -> Any:
    """An AutoencoderTiny of random weights for the latents that a diffusion model sees of the full autoencoder.

    Published tiny autoencoders (the TAESD family) decode the diffusion model's latents as they are, and so does this
    one: where the full one divides by a scaling factor, adds a shift or unpacks channels, the tiny has learned it. Its
    configuration says so: scaling_factor 1, shift_factor 0.

    Raises:
        ValueError: the full autoencoder's downsampling is not a power of two.
    """
    levels = autoencoder.downsampling.bit_length()
    if autoencoder.downsampling != 2 ** (levels - 1):
        raise ValueError(
            f"autoencoder: shrinks by {autoencoder.downsampling}, a tiny decoder doubles: takes 2, 4, 8, …"
        )
    return AutoencoderTiny(
        latent_channels=autoencoder.latent_channels,
        encoder_block_out_channels=(config.channels,) * levels,
        decoder_block_out_channels=(config.channels,) * levels,
        num_encoder_blocks=(config.encoder_blocks,) * levels,
        num_decoder_blocks=(*(config.blocks,) * (levels - 1), 1),
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def decode_with_features(model: Any, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What an AutoencoderTiny decodes, about [−1, 1], and what its blocks output on the way."""
    layout = layout_of(model)
    assert layout is not None
    hidden, _ = layout.stem(latents)
    features = {}
    for name, block in layout.blocks.items():
        features[name] = hidden = block(hidden)
    return model.decoder.layers[-1](hidden) * 2 - 1, features


class FeatureRegression(nn.Module):
    """How much of the full decoder's features a linear map of the tiny's features misses, level by level.

    At each resolution that both have, the last blocks are compared. The full decoder's features are standardised by
    channel, so that 1 is what a constant would miss.

    Args:
        autoencoder: whose decoder is to be matched.
        model: the AutoencoderTiny.
    """

    def __init__(self, autoencoder: Autoencoder, model: Any) -> None:
        super().__init__()
        probe = torch.zeros(1, autoencoder.latent_channels, 4, 4, device=autoencoder.device)
        every = DecoderFeatures(autoencoder.model)
        with torch.no_grad():
            full = {maps.shape[-1]: (name, maps.shape[1]) for name, maps in every(probe).items()}
            tiny = {
                maps.shape[-1]: (name, maps.shape[1]) for name, maps in decode_with_features(model, probe)[1].items()
            }
        common = sorted(set(full) & set(tiny))
        self.pairs = {tiny[size][0]: full[size][0] for size in common}
        self.target = DecoderFeatures(autoencoder.model, blocks=list(self.pairs.values()))
        self.maps = nn.ModuleList(nn.Conv2d(tiny[size][1], full[size][1], 1) for size in common)

    def forward(self, latents: Tensor, features: dict[str, Tensor]) -> Tensor:
        """The mean squared error of the regression over channels, then over levels; a scalar."""
        with torch.no_grad():
            targets = self.target(latents)
        errors = []
        for (tiny, full), convolution in zip(self.pairs.items(), self.maps, strict=True):
            target = targets[full].float()
            variance, mean = torch.var_mean(target, dim=(0, 2, 3), correction=0, keepdim=True)
            floor = 1e-3 * variance.mean()  # channels that hardly vary have nothing to be told
            standardised = (target - mean) / (variance + floor).sqrt()
            errors.append((convolution(features[tiny]) - standardised).square().mean())
        return torch.stack(errors).mean()


class TinyDecoderRun:
    """A tiny decoder in distillation, on the full autoencoder's device.

    Everything random in step n comes from (recipe.seed, n), so that a run resumed on the CPU in float32 gives the
    weights of one that never stopped.

    Args:
        recipe: what to train, and how.
        autoencoder: the full one.
        memory: the training images.
        contents: fingerprints that checkpoints record, see `checkpoint_of`.
    """

    def __init__(
        self, recipe: TinyDecoderRecipe, autoencoder: Autoencoder, memory: CropMemory, contents: Mapping[str, str]
    ) -> None:
        self.recipe = recipe
        self.autoencoder = autoencoder
        self.memory = memory
        self.contents = dict(contents)
        self.device = autoencoder.device
        self.regression: FeatureRegression | None = None
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model = build_tiny(recipe.architecture, autoencoder).to(self.device)
            if recipe.distillation.feature_weight > 0:
                self.regression = FeatureRegression(autoencoder, self.model).to(self.device)
        self.model.to(memory_format=torch.channels_last)
        self.ema = EMA(self.model, recipe.training.ema_decay)
        self.step = 0
        self.window = TermWindow()
        self.clock = TrainingClock()
        config = recipe.training
        self.networks = nn.ModuleDict({"model": self.model})
        if self.regression is not None:
            self.networks["maps"] = self.regression.maps
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )

    def advance(self) -> None:
        """Makes one step; its terms go to `window`."""
        self.step += 1
        config = self.recipe.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        latents = self._latents(seeded_generator(self.recipe.seed, self.step))
        terms = self._terms(latents, self.autoencoder.decode(latents))
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.networks.parameters(), config.clip_norm)
        self.optimizer.step()
        self.ema.update(self.step)
        self.window.add(self.step, [dict(terms)])

    def averaged(self) -> Any:
        """A copy of the tiny autoencoder with the averaged weights, in float32."""
        model = build_tiny(self.recipe.architecture, self.autoencoder)
        model.load_state_dict(self.ema.state_dict())
        return model.to(self.device).eval()

    def save(self, folder: Path) -> Path:
        """Writes a checkpoint into the folder of checkpoints, whole or not at all; the one before it is removed."""
        tensors = {
            "model": self.networks.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": flatten_optimizer(self.optimizer, self.networks),
        }
        state = {"seconds": self.clock.seconds, "window": self.window.state_dict(), "contents": self.contents}
        return save_checkpoint(folder, self.step, tensors, state, keep=1)

    def restore(self, checkpoint: Path) -> None:
        """Puts back everything that `save` wrote."""
        state = read_state(checkpoint)
        self.networks.load_state_dict(load_tensors(checkpoint, "model"))
        self.ema.load_state_dict(load_tensors(checkpoint, "ema"))
        restore_optimizer(self.optimizer, self.networks, load_tensors(checkpoint, "optimizer"))
        self.window.load_state_dict(state["window"])
        self.clock = TrainingClock(state["seconds"])
        self.step = state["step"]

    def _latents(self, generator: torch.Generator) -> Tensor:
        """Draws from the posteriors of random crops, with noise of a random strength; float32 (B, C, h, w)."""
        images = self.memory.crops(self.recipe.training.batch_size, generator)
        mean, std = self.autoencoder.encode(images)
        noise = torch.randn(2, *mean.shape, generator=generator).to(self.device)
        strength = torch.rand(len(mean), 1, 1, 1, generator=generator).to(self.device)
        return mean + std * noise[0] + self.recipe.distillation.latent_noise * strength * noise[1]

    def _terms(self, latents: Tensor, images: Tensor) -> dict[str, Tensor]:
        config = self.recipe.distillation
        with self._autocast():
            decoded, features = decode_with_features(self.model, latents)
            encoded = self.model.encode(images).latents
        decoded = decoded.float()
        terms = {"loss/pixel": pixel_distance(decoded, images, config.pixel)}
        loss = terms["loss/pixel"]
        if config.pyramid_weight > 0:
            terms["loss/pyramid"] = pyramid_distance(decoded, images, config.pyramid_levels)
            loss = loss + config.pyramid_weight * terms["loss/pyramid"]
        if self.regression is not None:
            with self._autocast():
                terms["loss/features"] = self.regression(latents, features).float()
            loss = loss + config.feature_weight * terms["loss/features"]
        terms["loss/encoder"] = (encoded.float() - latents).square().mean()
        terms["loss"] = loss + config.encoder_weight * terms["loss/encoder"]
        return terms

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.training.precision == "bf16")
