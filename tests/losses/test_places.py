from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpl.losses.maps import pieces
from lpl.losses.places import MemoryOrder, in_a_row, places_of

LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPE = (2, 3, 5, 4)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 70), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_places_are_where_flags_are_set(length: int, share: float, seed: int) -> None:
    flags = torch.rand(length, generator=torch.Generator().manual_seed(seed)) < share
    assert places_of(flags.to(torch.int8)).tolist() == [place for place, flag in enumerate(flags.tolist()) if flag]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_count_values_as_they_lie(layout: torch.memory_format) -> None:
    values = torch.rand(SHAPE).contiguous(memory_format=layout)
    order, every = MemoryOrder.of(values), torch.arange(values.numel())
    sample, channel, row, column = order.index(every)
    assert torch.equal(values[sample, channel, row, column], in_a_row(values))
    assert torch.equal(order.maps(every), sample * SHAPE[1] + channel)
    assert torch.equal(order.numbers(sample, channel, row * SHAPE[3] + column), every)
    assert order.holds(values)
    assert not order.holds(values.contiguous(memory_format=LAYOUTS[1 - LAYOUTS.index(layout)]))
    for piece in pieces(values):
        assert in_a_row(values)[order.first(piece)] == values[piece].flatten()[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_windows_end_where_the_map_does(layout: torch.memory_format, window: int) -> None:
    values = torch.zeros(SHAPE).contiguous(memory_format=layout)
    order, half = MemoryOrder.of(values), window // 2
    for sample, channel, row, column in ((0, 0, 0, 0), (1, 2, 4, 3), (1, 0, 2, 1)):
        place = order.numbers(*(torch.tensor([number]) for number in (sample, channel, row * SHAPE[3] + column)))
        expected, rows = torch.zeros(2, *SHAPE)
        expected[sample, channel, max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = 1
        rows[sample, channel, max(row - half, 0) : row + half + 1, column] = 1
        for around, alone in ((expected, False), (rows, True)):
            found = order.around(torch.cat([place, place]), window, rows_alone=alone)
            wanted = in_a_row(around.contiguous(memory_format=layout)).nonzero().flatten()
            assert torch.equal(found, wanted)
        windows = order.windows(place, window)
        assert windows.shape == (1, window, window)
        assert torch.equal(windows.unique(), order.around(place, window))
