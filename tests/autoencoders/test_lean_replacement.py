from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from torch import nn

import zoo
from lpl import DecoderFeatures
from lpl.autoencoders import frozen_copy
from lpl.autoencoders.lean import kept_bytes, make_lean
from lpl.autoencoders.lean.modules import Lean

# Bytes kept over those of plain autograd at the zoo's small sizes, rounded up. Spatial norms (VQModel's) and linear
# attention (AutoencoderDC's) are differentiated as usual.
KEPT = {"tiny": 0.2, "taef2": 0.2, "vq_spatial": 0.8, "dc": 0.6}

SAME_DECODER = ("sdxl", "playground", "flux")  # as stable_diffusion's or sd3's, but for the scaling


def decoder(name: str) -> DecoderFeatures:
    return DecoderFeatures(zoo.make(name), lean=False)


def latents_for(features: DecoderFeatures, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    shape = (2, features.scaling.channels or 32, 4, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def features_and_gradient(module: nn.Module, latents: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    outputs = list(module(latents).values())
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output) for output in outputs]
    (gradient,) = torch.autograd.grad(outputs, latents, grads)
    return outputs, gradient


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    value, reference = value.detach().double(), reference.detach().double()
    return float((value - reference).norm() / reference.norm())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in SAME_DECODER])
def test_every_autoencoder_gives_the_same_features_and_gradient(name: str, layout: torch.memory_format) -> None:
    plain = decoder(name).double()
    latents = latents_for(plain, torch.float64)
    expected, expected_gradient = features_and_gradient(plain, latents)
    lean = make_lean(frozen_copy(plain)).to(memory_format=layout)
    outputs, gradient = features_and_gradient(lean, latents)
    for output, reference in zip(outputs, expected, strict=True):
        assert relative_error(output, reference) < 1e-6
    # AutoencoderDC's norms and attention compute in float32 whatever the weights' dtype.
    assert relative_error(gradient, expected_gradient) < (1e-5 if name == "dc" else 1e-9)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_autoencoder_in_float32_and_the_bytes_it_keeps(name: str) -> None:
    plain = decoder(name)
    latents = latents_for(plain)
    expected, expected_gradient = features_and_gradient(plain, latents)
    # Rounding moves values across ReLU's kink; without folding, the tiny decoders round as the plain ones do.
    lean = make_lean(frozen_copy(plain), fold_upsampling="tiny" not in name and name != "taef2")
    outputs, gradient = features_and_gradient(lean, latents)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.dtype == torch.float32
        assert relative_error(output, reference) < 1e-5
    assert relative_error(gradient, expected_gradient) < 1e-5
    share = kept_bytes(lambda: lean(latents), lean) / kept_bytes(lambda: plain(latents), plain)
    assert share < KEPT.get(name, 0.4)


def test_residual_blocks_keep_one_tensor_a_norm() -> None:
    block = ResnetBlock2D(in_channels=8, out_channels=16, temb_channels=None, groups=4).requires_grad_(False).eval()
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    lean = make_lean(block)
    assert kept_bytes(lambda: lean(x, None), lean) == 3 * (x.numel() + 16 * 36) + 4 * 2 * (4 + 4)


@pytest.mark.parametrize("change", ["conditioned", "scale", "training_dropout", "relu"])
def test_residual_blocks_of_other_kinds_compute_the_same(change: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "conditioned": {"temb_channels": 12},
        "scale": {"temb_channels": None, "output_scale_factor": 2.0},
        "training_dropout": {"temb_channels": None, "dropout": 0.5},
        "relu": {"temb_channels": None, "non_linearity": "relu"},
    }[change]
    plain = ResnetBlock2D(in_channels=8, groups=4, **options).requires_grad_(False)
    plain.train(change == "training_dropout")
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    temb = torch.randn(1, 12) if change == "conditioned" else None
    lean = make_lean(frozen_copy(plain)).train(plain.training)
    results = []
    for block in (plain, lean):
        torch.manual_seed(3)
        output = block(x, temb)
        results.append((output, torch.autograd.grad(output.square().sum(), x)[0]))
    for value, reference in zip(results[1], results[0], strict=True):
        assert torch.allclose(value, reference, rtol=1e-4, atol=1e-5)


def test_video_blocks() -> None:
    torch.manual_seed(0)
    plain = SpatioTemporalResBlock(in_channels=32, temb_channels=None).requires_grad_(False).eval()
    x = torch.randn(4, 32, 4, 4, requires_grad=True)
    indicator = torch.zeros(2, 2)
    expected = plain(x, None, indicator)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    before = kept_bytes(lambda: plain(x, None, indicator), plain)
    lean = make_lean(plain)
    output = lean(x, None, indicator)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    assert relative_error(output, expected) < 1e-5
    assert relative_error(gradient, expected_gradient) < 1e-5
    assert kept_bytes(lambda: lean(x, None, indicator), lean) < 0.4 * before


