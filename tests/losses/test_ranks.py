from __future__ import annotations

import numpy as np
import pytest
import torch

from lpl.losses import ranks
from lpl.losses.moments import extremes, moments
from lpl.losses.ranks import Statistics, order_of, threshold_above, value_at

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def some_maps(dtype: torch.dtype, layout: torch.memory_format, size: tuple[int, int], power: float) -> torch.Tensor:
    maps = torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(0))
    maps = maps.sign() * maps.abs() ** power
    maps[0, 0] = 0.0
    maps[0, 1] = -0.25
    maps[0, 2] = maps[0, 2].abs()
    maps[0, 3, 0, 0] = 1e4  # the bracket begins far too wide
    maps[0, 4] = (maps[0, 4] * 4).round() / 4  # many equal values
    maps[0, 5] = maps[0, 5] * 1e-3 + 100
    return maps.to(dtype).contiguous(memory_format=layout)


def statistics_of(maps: torch.Tensor) -> Statistics:
    mean, variance = moments(maps)
    lowest, highest = extremes(maps)
    return Statistics(mean[0], variance[0].sqrt(), lowest[0], highest[0])


@pytest.fixture(autouse=True, params=[0, ranks.FEW], ids=["counted", "sorted"])
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, whatever the maps' size."""
    monkeypatch.setattr(ranks, "FEW", request.param)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(4, 3), (40, 53)])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_decides_as_sorting_does(dtype, layout, size, power) -> None:
    maps = some_maps(dtype, layout, size, power)
    values = maps.double().numpy().reshape(8, -1)
    ordered = np.sort(values, axis=-1)
    for rank in (1, 2, values.shape[1] // 2, int(values.shape[1] * 0.98), values.shape[1]):
        for factor in (0.0, 0.1, 2.0):
            margin = torch.from_numpy(factor * values.std(axis=-1)).to(torch.promote_types(dtype, torch.float32))
            threshold = threshold_above(maps, rank, margin, statistics_of(maps)).double().numpy()
            limit = ordered[:, rank - 1].astype(margin.numpy().dtype) + margin.numpy()
            assert np.array_equal(values > threshold[:, None], values > limit[:, None])


def test_infinities_are_numbers() -> None:
    maps = torch.tensor([-torch.inf, 3.0, torch.inf, 1.0]).view(1, 1, 2, 2)
    for rank, expected in ((1, 3), (2, 2), (3, 1), (4, 0)):
        assert (maps > threshold_above(maps, rank, torch.zeros(1), statistics_of(maps))).sum() == expected


def test_not_a_number_comes_back() -> None:
    maps = torch.tensor([0.0, torch.nan, 2.0, 1.0]).view(1, 1, 2, 2)
    assert torch.isnan(threshold_above(maps, 2, torch.zeros(1), statistics_of(maps))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_is_that_of_the_numbers(dtype: torch.dtype) -> None:
    values = torch.tensor([-torch.inf, -3e4, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, 3e4, torch.inf], dtype=dtype)
    order = order_of(values)
    assert (order[1:] > order[:-1]).all()
    assert torch.equal(value_at(order, dtype), values)
