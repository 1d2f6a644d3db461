"""What an autoencoder's reconstruction is judged by: pixels, Laplacian pyramids, a patch discriminator, PSNR.

Reference: Burt & Adelson, *The Laplacian Pyramid as a Compact Image Code*, 1983; Isola et al., *Image-to-Image
Translation with Conditional Adversarial Networks*, 2017 (PatchGAN); Esser et al., *Taming Transformers*, 2021 (hinge
loss and the adaptive adversarial weight); Rombach et al., *Latent Diffusion Models*, 2022, appendix G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_BAND = 8  # pixels a side; a pyramid ends before its bands get smaller than this


def pixel_distance(reconstruction: Tensor, images: Tensor, kind: Literal["l1", "l2"]) -> Tensor:
    """Mean absolute ("l1") or squared ("l2") difference over all values, a scalar; images are (B, C, H, W)."""
    difference = reconstruction - images
    return difference.abs().mean() if kind == "l1" else difference.square().mean()


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Band-pass images, the finest first, each of half the resolution of the one before.

    A band is what a 2×2 average loses. The coarse rest is left out: the pixel term already compares it.

    Args:
        images: (B, C, H, W), any floating dtype.
        levels: how many bands, at least 1; fewer come back where the images are too small for them.

    Returns:
        Tensors (B, C, H/2^l, W/2^l) for l = 0, 1, …
    """
    bands = []
    for _ in range(levels):
        height, width = images.shape[-2:]
        if min(height, width) < _SMALLEST_BAND or height % 2 or width % 2:
            break
        coarse = functional.avg_pool2d(images, 2)
        bands.append(images - functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False))
        images = coarse
    return bands


def pyramid_distance(reconstruction: Tensor, images: Tensor, levels: int) -> Tensor:
    """Mean absolute difference of Laplacian bands, averaged over the bands: weighs edges above flat colour."""
    bands = laplacian_pyramid(reconstruction - images, levels)  # the pyramid is linear
    if not bands:
        raise ValueError(f"images of {images.shape[-2]}×{images.shape[-1]} pixels have no band to compare")
    return torch.stack([band.abs().mean() for band in bands]).mean()


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, shape (B,), for values in [−1, 1] (peak to peak 2)."""
    error = (reconstruction.float() - images.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))


class PatchDiscriminator(nn.Module):
    """Tells photographs from reconstructions patch by patch: three strided convolutions, then a score a position.

    Args:
        channels: width of the first layer, a multiple of 8; the next two are two and four times as wide.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for width in (channels, 2 * channels):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
                nn.GroupNorm(8, 2 * width),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * channels, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, 1, H/8, W/8) of images (B, 3, H, W); high means real."""
        return self.layers(images)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: real scores should exceed 1, fake ones fall below −1."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def gradient_balance(reference: Tensor, other: Tensor, parameters: Sequence[Tensor], largest: float = 1e4) -> Tensor:
    """‖∇ reference‖ / ‖∇ other‖ with respect to the parameters, a detached scalar of at most `largest`.

    With the decoder's last layer as the parameters this is the adaptive weight of Esser et al. (2021), eq. (7).
    """
    norms = []
    for loss in (reference, other):
        gradients = torch.autograd.grad(loss, list(parameters), retain_graph=True)
        norms.append(torch.stack([gradient.detach().float().norm() for gradient in gradients]).norm())
    return (norms[0] / norms[1].clamp_min(1e-8)).clamp(max=largest)
