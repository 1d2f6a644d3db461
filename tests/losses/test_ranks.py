from __future__ import annotations

import numpy as np
import pytest
import torch

from lpl.losses import ranks
from lpl.losses.ranks import order_of, order_statistics_in_tails, value_at, widened_order_statistics

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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_tails_hold_what_sorting_finds(dtype, layout, power) -> None:
    maps = some_maps(dtype, layout, (40, 53), power)
    ordered = maps[0].flatten(1).double().sort().values
    ranks = (42, 2078)
    for inner in (0, 1, 40, 400):  # how many numbers more the tails hold, on either side
        low, high = (ordered[:, place].to(dtype) for place in (ranks[0] - 1 + inner, ranks[1] - 1 - inner))
        found = order_statistics_in_tails(maps, ranks, low, high)
        for values, rank in zip(found, ranks, strict=True):
            assert values.dtype == dtype
            assert torch.equal(values.double(), ordered[:, rank - 1])
    unwanted = torch.full((8,), torch.inf, dtype=dtype)
    assert torch.equal(order_statistics_in_tails(maps, ranks, low, unwanted)[0].double(), ordered[:, ranks[0] - 1])
    assert torch.equal(order_statistics_in_tails(maps, ranks, -unwanted, high)[1].double(), ordered[:, ranks[1] - 1])


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
