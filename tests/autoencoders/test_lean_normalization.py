from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from torch import nn

from lpl.autoencoders.lean import kept_bytes, make_lean, normalization
from lpl.autoencoders.lean.normalization import ACTIVATIONS, group_norm_activation

FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}


def group_norm(channels: int, groups: int, affine: bool = True, dtype: torch.dtype = torch.float64) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, affine=affine, dtype=dtype).requires_grad_(False)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def by_hand(x: torch.Tensor, norm: nn.GroupNorm, activation: nn.Module) -> torch.Tensor:
    """The definition, in float64."""
    x = x.double()
    grouped = x.flatten(2).unflatten(1, (norm.num_groups, -1)).flatten(2)
    centred = grouped - grouped.mean(-1, keepdim=True)
    normalized = (centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()).reshape(x.shape)
    if norm.affine:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        normalized = normalized * norm.weight.double().reshape(shape) + norm.bias.double().reshape(shape)
    return activation(normalized)


@pytest.fixture(params=["cpu_kernels", "portable"])
def implementation(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the CPU's kernels, and with what other devices and compilers are given."""
    if request.param == "portable":
        monkeypatch.setattr(normalization, "_uses_batch_norm", lambda tensor: False)
        monkeypatch.setattr(normalization, "_has_kernel", lambda tensor: False)
    return request.param


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.ReLU()], ids=["silu", "relu"])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 6, 5), "contiguous"),
        ((2, 6, 3, 4), "contiguous"),
        ((2, 6, 3, 4), "channels_last"),
        ((1, 6, 3, 4), "channels_last"),
        ((2, 6, 2, 3, 2), "channels_last_3d"),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_values_and_gradient(
    implementation: str, activation: nn.Module, shape: tuple[int, ...], layout: str, affine: bool
) -> None:
    torch.manual_seed(0)
    norm = group_norm(6, 3, affine)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=FORMATS[layout]) * 2 + 1
    x.requires_grad_()

    def lean(x: torch.Tensor) -> torch.Tensor:
        return group_norm_activation(x, norm, ACTIVATIONS[type(activation)])

    output = lean(x)
    assert torch.allclose(output, by_hand(x, norm, activation), atol=1e-12)
    assert output.is_contiguous(memory_format=FORMATS[layout])
    assert torch.autograd.gradcheck(lean, x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision(implementation: str, layout: str, dtype: torch.dtype) -> None:
    """As near to float64 as rounding of the input's and the result's dtype allows, with a mean far from zero."""
    torch.manual_seed(0)
    norm = group_norm(32, 4, dtype=dtype)
    x = (torch.randn(2, 32, 16, 16) + 3).to(dtype).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    grad = torch.randn(2, 32, 16, 16).to(dtype).contiguous(memory_format=FORMATS[layout])
    wide = x.detach().double().requires_grad_()
    expected = by_hand(wide, norm, nn.SiLU())
    (expected_gradient,) = torch.autograd.grad(expected, wide, grad.double())
    output = group_norm_activation(x, norm, ACTIVATIONS[nn.SiLU])
    (gradient,) = torch.autograd.grad(output, x, grad)
    assert output.dtype == gradient.dtype == dtype
    tolerance = 5e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert (output - expected).norm() < tolerance * expected.norm()
    tolerance = 2e-5 if dtype == torch.float32 else tolerance  # its input is kept in 24 bits
    assert (gradient - expected_gradient).norm() < tolerance * expected_gradient.norm()


def test_float32_weights_with_half_precision_maps() -> None:
    """What autocast produces: a bfloat16 map meets float32 weights."""
    torch.manual_seed(0)
    norm = group_norm(8, 2, dtype=torch.float32)
    x = torch.randn(1, 8, 4, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = group_norm_activation(x, norm, ACTIVATIONS[nn.SiLU])
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.double(), by_hand(x, norm, nn.SiLU()), atol=0.02)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.isfinite().all()


def test_strides_of_a_single_transposed_sample() -> None:
    """Attention returns maps that are channels-last but for the stride of their only sample."""
    torch.manual_seed(0)
    norm = group_norm(6, 2)
    x = torch.randn(1, 20, 6, dtype=torch.float64).transpose(1, 2).reshape(1, 6, 4, 5)
    x = x.as_strided(x.shape, (6, *x.stride()[1:])).requires_grad_()
    assert torch.allclose(group_norm_activation(x, norm, ACTIVATIONS[nn.SiLU]), by_hand(x, norm, nn.SiLU()))
    assert torch.autograd.gradcheck(lambda x: group_norm_activation(x, norm, ACTIVATIONS[nn.SiLU]), x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_keeps_its_input_and_two_numbers_a_group(layout: str) -> None:
    norm = group_norm(8, 4, dtype=torch.float32)
    x = torch.randn(3, 8, 6, 6).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    kept = kept_bytes(lambda: group_norm_activation(x, norm, ACTIVATIONS[nn.SiLU]), norm)
    assert kept == 3 * x.numel() + 4 * (2 * 3 * 4)  # 24 bits a value


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    plain = RMSNorm(5, eps=1e-4, elementwise_affine=affine, bias=bias).double().requires_grad_(False)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    expected = plain(x)
    lean = make_lean(plain)
    assert torch.allclose(lean(x), expected, atol=1e-6)  # diffusers takes the mean square in float32
    assert torch.autograd.gradcheck(lean, x)


@pytest.mark.parametrize(
    ("input_dtype", "weight_dtype"),
    [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)],
)
def test_rms_norm_dtypes_as_plain(input_dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = RMSNorm(64, eps=1e-6).to(weight_dtype).requires_grad_(False)
    x = torch.randn(2, 4, 64).to(input_dtype).requires_grad_()
    expected = plain(x)
    (expected_gradient,) = torch.autograd.grad(expected.float().sin().sum(), x)
    lean = make_lean(plain)
    output = lean(x)
    (gradient,) = torch.autograd.grad(output.float().sin().sum(), x)
    assert output.dtype == expected.dtype
    assert gradient.dtype == input_dtype
    tolerance = 1e-6 if input_dtype == torch.float32 else 0.02
    assert torch.allclose(output.float(), expected.float(), atol=tolerance, rtol=tolerance)
    tolerance = 5e-5 if input_dtype == torch.float32 else 0.02  # the input is kept in 24 bits
    assert torch.allclose(gradient.float(), expected_gradient.float(), atol=tolerance, rtol=tolerance)
    assert kept_bytes(lambda: lean(x), lean) <= x.numel() * min(x.element_size(), 3) + 2 * 4 * 4
