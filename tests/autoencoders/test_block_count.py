from __future__ import annotations

import pytest

import zoo
from lpl import DecoderFeatures


@pytest.mark.parametrize("name", ["stable_diffusion", "taef2"])
def test_a_number_of_blocks_means_the_first_ones(name: str) -> None:
    model = zoo.make(name)
    every = DecoderFeatures(model).blocks
    assert [DecoderFeatures(model, count).blocks for count in range(1, len(every) + 1)] == [
        every[:count] for count in range(1, len(every) + 1)
    ]
    with pytest.raises(ValueError, match=rf"blocks: got {len(every) + 1}, .* has 1 to {len(every)}"):
        DecoderFeatures(model, len(every) + 1)


def test_a_number_means_nothing_where_the_blocks_are_not_known() -> None:
    with pytest.raises(ValueError, match="blocks: needed for Sequential"):
        DecoderFeatures(zoo.make("taef2").decoder, 2)
