from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from layouts import channels_last
from lpl.kernels.group_norm import backward, forward


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize(
    ("shape", "groups", "shifted"),
    [((2, 6, 9, 7), 3, True), ((1, 48, 20, 20), 8, False), ((2, 130, 13, 10), 65, True), ((1, 6, 1, 1), 2, False)],
)
def test_values_and_gradient(
    device: torch.device, activation: str, shape: tuple[int, ...], groups: int, shifted: bool
) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(shape, device=device) * 2 + 30)
    weight, bias, shift = torch.randn(3, shape[1], device=device)
    above = channels_last(torch.randn(shape, device=device))
    wide = maps.double().requires_grad_()
    moved = wide + shift.double().reshape(1, -1, 1, 1) if shifted else wide
    normal = F.group_norm(moved, groups, weight.double(), bias.double(), 1e-6)
    expected = F.silu(normal) if activation == "silu" else F.relu(normal)
    (expected_gradient,) = torch.autograd.grad(expected, wide, above.double())
    given = shift if shifted else None

    output, statistics = forward(maps, given, weight, bias, groups, 1e-6, activation)
    gradient = backward(above, maps, given, weight, bias, statistics, activation)

    assert output.movedim(1, -1).is_contiguous()
    assert gradient.movedim(1, -1).is_contiguous()
    assert (output - expected).norm() < 1e-5 * expected.norm()
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 32, 16, 16, device=device) + 3).to(dtype)
    weight, bias = torch.randn(2, 32, device=device).to(dtype)
    expected = F.silu(F.group_norm(maps.double(), 4, weight.double(), bias.double(), 1e-6))
    output, _ = forward(maps, None, weight, bias, 4, 1e-6, "silu")
    assert output.dtype == dtype
    # Triton's interpreter cuts digits off where hardware rounds to nearest.
    assert (output - expected).norm() < torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_nan_is_handed_on(device: torch.device, activation: str) -> None:
    torch.manual_seed(0)
    maps = channels_last(torch.randn(2, 4, 5, 5, device=device))
    maps[0, 0, 1, 1] = torch.nan
    weight, bias = torch.randn(2, 4, device=device)
    wide = maps.clone().requires_grad_()
    normal = F.group_norm(wide, 2, weight, bias, 1e-6)
    expected = F.silu(normal) if activation == "silu" else F.relu(normal)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), wide)
    output, statistics = forward(maps, None, weight, bias, 2, 1e-6, activation)
    gradient = backward(torch.ones_like(maps), maps, None, weight, bias, statistics, activation)
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(gradient.isnan(), expected_gradient.isnan())
