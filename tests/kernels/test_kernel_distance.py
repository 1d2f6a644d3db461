from __future__ import annotations

import pytest
import torch

from layouts import channels_last
from lpl.kernels import Mask
from lpl.kernels.distance import ROWS, difference_levels, difference_sums, from_levels


@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 130, 20, 21), (1, 32, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_and_levels(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, masked: bool) -> None:
    torch.manual_seed(0)
    first, second = (channels_last(torch.randn(shape, device=device)).to(dtype) for _ in range(2))
    difference, mask = first.double() - second.double(), None
    if masked:
        kept = channels_last((torch.rand(shape, device=device) < 0.8).to(torch.uint8))
        kept[0, 0], kept[-1, 1] = 1, 0
        mask, difference = Mask(kept, kept.sum(dim=(2, 3), dtype=torch.int32)), difference * kept
    squares, levels, steps = difference_levels(first, second, mask)
    torch.testing.assert_close(squares.double(), difference.square().sum(dim=(2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(difference_sums(first, second, mask), squares, rtol=1e-6, atol=0)
    assert levels.movedim(1, -1).is_contiguous()
    step = steps.repeat_interleave(ROWS, dim=1)[:, : shape[2] * shape[3]]  # (B, positions, C)
    step = step.movedim(1, 2).unflatten(2, shape[2:]).double()
    exact = (difference.abs() / step).sqrt().copysign(difference)
    assert (levels - exact).abs().max() < 0.501
    assert (levels.abs().amax(dim=(2, 3)) == 127).sum() == levels.shape[0] * levels.shape[1] - masked

    scale = torch.rand(shape[:2], device=device)
    back = from_levels(levels, steps, scale, dtype)
    assert back.dtype == dtype
    assert back.movedim(1, -1).is_contiguous()
    wanted = levels.double() * levels.double().abs() * step * scale[..., None, None]
    assert (back - wanted).norm() < torch.finfo(dtype).eps * wanted.norm()


def test_what_is_not_finite_is_not_hidden(device: torch.device) -> None:
    first, second = (channels_last(torch.randn(1, 3, 4, 4, device=device)).bfloat16() for _ in range(2))
    first[0, 1, 2, 2], first[0, 2, 0, 0] = torch.nan, torch.inf
    squares, _, steps = difference_levels(first, second)
    assert squares.isfinite().tolist() == [[True, False, False]]
    assert steps.isfinite().tolist() == [[[True, False, False]]]
