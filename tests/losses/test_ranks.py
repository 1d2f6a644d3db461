from __future__ import annotations

import numpy as np
import pytest
import torch

from lpl.losses import ranks
from lpl.losses.ranks import order_of, value_at, widened_order_statistics

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def some_maps(dtype: torch.dtype, layout: torch.memory_format, size: tuple[int, int], power: float) -> torch.Tensor:
    maps = torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(0))
    maps = maps.sign() * maps.abs() ** power
    maps[0, 0] = 0.0
    maps[0, 1] = -0.25
    maps[0, 2] = maps[0, 2].abs()
    maps[0, 3, 0, 0] = 1e4
    maps[0, 4] = (maps[0, 4] * 4).round() / 4  # many equal values
    maps[0, 5] = maps[0, 5] * 1e-3 + 100
    return maps.to(dtype).contiguous(memory_format=layout)


@pytest.fixture(autouse=True, params=["partitioned", "topk"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, on any device."""
    if request.param == "topk":
        monkeypatch.setattr(ranks.torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(4, 3), (40, 53)])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_decides_as_sorting_does(dtype, layout, size, power) -> None:
    maps = some_maps(dtype, layout, size, power)
    values = maps.double().numpy().reshape(8, -1)
    ordered, count = np.sort(values, axis=-1), values.shape[1]
    for low, high in (
        (1, count),
        (1, 1),
        (2, 1),
        (count // 2, count // 2 + 1),
        (max(count // 50, 1), int(count * 0.98)),
    ):
        for factor in (0.0, 0.1, 2.0):
            margin = torch.from_numpy(factor * values.std(axis=-1)).to(torch.promote_types(dtype, torch.float32))
            below, above = (
                threshold.double().numpy()[:, None] for threshold in widened_order_statistics(maps, low, high, margin)
            )
            lowest = (ordered[:, low - 1].astype(margin.numpy().dtype) - margin.numpy())[:, None]
            highest = (ordered[:, high - 1].astype(margin.numpy().dtype) + margin.numpy())[:, None]
            assert np.array_equal(values < below, values < lowest)
            assert np.array_equal(values > above, values > highest)


def test_infinities_are_numbers() -> None:
    maps = torch.tensor([-torch.inf, 3.0, torch.inf, 1.0]).view(1, 1, 2, 2)
    for rank, beyond in ((1, (0, 3)), (2, (1, 2)), (3, (2, 1)), (4, (3, 0))):
        below, above = widened_order_statistics(maps, rank, rank, torch.zeros(1))
        assert ((maps < below).sum(), (maps > above).sum()) == beyond


def test_not_a_number_comes_back() -> None:
    maps = torch.tensor([0.0, torch.nan, 2.0, 1.0]).view(1, 1, 2, 2)
    for threshold in widened_order_statistics(maps, 2, 3, maps.std().view(1)):
        assert torch.isnan(threshold).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_is_that_of_the_numbers(dtype: torch.dtype) -> None:
    values = torch.tensor([-torch.inf, -3e4, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, 3e4, torch.inf], dtype=dtype)
    order = order_of(values)
    assert (order[1:] > order[:-1]).all()
    assert torch.equal(value_at(order, dtype), values)
