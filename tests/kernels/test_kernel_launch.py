from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels import fused
from lpl.kernels.launch import FEWEST, MOST_STEPS, PROGRAMS, tiling


def test_what_is_taken(device: torch.device) -> None:
    maps = torch.randn(2, 4, 3, 5, device=device)
    assert fused(channels_last(maps))
    assert fused(channels_last(maps).bfloat16(), channels_last(maps).to(torch.int8))
    assert not fused(maps)
    assert not fused(channels_last(maps), maps)
    assert not fused(channels_last(maps).double())
    assert not fused(channels_last(maps)[:, :3])
    assert not fused(torch.randn(2, 4, 3, device=device))
    assert not fused(channels_last(maps)[:0])


def test_nothing_is_taken_on_the_cpu() -> None:
    assert not fused(channels_last(torch.randn(2, 4, 3, 5)))


def test_a_single_sample_of_any_batch_stride_is_taken(device: torch.device) -> None:
    maps = channels_last(torch.randn(1, 4, 3, 5, device=device))
    assert fused(maps.as_strided(maps.shape, (4, *maps.stride()[1:])))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 6, 7, 9), (2, 130, 20, 20), (1, 512, 64, 64), (1, 3, 1500, 1500)])
def test_programs_cover_every_number_once(shape: tuple[int, ...]) -> None:
    how = tiling(torch.empty(shape, device="meta"))
    chunks, samples, blocks = how.grid
    assert (how.positions, how.channels, samples) == (shape[2] * shape[3], shape[1], shape[0])
    assert (chunks - 1) * how.chunk < how.positions <= chunks * how.chunk
    assert (blocks - 1) * how.block < how.channels <= blocks * how.block
    assert how.block & (how.block - 1) == how.rows & (how.rows - 1) == how.steps & (how.steps - 1) == 0
    assert how.even == (how.positions == chunks * how.chunk and how.channels == blocks * how.block)
    assert chunks == 1 or how.chunk >= FEWEST
    assert chunks * samples * blocks < 2 * PROGRAMS + samples * blocks or how.steps == MOST_STEPS
