from __future__ import annotations

import numpy as np
import pytest
import torch

from lpl.losses.ranks import kth_smallest, next_value, order_of, value_at

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_equals_sorting(dtype: torch.dtype, layout: torch.memory_format, scale: float) -> None:
    maps = torch.randn(2, 5, 13, 17, generator=torch.Generator().manual_seed(0)) * scale
    maps[0, 0] = 0.0
    maps[0, 1] = -0.25
    maps[1, 0] = maps[1, 0].abs()
    maps = maps.to(dtype).contiguous(memory_format=layout)
    ordered = np.sort(maps.double().numpy().reshape(2, 5, -1), axis=-1)
    for rank in (1, 2, 100, 221):
        assert np.array_equal(kth_smallest(maps, rank).double().numpy(), ordered[..., rank - 1])


def test_infinities_are_numbers() -> None:
    maps = torch.tensor([-torch.inf, 3.0, torch.inf, 1.0]).view(1, 1, 2, 2)
    assert [kth_smallest(maps, rank).item() for rank in (1, 2, 3, 4)] == [-np.inf, 1.0, 3.0, np.inf]


def test_not_a_number_comes_back() -> None:
    maps = torch.tensor([0.0, torch.nan, 2.0, 1.0]).view(1, 1, 2, 2)
    assert torch.isnan(kth_smallest(maps, 2)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_is_that_of_the_numbers(dtype: torch.dtype) -> None:
    values = torch.tensor([-torch.inf, -3e4, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, 3e4, torch.inf], dtype=dtype)
    order = order_of(values)
    assert (order[1:] > order[:-1]).all()
    assert torch.equal(value_at(order, dtype), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_are_pytorchs(dtype: torch.dtype) -> None:
    values = torch.tensor([-2.5, -1.0, 1.0, 1e-30, 7.0], dtype=dtype)
    for direction in (-torch.inf, torch.inf):
        assert torch.equal(next_value(values, direction), torch.nextafter(values, torch.tensor(direction, dtype=dtype)))
