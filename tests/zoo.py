"""Small autoencoders of every supported kind, with random weights, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

from lpl.autoencoders import TAEF2

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def kl(levels: int = 4, **config: Any) -> nn.Module:
    defaults: dict[str, Any] = {
        "block_out_channels": (32, 32, 64, 64)[:levels],
        "down_block_types": (DOWN,) * levels,
        "up_block_types": (UP,) * levels,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 32,
    }
    return diffusers.AutoencoderKL(**(defaults | config))


def stable_diffusion() -> nn.Module:
    return kl(scaling_factor=0.18215)


def sdxl() -> nn.Module:
    return kl(scaling_factor=0.13025, force_upcast=True)


def playground() -> nn.Module:
    return kl(scaling_factor=0.5, latents_mean=[-1.6, 1.1, 0.3, -0.4], latents_std=[8.4, 5.9, 6.1, 5.2])


def sd3() -> nn.Module:
    quantless = {"use_quant_conv": False, "use_post_quant_conv": False}
    return kl(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, **quantless)


def flux() -> nn.Module:
    quantless = {"use_quant_conv": False, "use_post_quant_conv": False}
    return kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, **quantless)


def asymmetric(up_channels: tuple[int, ...], up_layers: int) -> nn.Module:
    return diffusers.AsymmetricAutoencoderKL(
        down_block_types=(DOWN,) * 4,
        down_block_out_channels=(16, 16, 32, 32),
        up_block_types=(UP,) * 4,
        up_block_out_channels=up_channels,
        layers_per_up_block=up_layers,
        norm_num_groups=8,
        scaling_factor=0.18215,
    )


def tiny() -> nn.Module:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_decoder_blocks=(2, 2, 2, 1),
        num_encoder_blocks=(1, 2, 2, 2),
    )


def vq(norm_type: str) -> nn.Module:
    return diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=(DOWN,) * 2,
        up_block_types=(UP,) * 2,
        latent_channels=3,
        norm_num_groups=8,
        num_vq_embeddings=64,
        norm_type=norm_type,
    )


def dc() -> nn.Module:
    return diffusers.AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 32, 32),
        decoder_block_out_channels=(16, 32, 32),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )


def flux2() -> nn.Module:
    model = diffusers.AutoencoderKLFlux2(
        block_out_channels=(16, 32, 32, 32), layers_per_block=1, latent_channels=8, norm_num_groups=8
    )
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2.0)
    return model


ZOO: dict[str, Callable[[], nn.Module]] = {
    "stable_diffusion": stable_diffusion,
    "sdxl": sdxl,
    "playground": playground,
    "sd3": sd3,
    "flux": flux,
    "asymmetric_1.5": lambda: asymmetric((24, 24, 48, 48), 1),
    "asymmetric_2": lambda: asymmetric((32, 32, 64, 64), 2),
    "tiny": tiny,
    "vq": lambda: vq("group"),
    "vq_spatial": lambda: vq("spatial"),
    "dc": dc,
    "flux2": flux2,
    "taef2": TAEF2,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """One of the zoo, with the same random weights every time; biases and norms are not left at zero and one."""
    torch.manual_seed(seed)
    model = ZOO[name]().eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        assert parameter.requires_grad, parameter_name
    return model