def test_the_original_is_left_alone() -> None:
    model = zoo.make("stable_diffusion")
    classes = {name: type(module) for name, module in model.named_modules()}
    lean = DecoderFeatures(model, lean=True)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert any(isinstance(module, Lean) for module in lean.modules())


class Doubling(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_unknown_watched_and_patched_modules_stay_plain() -> None:
    watched, patched = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    watched.register_forward_hook(lambda *_: None)
    patched.forward = lambda input: input + 1
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))
    modules = nn.ModuleList([Doubling(1, 1, 1), watched, patched, parametrized, nn.Conv2d(1, 1, 1)])
    make_lean(modules.requires_grad_(False))
    assert [isinstance(module, Lean) for module in modules] == [False, False, False, False, True]


def record(module: nn.Module, seen: list[torch.Tensor]) -> None:
    module.register_forward_hook(lambda _, __, output: seen.append(output))


@pytest.mark.parametrize("position", range(6))
def test_hooks_added_later_see_what_they_would_see(position: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.GroupNorm(2, 4), nn.SiLU(), nn.Upsample(scale_factor=2)]
    plain = nn.Sequential(*layers, nn.Conv2d(4, 2, 3)).requires_grad_(False)
    lean = make_lean(frozen_copy(plain))
    seen: list[torch.Tensor] = []
    for module in (plain, lean):
        record(module[position], seen)
    x = torch.randn(1, 2, 6, 6)
    assert torch.allclose(lean(x), plain(x), atol=1e-6)
    assert len(seen) == 2
    assert torch.allclose(seen[0], seen[1], atol=1e-6)


def test_hooks_inside_blocks_see_what_they_would_see() -> None:
    for name, path in {"stable_diffusion": "0.resnets.0.norm2", "tiny": "0.2.conv.1", "taef2": "1.2.conv.4"}.items():
        plain = decoder(name)
        lean = make_lean(frozen_copy(plain))
        seen: list[torch.Tensor] = []
        for features in (plain, lean):
            record(features.decoder.stages.get_submodule(path), seen)
            features(latents_for(features))
        assert len(seen) in (2, 4)  # AutoencoderTinyBlock's activation is one module in two places
        for value, reference in zip(seen[len(seen) // 2 :], seen, strict=False):
            assert torch.allclose(value, reference, atol=1e-5)


def test_copies_and_pickles() -> None:
    lean = make_lean(decoder("tiny"))
    latents = latents_for(lean)
    expected, _ = features_and_gradient(lean, latents)
    buffer = io.BytesIO()
    torch.save(lean, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(lean), torch.load(buffer, weights_only=False)):
        outputs, _ = features_and_gradient(copied, latents)
        assert all(torch.equal(output, reference) for output, reference in zip(outputs, expected, strict=True))
        assert kept_bytes(lambda copied=copied: copied(latents), copied) == kept_bytes(lambda: lean(latents), lean)


def test_twice_is_once() -> None:
    lean = make_lean(decoder("tiny"))
    classes = [type(module) for module in lean.modules()]
    assert [type(module) for module in make_lean(lean).modules()] == classes


@pytest.mark.parametrize("name", ["stable_diffusion", "tiny", "dc"])
def test_autocast(name: str) -> None:
    plain = decoder(name)
    latents = latents_for(plain)
    _, exact = features_and_gradient(plain, latents)
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_gradient = features_and_gradient(plain, latents)
        outputs, gradient = features_and_gradient(make_lean(frozen_copy(plain)), latents)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.dtype == reference.dtype
        assert relative_error(output, reference) < 0.02
    assert gradient.dtype == torch.float32
    assert relative_error(gradient, exact) < 1.5 * relative_error(expected_gradient, exact) + 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float32_as_plain(dtype: torch.dtype) -> None:
    plain = decoder("stable_diffusion").to(memory_format=torch.channels_last)
    latents = latents_for(plain)
    _, exact = features_and_gradient(plain, latents)
    half = frozen_copy(plain).to(dtype)
    _, expected_gradient = features_and_gradient(half, latents)
    _, gradient = features_and_gradient(make_lean(frozen_copy(half)), latents)
    assert relative_error(gradient, exact) < 1.5 * relative_error(expected_gradient, exact)


def test_compiles_without_breaking_the_graph() -> None:
    torch.manual_seed(0)
    layout = torch.channels_last
    block = ResnetBlock2D(in_channels=4, out_channels=8, temb_channels=None, groups=2)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), block, nn.Upsample(scale_factor=2.0), nn.Conv2d(8, 4, 3, padding=1)]
    lean = make_lean(nn.Sequential(*layers).requires_grad_(False).eval()).to(memory_format=layout)
    x = torch.randn(2, 2, 6, 6).contiguous(memory_format=layout).requires_grad_()
    expected = lean(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    output = torch.compile(lean, backend="aot_eager", fullgraph=True)(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    assert relative_error(output, expected) < 1e-6
    assert relative_error(gradient, expected_gradient) < 1e-5
