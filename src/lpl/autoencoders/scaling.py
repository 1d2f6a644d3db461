"""Between the latents a diffusion model sees and those its autoencoder decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import is_movq, known_class


class LatentScaling(nn.Module):
    """z_autoencoder = z · std + mean by channel, after undoing any packing of positions into channels.

    The published conventions are all of this form: `scaling_factor` and `shift_factor` (Stable Diffusion, SD3, FLUX),
    `latents_mean` and `latents_std` (Playground v2.5, video models), and FLUX.2's running statistics over latents
    packed 2×2.

    Args:
        mean: per channel, or one number for all.
        std: per channel, or one number for all; positive.
        patch: side of the square of latent positions that is packed into channels (1: none, FLUX.2: 2).
        channels: channels the diffusion model sees, where known; latents with another number are refused.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Tensor | float = 0.0, std: Tensor | float = 1.0, patch: int = 1, channels: int | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).flatten(), persistent=False)
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).flatten(), persistent=False)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std: got {self.std.tolist()}, takes positive numbers")
        self.patch = patch
        self.channels = channels

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as the diffusion model sees them → (B, C/p², h·p, w·p) as the autoencoder decodes them."""
        latents = latents * self._shaped(self.std, latents) + self._shaped(self.mean, latents)
        return F.pixel_shuffle(latents, self.patch) if self.patch > 1 else latents

    def to_diffusion(self, latents: Tensor) -> Tensor:
        """The inverse of `to_autoencoder`."""
        if self.patch > 1:
            latents = F.pixel_unshuffle(latents, self.patch)
        return (latents - self._shaped(self.mean, latents)) / self._shaped(self.std, latents)

    def std_to_diffusion(self, std: Tensor) -> Tensor:
        """A posterior's standard deviations, which are scaled but not shifted."""
        if self.patch > 1:
            std = F.pixel_unshuffle(std, self.patch)
        return std / self._shaped(self.std, std)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LatentScaling:
        """Moves with the module it is part of, but is never cast: half precision would lose digits."""
        device = fn(torch.empty(0, device=self.mean.device)).device
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def _shaped(self, values: Tensor, like: Tensor) -> Tensor:
        return values.reshape(1, -1, *[1] * (like.ndim - 2)).to(like.dtype)


def scaling_of(autoencoder: nn.Module) -> LatentScaling:
    """Reads the scaling that pipelines apply for this autoencoder from its configuration.

    A module without a configuration (such as one's own) has none: its latents are taken as they are.
    """
    config: Any = getattr(autoencoder, "config", None)
    channels = _setting(config, "vq_embed_dim", None) or _setting(config, "latent_channels", None)
    if is_movq(autoencoder):  # whose configuration has a scaling factor that no pipeline applies when it decodes
        return LatentScaling(channels=channels)
    if known_class(autoencoder) == "AutoencoderKLFlux2":
        return _running_statistics(autoencoder, config.latent_channels)
    factor = float(_setting(config, "scaling_factor", 1.0))
    mean, std = (_statistic(autoencoder, config, name) for name in ("latents_mean", "latents_std"))
    shift = float(_setting(config, "shift_factor", 0.0))
    centre = mean + shift if mean is not None else shift
    spread = std / factor if std is not None else 1.0 / factor
    return LatentScaling(centre, spread, channels=channels)


def _running_statistics(autoencoder: Any, latent_channels: int) -> LatentScaling:
    """FLUX.2's: those of a batch norm over packed latents."""
    statistics = autoencoder.bn
    patch = round((statistics.num_features / latent_channels) ** 0.5)
    std = (statistics.running_var.float() + statistics.eps).sqrt()
    return LatentScaling(statistics.running_mean, std, patch, channels=statistics.num_features)


def _statistic(autoencoder: nn.Module, config: Any, name: str) -> Tensor | None:
    """`latents_mean` or `latents_std` by channel, from the configuration or a buffer (LTX), where there is one."""
    value = _setting(config, name, None)
    if value is None:
        value = dict(autoencoder.named_buffers(recurse=False)).get(name)
    return None if value is None else torch.as_tensor(value, dtype=torch.float32)


def _setting(config: Any, name: str, default: Any) -> Any:
    """A configuration's value, whether it is a mapping or an object; None counts as absent."""
    if config is None:
        return default
    value = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
    return default if value is None else value
