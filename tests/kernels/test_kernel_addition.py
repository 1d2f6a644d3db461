from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels.addition import add_


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 130, 9, 9)])
def test_sum(device: torch.device, biased: bool, with_residual: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    maps, residual = channels_last(torch.randn(shape, device=device)), channels_last(torch.randn(shape, device=device))
    bias = torch.randn(shape[1], device=device)
    expected = maps.clone()
    if biased:
        expected += bias.reshape(1, -1, 1, 1)
    if with_residual:
        expected += residual
    result = add_(maps, bias if biased else None, residual if with_residual else None)
    assert result is maps
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-6)
