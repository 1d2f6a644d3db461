"""A classifier of latents in the shape of VGG16, in whose features `LatentLPIPS` compares.

Reference: Kang et al., *Distilling Diffusion Models into Conditional GANs*, ECCV 2024 (E-LatentLPIPS): VGG16 with
BatchNorm, its first convolution widened to the latents' channels and its first three poolings left out, because a
latent is as small already as VGG's maps are after them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..autoencoders.features import lay_channels_last
from ..autoencoders.lean import make_lean

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG16's stages
MULTIPLES = (1, 2, 4, 8, 8)  # of the width: channels of each stage


class LatentVGG(nn.Module):
    """Five stages of 3×3 convolutions with BatchNorm and ReLU, then the mean over positions and one linear layer.

    VGG's three large linear layers are left out: LPIPS looks at the convolutions alone, and with BatchNorm they are not
    needed to train them.

    Args:
        latent_channels: C.
        num_classes: how many classes there are.
        width: channels of the first stage; 64 is VGG16's.
        poolings: how many of the last stages begin by halving the map; 1 is E-LatentLPIPS's.

    Example:
        >>> classifier = LatentVGG(latent_channels=4, num_classes=1000, width=64)
        >>> logits = classifier(latents)  # (B, 4, h, w) -> (B, 1000)
    """

    def __init__(self, latent_channels: int, num_classes: int, width: int = 64, poolings: int = 1) -> None:
        super().__init__()
        for name, value in (("latent_channels", latent_channels), ("num_classes", num_classes), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, takes a positive integer")
        if not 0 <= poolings < len(CONVOLUTIONS):
            raise ValueError(f"poolings: got {poolings}, takes 0 to {len(CONVOLUTIONS) - 1}")
        self.config = {
            "latent_channels": latent_channels,
            "num_classes": num_classes,
            "width": width,
            "poolings": poolings,
        }
        channels = [latent_channels, *(multiple * width for multiple in MULTIPLES)]
        self.stages = nn.ModuleList(
            _stage(channels[number], channels[number + 1], count, pooled=number >= len(CONVOLUTIONS) - poolings)
            for number, count in enumerate(CONVOLUTIONS)
        )
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, latents: Tensor) -> Tensor:
        """Logits (B, num_classes) of latents (B, C, h, w) as the diffusion model sees them."""
        self.check_size(*latents.shape[-2:])
        return self.head(self.features(latents)[-1].mean(dim=(-2, -1)))

    def features(self, latents: Tensor) -> list[Tensor]:
        """What each stage ends with, after its last ReLU."""
        return _run(self.stages, latents)

    def check_size(self, height: int, width: int) -> None:
        """Refuses latents that would be pooled away.

        Raises:
            ValueError: with the smallest side.
        """
        smallest = 2 ** self.config["poolings"]
        if min(height, width) < smallest:
            raise ValueError(
                f"poolings: {self.config['poolings']} of them take latents of {smallest}x{smallest} or more, got "
                f"{height}x{width}"
            )


class FrozenTrunk(nn.Module):
    """The convolutions of a trained `LatentVGG`: latents (B, C, h, w) to one feature map a stage.

    Frozen, in evaluation mode, each BatchNorm folded into the convolution before it, and lean: for the gradient to the
    latents only a byte a value is kept. The classifier itself is not changed.

    Args:
        classifier: the trained network.
        dtype: floating-point type to run in; by default the weights' own.
    """

    def __init__(self, classifier: LatentVGG, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        stages = nn.ModuleList(_folded(stage) for stage in classifier.stages)
        self.latent_channels = classifier.config["latent_channels"]
        self.stages = make_lean(stages.to(dtype).requires_grad_(False).eval())
        lay_channels_last(self.stages)

    def forward(self, latents: Tensor) -> list[Tensor]:
        """One map a stage, in the trunk's type."""
        weight = next(self.stages.parameters())
        return _run(self.stages, latents.to(weight.dtype))

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Stays in evaluation mode: the trunk is frozen."""
        return super().train(False)


def _stage(inputs: int, outputs: int, count: int, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if pooled else []
    for number in range(count):
        convolution = nn.Conv2d(inputs if number == 0 else outputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _run(stages: nn.ModuleList, latents: Tensor) -> list[Tensor]:
    features = []
    for stage in stages:
        latents = stage(latents)
        features.append(latents)
    return features


def _folded(stage: Any) -> nn.Sequential:
    """A copy of a stage without its BatchNorms, whose evaluation is an affine map by channel."""
    layers: list[Any] = []
    for layer in copy.deepcopy(stage).eval():
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)
