"""One autoencoder in training: its networks, its optimisers, one step of them, and its state."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..data.order import seeded_generator
from .autoencoder_recipe import ArchitectureConfig, AutoencoderRecipe, OptimisationConfig
from .checkpoints import flatten_optimizer, load_tensors, read_state, restore_optimizer, save_checkpoint
from .clock import TrainingClock
from .crops import CropMemory
from .ema import EMA
from .metrics import TermWindow
from .reconstruction import PatchDiscriminator, gradient_balance, hinge_loss, pixel_distance, pyramid_distance

FIRST_LOG_VARIANCE = -6.0  # of the posterior, before training


def build_autoencoder(config: ArchitectureConfig, resolution: int) -> Any:
    """An AutoencoderKL of random weights, made from the blocks of Stable Diffusion's."""
    levels = len(config.block_channels)
    model: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.mid_attention,
        sample_size=resolution,
        scaling_factor=1.0,
    )
    _initialize(model)
    return model


@torch.no_grad()
def _initialize(model: Any) -> None:
    """Starts training several times as fast as torch's default, whose convolutions each shrink what they are given.

    Convolutions keep the variance, residual branches begin at zero, and the posterior with little noise: at unit
    variance it would hide the latents for hundreds of steps.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    latent_channels = model.config.latent_channels
    model.quant_conv.weight[latent_channels:].mul_(0.1)
    model.quant_conv.bias[latent_channels:].fill_(FIRST_LOG_VARIANCE)


def learning_rate(step: int, config: OptimisationConfig) -> float:
    """That of step 1, 2, …, `config.steps`: linear warm-up, then half a cosine down to zero after the last step."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class AutoencoderRun:
    """An autoencoder in training, on a GPU where there is one.

    Everything random in step n comes from (recipe.seed, n), so that a run resumed on the CPU in float32 gives the
    weights of one that never stopped.

    Args:
        recipe: what to train, and how.
        memory: the training images.
        contents: fingerprints that checkpoints record, see `checkpoint_of`.
    """

    def __init__(self, recipe: AutoencoderRecipe, memory: CropMemory, contents: Mapping[str, str]) -> None:
        self.recipe = recipe
        self.memory = memory
        self.contents = dict(contents)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model = build_autoencoder(recipe.architecture, recipe.data.resolution)
            self.discriminator = PatchDiscriminator(recipe.reconstruction.discriminator_channels)
        for _, network in self._networks():
            # Convolutions in channels-last run about twice as fast, on CPUs as on GPUs.
            network.to(self.device).to(memory_format=torch.channels_last)
        self.ema = EMA(self.model, recipe.training.ema_decay)
        self.step = 0
        self.window = TermWindow()
        self.clock = TrainingClock()
        self._optimizers = [self._optimizer(network) for _, network in self._networks()]

    def advance(self) -> None:
        """Makes one step; its terms go to `window`."""
        self.step += 1
        rate = learning_rate(self.step, self.recipe.training)
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        generator = seeded_generator(self.recipe.seed, self.step)
        images = self.memory.crops(self.recipe.training.batch_size, generator)
        images = images.to(self.device, memory_format=torch.channels_last)
        posterior, reconstruction = self._reconstruct(images, generator)
        terms = self._terms(images, posterior, reconstruction)
        self._descend(0, terms["loss"], self.model)
        if self._adversarial:
            scores = [self._scores(batch) for batch in (images, reconstruction.detach())]
            terms["loss/discriminator"] = hinge_loss(*scores)
            self._descend(1, terms["loss/discriminator"], self.discriminator)
        self.ema.update(self.step)
        self.window.add(self.step, [dict(terms)])

    def averaged(self) -> Any:
        """A copy of the autoencoder with the averaged weights, as an AutoencoderKL in float32."""
        model = build_autoencoder(self.recipe.architecture, self.recipe.data.resolution)
        model.load_state_dict(self.ema.state_dict())
        return model.to(self.device).eval()

    @property
    def _adversarial(self) -> bool:
        config = self.recipe.reconstruction
        return config.adversarial_weight > 0 and self.step > config.adversarial_start

    def save(self, folder: Path) -> Path:
        """Writes a checkpoint into the folder of checkpoints, whole or not at all; the one before it is removed."""
        tensors = {"model": self.model.state_dict(), "ema": self.ema.state_dict()}
        for (name, network), optimizer in zip(self._networks(), self._optimizers, strict=True):
            tensors[f"{name}-optimizer"] = flatten_optimizer(optimizer, network)
        tensors["discriminator"] = self.discriminator.state_dict()
        state = {"seconds": self.clock.seconds, "window": self.window.state_dict(), "contents": self.contents}
        return save_checkpoint(folder, self.step, tensors, state, keep=1)

    def restore(self, checkpoint: Path) -> None:
        """Puts back everything that `save` wrote."""
        state = read_state(checkpoint)
        for (name, network), optimizer in zip(self._networks(), self._optimizers, strict=True):
            network.load_state_dict(load_tensors(checkpoint, name))
            restore_optimizer(optimizer, network, load_tensors(checkpoint, f"{name}-optimizer"))
        self.ema.load_state_dict(load_tensors(checkpoint, "ema"))
        self.window.load_state_dict(state["window"])
        self.clock = TrainingClock(state["seconds"])
        self.step = state["step"]

    def _networks(self) -> list[tuple[str, Any]]:
        return [("model", self.model), ("discriminator", self.discriminator)]

    def _optimizer(self, network: nn.Module) -> torch.optim.AdamW:
        config = self.recipe.training
        return torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.training.precision == "bf16")

    def _reconstruct(self, images: Tensor, generator: torch.Generator) -> tuple[DiagonalGaussianDistribution, Tensor]:
        """The posterior of the images in float32, and the decoded images of one draw from it."""
        with self._autocast():
            moments = self.model.encode(images).latent_dist.parameters
        posterior = DiagonalGaussianDistribution(moments.float())
        with self._autocast():
            reconstruction = self.model.decode(posterior.sample(generator)).sample
        return posterior, reconstruction.float()

    def _terms(
        self, images: Tensor, posterior: DiagonalGaussianDistribution, reconstruction: Tensor
    ) -> dict[str, Tensor]:
        config = self.recipe.reconstruction
        terms = {"loss/pixel": pixel_distance(reconstruction, images, config.pixel)}
        loss = terms["loss/pixel"]
        if config.pyramid_weight > 0:
            terms["loss/pyramid"] = pyramid_distance(reconstruction, images, config.pyramid_levels)
            loss = loss + config.pyramid_weight * terms["loss/pyramid"]
        # Over the number of pixel values, so that kl_weight means what it does where both terms are sums.
        terms["loss/kl"] = posterior.kl().mean() / images[0].numel()
        if self._adversarial:
            terms["loss/adversarial"] = -self._scores(reconstruction).mean()
            last = [self.model.decoder.conv_out.weight]
            balance = gradient_balance(loss, terms["loss/adversarial"], last)
            loss = loss + config.adversarial_weight * balance * terms["loss/adversarial"]
        terms["loss"] = loss + config.kl_weight * terms["loss/kl"]
        return terms

    def _scores(self, images: Tensor) -> Tensor:
        with self._autocast():
            return self.discriminator(images).float()

    def _descend(self, index: int, loss: Tensor, network: nn.Module) -> None:
        optimizer = self._optimizers[index]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.recipe.training.clip_norm)
        optimizer.step()


@torch.no_grad()
def latent_statistics(model: Any, batches: Iterable[Tensor], generator: torch.Generator) -> tuple[float, float]:
    """Mean and standard deviation over all values of latents drawn from the posteriors of images.

    Args:
        model: an AutoencoderKL.
        batches: images (B, 3, H, W) in [−1, 1].
        generator: on the CPU.
    """
    count, total, squares = 0, 0.0, 0.0
    for images in batches:
        moments = model.encode(images.to(model.device, model.dtype)).latent_dist.parameters
        latents = DiagonalGaussianDistribution(moments.float()).sample(generator).double()
        count += latents.numel()
        total += latents.sum().item()
        squares += latents.square().sum().item()
    mean = total / count
    return mean, (squares / count - mean**2) ** 0.5
