from __future__ import annotations

import torch
from torch import nn

from benchmarks.flops import FlopCounter


def test_counts_a_convolution_and_its_input_gradient_by_hand() -> None:
    convolution = nn.Conv2d(3, 5, 3, padding=1, bias=False).requires_grad_(False)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    forward = 2 * 2 * 8 * 8 * 3 * 5 * 9  # a multiplication and an addition each
    with FlopCounter() as counter:
        y = convolution(x)
    assert counter.total == forward
    with FlopCounter() as counter:
        y.sum().backward()
    assert counter.total == forward


def test_counts_what_is_computed_within_a_forward_pass() -> None:
    linear = nn.Linear(4, 6)
    leaf = torch.randn(3, 4, requires_grad=True)
    with FlopCounter() as counter:
        torch.autograd.grad(linear(leaf).sum(), leaf)
    assert counter.total == 2 * (2 * 3 * 4 * 6)


def test_a_product_into_another_type_is_counted_like_any() -> None:
    first, second = (torch.empty(2, *shape, dtype=torch.bfloat16, device="meta") for shape in ((4, 8), (8, 6)))
    with FlopCounter() as counter:
        torch.bmm(first, second, out_dtype=torch.float32)
    assert counter.total == 2 * (2 * 4 * 8 * 6)
