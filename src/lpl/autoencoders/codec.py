"""An autoencoder as the rest of the package uses it: images in [−1, 1] ↔ latents as the diffusion model sees them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import known_autoencoders, layout_of
from .scaling import scaling_of
from .taef2 import TAEF2


class Autoencoder(nn.Module):
    """Encodes to a scaled posterior and decodes scaled latents, for every supported kind of autoencoder.

    Args:
        model: a diffusers autoencoder or a `TAEF2`; kept as it is, frozen by `eval` and `no_grad` here.

    Attributes:
        model: what `LatentPerceptualLoss` and `DecoderFeatures` take.
        scaling: between its latents and the diffusion model's.
        latent_channels: channels the diffusion model sees.
        downsampling: image pixels per latent position along a side, as the diffusion model sees it.
        decode_options: what the model's pipelines pass to its `decode` beside the latents.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        layout = layout_of(model)
        if layout is None:
            raise ValueError(
                f"model: {type(model).__name__} is not an autoencoder whose latents are known: takes "
                f"{', '.join(known_autoencoders())}, of diffusers or lpl"
            )
        self.model: Any = model.requires_grad_(False).eval()
        self.scaling = scaling_of(model).to(self.device)  # the model may be on a GPU already
        self.decode_options = dict(layout.decode_options)
        self.downsampling = layout.upscaling * self.scaling.patch
        channels = self.scaling.channels
        self.latent_channels = int(channels if channels is not None else getattr(model, "latent_channels", 0))
        # TAEF2 works on images in [0, 1]; diffusers' models all take and give [−1, 1].
        self._unit_range = isinstance(model, TAEF2)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of a square image's latent.

        Raises:
            ValueError: the resolution is not a multiple of the downsampling.
        """
        if resolution % self.downsampling:
            raise ValueError(f"resolution: got {resolution}, takes a multiple of {self.downsampling} pixels")
        side = resolution // self.downsampling
        return self.latent_channels, side, side

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of images.

        Args:
            images: (B, 3, H, W) in [−1, 1].

        Returns:
            Mean and standard deviation, float32 (B, C, h, w), scaled as the diffusion model sees them; the standard
            deviation is zero where the encoder is deterministic.
        """
        images = images.to(self.device, self.dtype)
        mean, std = _posterior(self.model.encode((images + 1) / 2 if self._unit_range else images))
        mean, std = self.scaling.to_diffusion(mean.float()), self.scaling.std_to_diffusion(std.float())
        return mean, std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the diffusion model sees them → images, float32 (B, 3, H, W) clamped to [−1, 1]."""
        return self.decode_unclamped(latents.to(self.device).float()).clamp(-1, 1)

    def decode_unclamped(self, latents: Tensor) -> Tensor:
        """As `decode`, but with its gradient and values beyond [−1, 1], of the latents' type and on their device."""
        unscaled = self.scaling.to_autoencoder(latents).to(self.dtype)
        decoded = self.model.decode(unscaled, **self.decode_options)
        images = getattr(decoded, "sample", decoded).to(latents.dtype)
        return images * 2 - 1 if self._unit_range else images

    def fingerprint(self) -> str:
        """A hash of kind, configuration, precision and weights: what encoded latents depend on."""
        digest = hashlib.sha256(f"{type(self.model).__name__} {self.dtype}".encode())
        config = getattr(self.model, "config", None)
        settings = {key: value for key, value in dict(config).items() if not key.startswith("_")} if config else {}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _posterior(encoded: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of whatever an autoencoder's `encode` returns."""
    distribution = getattr(encoded, "latent_dist", None)
    if distribution is not None:
        return distribution.mean, distribution.std
    for name in ("latents", "latent"):
        if isinstance(getattr(encoded, name, None), Tensor):
            encoded = getattr(encoded, name)
    return encoded, torch.zeros_like(encoded)
