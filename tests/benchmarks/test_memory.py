from __future__ import annotations

import math
import os
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.memory import in_fresh_process, peak_kept, peak_resident_bytes


def test_counts_what_a_module_keeps_by_hand() -> None:
    """A linear layer keeps its input for a trained weight; SiLU keeps its input; the frozen weight does not count."""
    linear = nn.Linear(4, 6)
    x = torch.randn(3, 4, requires_grad=True)
    with peak_kept(linear) as kept:
        y = nn.functional.silu(linear(x))
    assert kept.peak == 3 * 4 * 4 + 3 * 6 * 4  # x, and SiLU's input; float32
    y.sum().backward()
    del y
    assert kept.bytes == 0
    assert kept.peak == 120


def test_a_storage_counts_once_however_many_views_are_kept() -> None:
    x = torch.randn(100, requires_grad=True)
    with peak_kept() as kept:
        results = [x.sin(), x[:10].cos()]
    assert kept.peak == 400
    assert len(results) == 2


def test_weights_count_where_they_are_not_said_to_be_frozen() -> None:
    linear = nn.Linear(4, 3).requires_grad_(False)
    x = torch.randn(2, 4, requires_grad=True)
    with peak_kept() as kept:
        y = linear(x)
    assert kept.peak == 4 * 3 * 4
    assert y.requires_grad


class Square(torch.autograd.Function):
    """Keeps 2x, by save_for_backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(2 * x)
        return x.square()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


def test_what_custom_functions_save_counts() -> None:
    x = torch.randn(5, 7, requires_grad=True)
    with peak_kept() as kept:
        y = Square.apply(x)
    assert kept.peak == 5 * 7 * 4
    y.sum().backward()
    assert torch.allclose(x.grad, 2 * x)


def test_one_after_the_other_keeps_as_much_as_one() -> None:
    x = torch.randn(8, 1000, requires_grad=True)
    with peak_kept() as together:
        x.exp().sum().backward()
    with peak_kept() as streamed:
        for row in x:
            row.exp().sum().backward()
    assert together.peak == 8 * 4000
    assert streamed.peak == 4000


def test_peak_of_resident_memory() -> None:
    # 64 MiB, in a process that has no memory left over to take them from.
    peak = in_fresh_process(peak_resident_bytes, partial(torch.ones, 2**24))
    assert 60 * 2**20 < peak < 90 * 2**20


def test_a_fresh_process_returns_its_result_and_reports_its_death() -> None:
    assert in_fresh_process(math.sqrt, 9.0) == 3
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(RuntimeError, match="_exit: its process ended with exit code 3"):
        in_fresh_process(os._exit, 3)
