"""The loss with kernels, against the loss without in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from lpl import DecoderFeatures, LatentPerceptualLoss
from lpl.autoencoders.lean import attention


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    )
    return model.requires_grad_(False).eval()


def tiny_autoencoder() -> AutoencoderTiny:
    """Of convolutions and ReLUs."""
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    model = AutoencoderTiny(**channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4)
    return model.requires_grad_(False).eval()


def outcome(model: AutoencoderKL | AutoencoderTiny, device: torch.device, dtype: torch.dtype, **options: object):
    """The loss's terms and gradient of latents with an outlier that outlasts the mask's dilation."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 4, 12, 12, generator=generator, dtype=torch.float64)
    target[:, :, 5:7, 5:7] += 12
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    loss = LatentPerceptualLoss(copy.deepcopy(model), dtype=dtype, **options).to(device)
    given = torch.float64 if dtype == torch.float64 else torch.float32
    leaf = prediction.to(device, given).requires_grad_()
    terms = loss(leaf, target.to(device, given), 1.0, return_terms=True)
    terms.loss.backward()
    return terms, leaf.grad.double().cpu()


@pytest.mark.parametrize(
    ("make", "outliers", "normalization"),
    [
        (autoencoder, "all", "prediction"),
        (autoencoder, "none", "prediction"),
        (autoencoder, "all", "unit"),
        (autoencoder, "all", "independent"),
        (tiny_autoencoder, "all", "prediction"),
    ],
)
def test_agrees_with_float64(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, make: Any, outliers: str, normalization: str
) -> None:
    options = {"outliers": outliers, "normalization": normalization}
    model = make()
    exact, expected = outcome(model, torch.device("cpu"), torch.float64, **options)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(attention, "ON_CPU", device.type == "cpu")
    monkeypatch.setattr(attention, "WIDEST", 4)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        terms, gradient = outcome(model, device, dtype, **options)
        assert abs(terms.loss.item() / exact.loss.item() - 1) < 0.1 * tolerance
        assert (gradient - expected).norm() < tolerance * expected.norm()
        if dtype == torch.float32:
            for name, share in exact.outlier_share.items():
                assert terms.outlier_share[name].item() == pytest.approx(share.item(), abs=1e-6)
    if outliers == "all":
        assert max(share.item() for share in exact.outlier_share.values()) > 0


def test_kernels_were_used(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the comparison above would be of the plain path with itself."""
    from lpl.kernels import addition, group_norm, statistics

    seen = set()
    for module, name in ((group_norm, "forward"), (group_norm, "backward"), (addition, "add_")):
        original = getattr(module, name)

        def spy(*arguments: object, original=original, name=name) -> object:
            seen.add(name)
            return original(*arguments)

        monkeypatch.setattr(module, name, spy)
    monkeypatch.setattr(statistics, "map_moments", lambda *a, o=statistics.map_moments: seen.add("moments") or o(*a))
    outcome(autoencoder(), device, torch.bfloat16)
    assert seen == {"forward", "backward", "add_", "moments"}


def test_half_precision_runs_channels_last_whatever_the_weights(device: torch.device) -> None:
    model = autoencoder().bfloat16().to(device)
    assert not model.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for features in DecoderFeatures(model)(torch.randn(2, 4, 6, 6, device=device)).values():
        assert features.is_contiguous(memory_format=torch.channels_last)


def test_an_autoencoder_that_is_on_the_device_already(device: torch.device) -> None:
    """The loss needs no `.to(device)` then."""
    model = autoencoder().to(device)
    loss = LatentPerceptualLoss(model)
    latents = torch.randn(1, 4, 8, 8, device=device)
    assert loss(latents + 0.1, latents, 1.0).item() > 0


def test_scaling_follows_the_autoencoder() -> None:
    assert LatentPerceptualLoss(autoencoder().to("meta")).features.scaling.mean.device.type == "meta"


def test_attention_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "WEIGHTS", 2 * 30 * 7)  # some rows at a time, the last ones fewer
    query, key, value, above = (torch.randn(2, 30, 16).bfloat16().requires_grad_() for _ in range(4))
    wide = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*wide, scale=0.3)
    expected_gradients = torch.autograd.grad(expected, wide, above.double())
    output = attention.attention(query, key, value, 0.3)
    gradients = torch.autograd.grad(output, (query, key, value), above)
    assert output.dtype == torch.bfloat16
    for got, wanted in zip((output, *gradients), (expected, *expected_gradients), strict=True):
        assert (got - wanted).norm() < 0.01 * wanted.norm()
