from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpl.losses import maps as maps_module
from lpl.losses.maps import pieces, select_maps
from lpl.losses.moments import count_where, moments
from lpl.losses.outliers import find_outliers, outlier_mask

LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPE = (3, 6, 20, 7)


@pytest.fixture(params=[1, 100, 300, 900, 2000, 10**6])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A sample of SHAPE has 840 values: parts of one, one, several, and all."""
    monkeypatch.setattr(maps_module, "FEW_VALUES", request.param)
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pieces_cover_every_value_once_and_are_small(few: int, layout: torch.memory_format) -> None:
    values = torch.zeros(SHAPE).contiguous(memory_format=layout)
    for piece in pieces(values):
        part = values[piece]
        part += 1
        assert part.numel() <= max(few, 20 * 7 if layout == torch.contiguous_format else 6 * 7)
    assert (values == 1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: count_where(x, (torch.ge, x.mean(dim=(2, 3))))[0],
        lambda x: torch.stack(moments(x)),
        lambda x: outlier_mask(x, down_f=1.0),
    ],
    ids=["count", "moments", "outliers"],
)
def test_pieces_change_nothing(
    function: Callable[[Tensor], Tensor], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    values[0, 1, 3:7, 2:5] = 40
    values = values.contiguous(memory_format=layout)
    expected = function(values)
    for few in (1, 300, 2000):
        monkeypatch.setattr(maps_module, "FEW_VALUES", few)
        actual = function(values)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_selected_maps_are_the_wanted_ones(layout: torch.memory_format, exactly: bool, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(SHAPE, generator=generator).contiguous(memory_format=layout)
    wanted = torch.rand(SHAPE[:2], generator=generator) < share
    taken = torch.zeros(SHAPE[:2], dtype=torch.int64)
    for selection in select_maps(values, wanted, exactly):
        assert torch.equal(selection.take(values)[0], values[selection.index])
        taken.index_put_(selection.index, torch.ones(()).long(), accumulate=True)
    assert (taken[wanted] == 1).all()
    assert (taken <= 1).all()
    assert not exactly or torch.equal(taken.bool(), wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cleared", LAYOUTS)
def test_outliers_are_cleared_piece_by_piece(
    few: int, layout: torch.memory_format, cleared: torch.memory_format
) -> None:
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    values[0, 1, 3, 2:4] = 40
    values[2, 5, -1, -1] = -40
    outliers = find_outliers(values.contiguous(memory_format=layout), down_f=2.0)
    expected = values * outliers.mask()
    actual = values.clone(memory_format=cleared)
    for piece in pieces(actual):
        actual[piece] = outliers.clear(actual[piece].clone(), piece)
    assert 0 < outliers.share() < 0.2
    assert torch.equal(actual, expected)
