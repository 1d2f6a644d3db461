from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels.distance import difference_levels, difference_sums, from_levels


@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 130, 20, 21)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_and_levels(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first, second = (channels_last(torch.randn(shape, device=device)).to(dtype) for _ in range(2))
    difference = first.double() - second.double()
    squares, largest = difference_sums(first, second)
    torch.testing.assert_close(squares.double(), difference.square().sum(dim=(2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(largest.double(), difference.abs().amax(dim=(2, 3)), rtol=1e-6, atol=0)

    factor = 127**2 / largest
    levels = difference_levels(first, second, factor)
    assert levels.movedim(1, -1).is_contiguous()
    exact = (difference.abs() * factor[..., None, None]).sqrt().copysign(difference)
    assert (levels - exact).abs().max() < 0.501
    assert levels.abs().amax(dim=(2, 3)).eq(127).all()

    back = from_levels(levels, factor.reciprocal(), dtype)
    assert back.dtype == dtype
    assert back.movedim(1, -1).is_contiguous()
    wanted = levels.double() * levels.double().abs() / factor[..., None, None]
    assert (back - wanted).norm() < torch.finfo(dtype).eps * wanted.norm()


def test_what_is_not_finite_is_not_hidden(device: torch.device) -> None:
    first, second = (channels_last(torch.randn(1, 3, 4, 4, device=device)).bfloat16() for _ in range(2))
    first[0, 1, 2, 2], first[0, 2, 0, 0] = torch.nan, torch.inf
    squares, largest = difference_sums(first, second)
    assert squares.isfinite().tolist() == [[True, False, False]]
    assert largest.isfinite().tolist() == [[True, False, False]]
