"""Autoencoders with random weights, as large as the published ones: what a decoder costs does not depend on its values.

A further one is one function here, decorated with the name that `--decoder` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.utils import logging
from torch import nn

from lpl.autoencoders import TAEF2

logging.set_verbosity_error()  # it warns of every cast

DECODERS: dict[str, Callable[[], nn.Module]] = {}


def decoder(name: str) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Registers an autoencoder under a name."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        DECODERS[name] = make
        return make

    return register


def make_autoencoder(name: str, seed: int = 0) -> nn.Module:
    """A frozen autoencoder in float32, with the same random weights for the same seed.

    Raises:
        ValueError: no autoencoder of that name.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder: got {name!r}, takes {', '.join(DECODERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DECODERS[name]().requires_grad_(False).eval()


@decoder("sd")
def stable_diffusion() -> nn.Module:
    """Stable Diffusion 1 and 2."""
    return _kl((128, 256, 512, 512), layers_per_block=2, scaling_factor=0.18215)


@decoder("sdxl")
def stable_diffusion_xl() -> nn.Module:
    """SDXL: the same layers, another scaling."""
    return _kl((128, 256, 512, 512), layers_per_block=2, scaling_factor=0.13025, force_upcast=True)


@decoder("flux")
def flux() -> nn.Module:
    """FLUX.1: 16 latent channels, no convolution around the latents."""
    quantless = {"use_quant_conv": False, "use_post_quant_conv": False}
    scaling = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    return _kl((128, 256, 512, 512), layers_per_block=2, latent_channels=16, **scaling, **quantless)


@decoder("taef2")
def taef2() -> nn.Module:
    """The tiny autoencoder of FLUX.2's latents: convolutions and ReLUs, 64 channels throughout."""
    return TAEF2()


@decoder("taesd")
def taesd() -> nn.Module:
    """The tiny autoencoder of Stable Diffusion's and SDXL's latents: convolutions and ReLUs, 64 channels throughout."""
    model: Any = AutoencoderTiny(latent_channels=4)
    return model


@decoder("tiny")
def tiny() -> nn.Module:
    """Stable Diffusion's decoder with few channels: for trying the benchmark out."""
    return _kl((16, 16, 32, 32), layers_per_block=1, norm_num_groups=8, scaling_factor=0.18215)


def _kl(channels: tuple[int, ...], **config: object) -> nn.Module:
    levels = len(channels)
    settings: dict[str, Any] = {"latent_channels": 4, **config}
    model: Any = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **settings,
    )
    return model
