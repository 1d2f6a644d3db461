"""Radially averaged power spectrum of luminance: how much detail images have at every scale.

A model whose samples are blurred lacks power at high frequencies, one that over-sharpens has too much of it; Fréchet
distances tell neither apart from other faults. The spectrum needs no network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_images
from .contrast import luminance

# A flat 8-bit image still carries the power of rounding, step²/12 with a step of 1/255: nothing is compared below that.
QUANTIZATION_POWER = (1 / 255) ** 2 / 12
HIGH_FREQUENCY = 0.25  # cycles a pixel, half of what the pixel grid can carry


def radial_power_spectrum(images: Tensor) -> Tensor:
    """Power of the luminance by frequency, averaged over all directions.

    Each image's mean is taken out and a Hann window applied, so that neither the mean nor the jump between opposite
    borders leaks into the other frequencies. White noise of variance v has power v at all of them but the lowest, from
    which the mean takes a third.

    Args:
        images: (B, 3, R, R) float in [-1, 1], R at least 4.

    Returns:
        Power (B, R // 2), float32, at the frequencies of `spectrum_frequencies(R)`; luminance is in [0, 1].

    Raises:
        TypeError, ValueError: images of another kind, or too small.
    """
    check_images(images)
    side = images.shape[-1]
    if side < 4:
        raise ValueError(f"images: a spectrum needs at least 4×4 pixels, got {side}×{side}")
    window = torch.hann_window(side, periodic=False, device=images.device)
    window = window[:, None] * window
    grey = luminance(images.float())
    centred = grey - (grey * window).sum((-2, -1), keepdim=True) / window.sum()
    power = torch.fft.fft2(centred * window).abs().square() / window.square().sum()
    return _radial_mean(power)


def spectrum_frequencies(resolution: int) -> Tensor:
    """Centres of the spectrum's bins in cycles a pixel: 1/R, 2/R, … up to 0.5; float32 (R // 2,)."""
    return torch.arange(1, resolution // 2 + 1) / resolution


def log_spectral_distance(samples: Tensor, reference: Tensor) -> float:
    """Root mean square difference of two power spectra in decibels.

    Args:
        samples: mean power by frequency, (F,).
        reference: likewise; both are floored at the power of 8-bit rounding.

    Returns:
        √(mean over frequencies of (10 log10(samples / reference))²), in dB; 0 for equal spectra.
    """
    _check_spectra(samples, reference)
    ratio = samples.double().clamp_min(QUANTIZATION_POWER) / reference.double().clamp_min(QUANTIZATION_POWER)
    return (10 * ratio.log10()).square().mean().sqrt().item()


def high_frequency_ratio(samples: Tensor, reference: Tensor, frequencies: Tensor) -> float:
    """Power at and above 0.25 cycles a pixel, samples over reference: above 1 over-sharp or noisy, below 1 blurred.

    Args:
        samples: mean power by frequency, (F,).
        reference: likewise; both are floored at the power of 8-bit rounding.
        frequencies: cycles a pixel, (F,).

    Returns:
        The ratio of the powers, each bin weighted by its circumference, as it is of the image's own power.
    """
    _check_spectra(samples, reference)
    weights = torch.where(frequencies >= HIGH_FREQUENCY, frequencies, 0.0).double()
    ours, theirs = (weights @ power.double().clamp_min(QUANTIZATION_POWER) for power in (samples, reference))
    return (ours / theirs).item()


def _check_spectra(samples: Tensor, reference: Tensor) -> None:
    if samples.ndim != 1 or samples.shape != reference.shape:
        raise ValueError(
            f"samples and reference: expected two spectra of one length, got shapes {tuple(samples.shape)} "
            f"and {tuple(reference.shape)}"
        )


def _radial_mean(power: Tensor) -> Tensor:
    """Mean of (B, R, R) power over rings one bin wide, without the centre and the corners: (B, R // 2)."""
    side = power.shape[-1]
    axis = torch.fft.fftfreq(side, d=1 / side, device=power.device)  # whole cycles an image
    radius = (axis[:, None].square() + axis.square()).sqrt().round().long().flatten()
    rings = max(side // 2, int(radius.max())) + 1
    total = power.new_zeros(len(power), rings).index_add_(1, radius, power.flatten(1))
    return total[:, 1 : side // 2 + 1] / torch.bincount(radius, minlength=rings)[1 : side // 2 + 1]
