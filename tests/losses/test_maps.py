from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpl.losses import maps as maps_module
from lpl.losses.maps import pieces, select_maps
from lpl.losses.moments import count_where, moments
from lpl.losses.outliers import outlier_mask

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
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_selected_maps_come_out_and_go_back(layout: torch.memory_format, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(SHAPE, generator=generator).contiguous(memory_format=layout)
    wanted = torch.rand(SHAPE[:2], generator=generator) < share
    expected = values.clone()
    expected[wanted] *= 2
    taken = []
    for selection in select_maps(values, wanted):
        taken.append(selection.take(values)[0])
        selection.put(values, selection.take(values).mul_(2))  # in place, also where what was taken is a view
    assert sum(len(maps) for maps in taken) == wanted.sum()
    assert torch.equal(values, expected)
