from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels.addition import add_, where_positive


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(("relu", "marked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 130, 9, 9)])
def test_sum(
    device: torch.device, biased: bool, with_residual: bool, relu: bool, marked: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    maps, residual = channels_last(torch.randn(shape, device=device)), channels_last(torch.randn(shape, device=device))
    bias = torch.randn(shape[1], device=device)
    expected = maps.clone()
    if biased:
        expected += bias.reshape(1, -1, 1, 1)
    if with_residual:
        expected += residual
    if relu:
        expected.relu_()
    positive = add_(maps, bias if biased else None, residual if with_residual else None, relu, marked)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-6)
    if marked:
        assert torch.equal(positive.bool(), maps > 0)
        assert positive.movedim(1, -1).is_contiguous()
    else:
        assert positive is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_where_positive(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gradient = channels_last(torch.randn(2, 6, 9, 7, device=device)).to(dtype)
    gradient[0, 0, 0, 0] = gradient[0, 0, 0, 1] = torch.inf
    positive = channels_last((torch.rand(gradient.shape, device=device) < 0.5).to(torch.uint8))
    positive[0, 0, 0, 0], positive[0, 0, 0, 1] = 0, 1
    result = where_positive(gradient, positive)
    assert torch.equal(result, torch.where(positive.bool(), gradient, torch.zeros_like(gradient)))


def test_nan_is_not_hidden(device: torch.device) -> None:
    maps = channels_last(torch.full((1, 1, 2, 2), torch.nan, device=device))
    positive = add_(maps, None, None, relu=True, marked=True)
    assert maps.isnan().all()
    assert positive.all()
