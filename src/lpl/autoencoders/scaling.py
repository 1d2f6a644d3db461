"""Between the latents a diffusion model sees and those its autoencoder decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    statistics = getattr(autoencoder, "bn", None)
    if isinstance(statistics, nn.BatchNorm2d) and statistics.running_mean is not None:
        patch = round((statistics.num_features / _setting(config, "latent_channels", statistics.num_features)) ** 0.5)
        assert statistics.running_var is not None
        std = (statistics.running_var.float() + statistics.eps).sqrt()
        return LatentScaling(statistics.running_mean, std, patch, channels=statistics.num_features)
    factor = float(_setting(config, "scaling_factor", 1.0))
    mean = _setting(config, "latents_mean", None)
    std = _setting(config, "latents_std", None)
    shift = float(_setting(config, "shift_factor", 0.0))
    centre = torch.tensor(mean) + shift if mean is not None else shift
    spread = torch.tensor(std) / factor if std is not None else 1.0 / factor
    return LatentScaling(centre, spread, channels=_setting(config, "latent_channels", None))


def _setting(config: Any, name: str, default: Any) -> Any:
    """A configuration's value, whether it is a mapping or an object; None counts as absent."""
    if config is None:
        return default
    value = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
    return default if value is None else value
