"""How much worse a picture looks: measures that know neither latents nor decoders.

Each takes images (B, 3, R, R) in [−1, 1] and their reference, and gives one number an image. None is a person; they
fail in different ways, so an analysis reports several. A further one is a function and a line in `DAMAGES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from ..evaluation import PatchSettings
from ..evaluation.contrast import luminance
from ..evaluation.sliced_wasserstein import PatchSampler, compare_patches

Measure = Callable[[Tensor, Tensor], Tensor]

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest scale first
SSIM_WINDOW = 11  # pixels a side
GMSD_CONSTANT = 170 / 255**2  # Xue et al. 2014, for luminance in [0, 1]
PATCHES = PatchSettings(patches_per_image=256, directions=64)  # of one image; a set of images needs fewer of each


def mean_squared_error(images: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of values in [−1, 1], (B,)."""
    return (images - reference).square().flatten(1).mean(dim=1)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,), peak to peak 2; at most 100, so that equal images stay finite."""
    return 10 * torch.log10(4.0 / mean_squared_error(images, reference).clamp_min(4e-10))


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity at full resolution, (B,), 1 for equal images."""
    values = structural_similarity_index_measure(
        _unit(images), _unit(reference), kernel_size=SSIM_WINDOW, data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.reshape(-1)


def ms_ssim_scales(resolution: int) -> int:
    """How many of MS-SSIM's five scales fit: the coarsest must be larger than its window of 11 pixels."""
    return max((n for n in range(1, 6) if resolution / 2 ** (n - 1) > SSIM_WINDOW - 1), default=0)


def multiscale_dissimilarity(images: Tensor, reference: Tensor) -> Tensor:
    """1 − MS-SSIM, (B,), over as many of its five scales as the images allow, their exponents rescaled to sum to 1.

    Reference: Wang et al., *Multi-Scale Structural Similarity for Image Quality Assessment*, 2003.

    Raises:
        ValueError: images of 10×10 pixels or fewer.
    """
    scales = ms_ssim_scales(images.shape[-1])
    if scales == 0:
        raise ValueError(f"images: got {images.shape[-1]} pixels a side, MS-SSIM takes more than {SSIM_WINDOW - 1}")
    weights = MS_SSIM_WEIGHTS[:scales]
    values = multiscale_structural_similarity_index_measure(
        _unit(images),
        _unit(reference),
        kernel_size=SSIM_WINDOW,
        data_range=1.0,
        betas=tuple(weight / sum(weights) for weight in weights),
        normalize="relu",
        reduction="none",
    )
    return 1 - values.reshape(-1)


def gradient_deviation(images: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (GMSD), (B,), 0 for equal images: how unevenly edges have suffered.

    Luminance is averaged over 2×2 pixels and halved in size, as published; gradients are Prewitt's.

    Reference: Xue et al., *Gradient Magnitude Similarity Deviation*, IEEE TIP 2014.
    """
    magnitudes = [_gradient_magnitude(F.avg_pool2d(luminance(batch)[:, None], 2)) for batch in (images, reference)]
    product = 2 * magnitudes[0] * magnitudes[1] + GMSD_CONSTANT
    similarity = product / (magnitudes[0].square() + magnitudes[1].square() + GMSD_CONSTANT)
    return similarity.flatten(1).std(dim=1, correction=0)


def patch_distance(images: Tensor, reference: Tensor) -> Tensor:
    """Sliced Wasserstein distance between the patches of each image and of its reference, (B,), times 1000.

    Both are scaled by the reference's statistics, so that a loss of contrast or sharpness shows. Patches are compared
    as sets: texture in the wrong place costs nothing.
    """
    pairs = zip(images.cpu().split(1), reference.cpu().split(1), strict=True)
    return torch.tensor([_one_patch_distance(image, other) for image, other in pairs])


DAMAGES: dict[str, tuple[Measure, str]] = {
    "ms_ssim": (multiscale_dissimilarity, "1 − MS-SSIM"),
    "gmsd": (gradient_deviation, "GMSD"),
    "sliced_wasserstein": (patch_distance, "sliced Wasserstein"),
}


def _unit(images: Tensor) -> Tensor:
    """[−1, 1] → [0, 1]: the luminance terms of structural similarity are meant for values that are not negative."""
    return (images + 1) / 2


def _gradient_magnitude(luma: Tensor) -> Tensor:
    kernel = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=luma.dtype, device=luma.device)[None, None] / 3
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    return (F.conv2d(padded, kernel).square() + F.conv2d(padded, kernel.mT).square()).sqrt()


def _one_patch_distance(image: Tensor, reference: Tensor) -> float:
    drawn = []
    for single in (image, reference):
        sampler = PatchSampler(PATCHES)
        sampler.add(single.clamp(-1, 1))
        drawn.append(sampler.finish())
    return compare_patches(drawn[0], drawn[1], PATCHES.directions, ["reference"])["reference"].mean
