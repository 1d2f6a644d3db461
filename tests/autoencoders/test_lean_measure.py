from __future__ import annotations

import torch
from torch import nn

from lpl.autoencoders.lean import count_kept_bytes, kept_bytes


def test_each_storage_is_counted_once_and_whole() -> None:
    x = torch.randn(100, requires_grad=True)
    with count_kept_bytes() as kept:
        results = [x.sin(), x[:10].exp(), x.cos()]  # keep x (400 bytes, twice) and exp's result (40)
    assert kept.bytes == 440
    assert kept.tensors == [(torch.Size([100]), torch.float32), (torch.Size([10]), torch.float32)]
    assert len(results) == 3


def test_weights_are_left_out_on_request() -> None:
    linear = nn.Linear(4, 3).requires_grad_(False)
    x = torch.randn(2, 4, requires_grad=True)
    assert kept_bytes(lambda: linear(x)) == 4 * 3 * 4
    assert kept_bytes(lambda: linear(x), linear) == 0


def test_counts_where_gradients_are_switched_off_outside() -> None:
    x = torch.randn(10, requires_grad=True)
    with torch.no_grad():
        assert kept_bytes(lambda: x.sin()) == 40
