"""Power spectra against numpy's FFT and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lpl.evaluation import high_frequency_ratio, log_spectral_distance, radial_power_spectrum, spectrum_frequencies


def grey(values: torch.Tensor) -> torch.Tensor:
    """Luminance (B, R, R) in [0, 1] as grey images in [-1, 1]."""
    return (values * 2 - 1)[:, None].expand(-1, 3, -1, -1)


def noise(count: int, side: int, std: float, seed: int = 0) -> torch.Tensor:
    values = 0.5 + std * torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed))
    return grey(values.clamp(0, 1))


@pytest.mark.parametrize("side", [32, 33])
def test_white_noise_has_its_variance_at_every_frequency(side: int) -> None:
    power = radial_power_spectrum(noise(800, side, 0.1)).mean(dim=0)
    assert power.shape == (side // 2,)
    torch.testing.assert_close(power[1:], torch.full_like(power[1:], 0.01), rtol=0.06, atol=0)


def test_spectrum_equals_a_plain_numpy_evaluation() -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rgb = (images.double().numpy() + 1) / 2
    luma = 0.2126 * rgb[:, 0] + 0.7152 * rgb[:, 1] + 0.0722 * rgb[:, 2]
    window = np.outer(np.hanning(24), np.hanning(24))
    expected = np.zeros((2, 12))
    for image in range(2):
        mean = (luma[image] * window).sum() / window.sum()
        power = np.abs(np.fft.fftshift(np.fft.fft2((luma[image] - mean) * window))) ** 2 / (window**2).sum()
        rows, columns = np.indices((24, 24)) - 12
        radius = np.rint(np.hypot(rows, columns))
        expected[image] = [power[radius == ring].mean() for ring in range(1, 13)]
    np.testing.assert_allclose(radial_power_spectrum(images).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("cycles", [5, 11])
def test_a_wave_peaks_at_its_frequency(cycles: int) -> None:
    wave = 0.5 + 0.4 * torch.sin(2 * math.pi * cycles * torch.arange(48) / 48).expand(1, 48, 48)
    power = radial_power_spectrum(grey(wave))[0]
    assert spectrum_frequencies(48)[power.argmax()].item() == pytest.approx(cycles / 48)


def test_brightness_has_no_power() -> None:
    assert radial_power_spectrum(torch.full((1, 3, 16, 16), 0.3)).max() < 1e-12


def test_twice_the_contrast_is_six_decibels_and_four_times_the_high_frequencies() -> None:
    faint, strong = noise(4, 32, 0.05), noise(4, 32, 0.05) * 2
    powers = [radial_power_spectrum(images).mean(dim=0) for images in (strong, faint)]
    assert log_spectral_distance(*powers) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert high_frequency_ratio(*powers, spectrum_frequencies(32)) == pytest.approx(4, rel=1e-3)


def test_blur_lowers_the_high_frequencies_by_its_response() -> None:
    images = noise(300, 64, 0.1)
    taps = torch.tensor([0.25, 0.5, 0.25]).view(1, 1, 3, 1)
    single = images[:, :1]
    for kernel in (taps, taps.transpose(2, 3)):
        size = (1, 0) if kernel.shape[2] == 3 else (0, 1)
        single = torch.nn.functional.conv2d(single, kernel, padding=size)
    blurred = single[:, :, 1:-1, 1:-1].expand(-1, 3, -1, -1)
    ratio = radial_power_spectrum(blurred).mean(dim=0) / radial_power_spectrum(images[..., 1:-1, 1:-1]).mean(dim=0)
    axis = np.fft.fftfreq(62)
    response = (np.cos(np.pi * axis)[:, None] * np.cos(np.pi * axis)) ** 4  # |H|² of (1 2 1)/4 both ways
    radius = np.rint(np.hypot(axis[:, None], axis) * 62)
    expected = [response[radius == ring].mean() for ring in range(2, 28)]
    np.testing.assert_allclose(ratio[1:27].numpy(), expected, rtol=0.1)


def test_what_is_below_the_rounding_of_a_png_counts_as_equal() -> None:
    assert log_spectral_distance(torch.full((8,), 1e-9), torch.zeros(8)) == 0
    assert high_frequency_ratio(torch.full((16,), 1e-9), torch.zeros(16), spectrum_frequencies(32)) == 1


def test_smooth_images_have_as_much_detail_as_themselves() -> None:
    ramp = torch.linspace(-0.5, 0.5, 32).expand(4, 3, 32, 32)
    power = radial_power_spectrum(ramp).mean(dim=0)
    assert high_frequency_ratio(power, power, spectrum_frequencies(32)) == pytest.approx(1, abs=1e-12)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least 4×4 pixels, got 3×3"):
        radial_power_spectrum(torch.zeros(1, 3, 3, 3))
    with pytest.raises(ValueError, match=r"two spectra of one length, got shapes \(8,\) and \(9,\)"):
        log_spectral_distance(torch.ones(8), torch.ones(9))
    with pytest.raises(ValueError, match=r"expected square RGB images \(B, 3, R, R\), got shape \(1, 1, 8, 8\)"):
        radial_power_spectrum(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="some pixels are NaN"):
        radial_power_spectrum(torch.full((1, 3, 8, 8), torch.nan))
