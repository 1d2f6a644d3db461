from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from lpl.analysis.costs import block_costs
from lpl.autoencoders import register_layout
from lpl.autoencoders.blocks import DecoderLayout, Stem


class TwoConvolutions(nn.Module):
    """A decoder whose operations can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 1)


@register_layout("TwoConvolutions")
def _layout(model: TwoConvolutions) -> DecoderLayout:
    return DecoderLayout(Stem([]), {"first": model.first, "second": model.second}, upscaling=1)


def test_operations_are_those_of_two_forward_passes_and_the_gradient() -> None:
    costs = block_costs(TwoConvolutions(), ("first", "second"), torch.randn(2, 4, 10, 10), repeats=1)
    first, second = 2 * 4 * 8 * 9 * 100, 2 * 8 * 6 * 100  # multiplications and additions of one pass
    assert costs["first"].gigaflops * 1e9 == pytest.approx(3 * first)
    assert costs["second"].added_gigaflops * 1e9 == pytest.approx(3 * second)
    assert costs["second"].gigaflops * 1e9 == pytest.approx(3 * (first + second))


def test_costs_add_up_and_grow_with_depth() -> None:
    blocks = ("mid_block", "up_blocks.0", "up_blocks.3")
    costs = block_costs(zoo.make("stable_diffusion"), blocks, torch.randn(1, 4, 4, 4), repeats=1)
    assert list(costs) == list(blocks)
    assert costs["up_blocks.3"].gigaflops == pytest.approx(sum(cost.added_gigaflops for cost in costs.values()))
    assert all(cost.added_gigaflops > 0 and cost.seconds > 0 for cost in costs.values())
