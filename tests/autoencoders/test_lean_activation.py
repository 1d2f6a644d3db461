from __future__ import annotations

import torch
import torch.nn.functional as F

from lpl.autoencoders.lean import kept_bytes
from lpl.autoencoders.lean.activation import GatedSiLU, MaskedReLU


def test_relu_values_gradient_and_bytes() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(MaskedReLU.apply(x), F.relu(x))
    assert torch.autograd.gradcheck(MaskedReLU.apply, x)
    assert kept_bytes(lambda: MaskedReLU.apply(x)) == x.numel()


def test_relu_stops_gradients_that_are_not_finite() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0, 3.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(MaskedReLU.apply(x), x, torch.tensor([float("inf"), float("nan"), 1.0, -5.0]))
    assert gradient.tolist() == [0.0, 0.0, 1.0, -5.0]


def test_gated_silu_values_gradient_and_bytes() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    value, gate = x.chunk(2, dim=1)
    assert torch.allclose(GatedSiLU.apply(x), value * gate * torch.sigmoid(gate), atol=1e-14)
    assert torch.autograd.gradcheck(GatedSiLU.apply, x)
    assert kept_bytes(lambda: GatedSiLU.apply(x)) == x.numel() * 8
