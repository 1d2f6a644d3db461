from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lpl.autoencoders.lean import kept_bytes, make_lean
from lpl.autoencoders.lean.convolution import Geometry, fold_upsampling, frozen_convolution, transposed

CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x3": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 4, 5)),
    "1x1": (lambda: nn.Conv2d(3, 2, 1, bias=False), (2, 3, 3, 4)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=(1, 0)), (1, 2, 6, 5)),
    "dilated": (lambda: nn.Conv2d(2, 2, 3, dilation=2, padding=2), (1, 2, 5, 4)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 3, 3)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 3, 3)),
    "1d": (lambda: nn.Conv1d(3, 2, 3, padding=1), (2, 3, 5)),
    "3d": (lambda: nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0)), (1, 2, 3, 2, 2)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 2, 3, 3)),
}


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradient_as_a_transposed_convolution(name: str) -> None:
    """What a GPU computes."""
    torch.manual_seed(0)
    make, shape = CONVOLUTIONS[name]
    plain = frozen(make().double())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    output = plain(x)
    grad = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, x, grad)
    geometry = Geometry(
        plain.stride, plain.padding, plain.dilation, plain.transposed, plain.output_padding, plain.groups
    )
    gradient = torch.convolution(grad, plain.weight, None, *transposed(geometry, x.shape, grad, plain.weight))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradient_is_the_derivative(name: str) -> None:
    torch.manual_seed(0)
    make, shape = CONVOLUTIONS[name]
    plain = frozen(make().double())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = plain(x)
    lean = make_lean(plain)
    assert torch.equal(lean(x), expected)
    assert torch.autograd.gradcheck(lean, x)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_residual_and_relu(relu: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    lean = make_lean(frozen(nn.Conv2d(3, 3, 3, padding=1).double()))
    x, residual = (
        torch.randn(2, 3, 4, 4).double().to(memory_format=layout).requires_grad_() for _ in ("input", "residual")
    )
    expected = F.conv2d(x, lean.weight, lean.bias, padding=1) + residual
    output = lean.fused(x, residual, relu)
    assert torch.allclose(output, expected.relu() if relu else expected, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x, residual: lean.fused(x, residual, relu), (x, residual))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_layout", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts_as_plain(dtype: torch.dtype, weight_layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = frozen(nn.Conv2d(16, 24, 3, padding=1, stride=2).to(dtype, memory_format=weight_layout))
    x = torch.randn(2, 16, 8, 8).to(dtype, memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(2, 24, 4, 4).to(dtype, memory_format=torch.channels_last)
    expected = plain(x)
    (expected_gradient,) = torch.autograd.grad(expected, x, grad)
    output = make_lean(plain)(x)
    (gradient,) = torch.autograd.grad(output, x, grad)
    assert output.dtype == gradient.dtype == dtype
    assert output.stride() == expected.stride()
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(output, expected)
    tolerance = 2 * torch.finfo(dtype).eps
    assert torch.linalg.vector_norm((gradient - expected_gradient).float()) < tolerance * expected_gradient.norm()


def test_autocast_as_plain() -> None:
    torch.manual_seed(0)
    plain = frozen(nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(x)
        lean = make_lean(plain)
        output = lean(x)
        summed = lean.fused(x, residual=x, relu=True)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    assert summed.dtype == torch.float32  # a float32 residual promotes the sum, as `+` would
    assert torch.equal(summed, (expected + x).relu())
    (expected_gradient,) = torch.autograd.grad(expected.float().sin().sum(), x)
    (gradient,) = torch.autograd.grad(output.float().sin().sum(), x)
    assert gradient.dtype == torch.float32
    assert torch.allclose(gradient, expected_gradient, rtol=0.02, atol=0.02)


def test_keeps_nothing_of_the_activations() -> None:
    plain = frozen(nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    assert kept_bytes(lambda: plain(x), plain) == x.numel() * 4
    lean = make_lean(plain)
    assert kept_bytes(lambda: lean(x), lean) == 0
    assert kept_bytes(lambda: lean.fused(x, relu=True), lean) == x.numel()


def test_linear_layers_and_upsampling_are_lean_as_they_are() -> None:
    linear = frozen(nn.Linear(8, 8))
    x = torch.randn(2, 4, 8, requires_grad=True)
    assert kept_bytes(lambda: linear(x), linear) == 0
    maps = torch.randn(1, 2, 4, 4, requires_grad=True)
    assert kept_bytes(lambda: F.interpolate(maps, scale_factor=2.0, mode="nearest")) == 0


@pytest.mark.parametrize("condition", ["circular", "same", "trainable", "output_size", "unbatched"])
def test_falls_back_to_plain(condition: str) -> None:
    torch.manual_seed(0)
    options = {"circular": {"padding": 1, "padding_mode": "circular"}, "same": {"padding": "same"}}
    module: nn.Module = nn.Conv2d(2, 2, 3, **options.get(condition, {"padding": 1}))
    if condition == "output_size":
        module = nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1)
    arguments = ([8, 8],) if condition == "output_size" else ()
    module = module.requires_grad_(condition == "trainable")
    x = torch.randn(*(() if condition == "unbatched" else (1,)), 2, 4, 4)
    expected = module(x, *arguments)
    output = make_lean(module)(x, *arguments)
    assert torch.equal(output, expected)
    if condition == "trainable":
        (gradient,) = torch.autograd.grad(output.sum(), module.weight)
        assert gradient.abs().sum() > 0


def test_weights_that_start_to_require_gradients_get_them() -> None:
    lean = make_lean(frozen(nn.Conv2d(2, 2, 3)))
    lean.weight.requires_grad_()
    (gradient,) = torch.autograd.grad(lean(torch.ones(1, 2, 4, 4)).sum(), lean.weight)
    assert torch.allclose(gradient, torch.full_like(gradient, 4.0))


def test_second_derivatives_are_refused() -> None:
    lean = make_lean(frozen(nn.Conv2d(2, 2, 3)))
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(lean(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize(("side", "padding"), [(1, 0), (3, 0), (3, 1), (3, 2), (5, 2)])
def test_folding_a_doubling_into_the_convolution(side: int, padding: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(3, 2, side, side, dtype=torch.float64), torch.randn(2, 2, 4, 5, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=padding)
    geometry = Geometry((2, 2), (side - 1 - padding,) * 2, (1, 1), True, (0, 0), 1)
    output = frozen_convolution(x, fold_upsampling(weight), None, geometry)
    assert output.shape == expected.shape
    assert torch.allclose(output, expected, atol=1e-12)


def test_folded_kernel_follows_the_weight() -> None:
    torch.manual_seed(0)
    lean = make_lean(frozen(nn.Conv2d(2, 2, 3, padding=1)))
    x = torch.randn(1, 2, 4, 4)
    doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.allclose(lean.upsampled(x), lean(doubled), atol=1e-5)
    lean.weight.mul_(2)  # as loading other weights does
    assert torch.allclose(lean.upsampled(x), lean(doubled), atol=1e-5)
    lean.double()
    assert torch.allclose(lean.upsampled(x.double()), lean(doubled.double()), atol=1e-12)
    assert "_folded" not in lean.state_dict()
