import pytest
import torch
from torch import Tensor

import lpl.losses.maps as maps_module
from lpl.autoencoders.lean import kept_bytes
from lpl.losses.distance import in_bytes, squared_distance
from lpl.losses.outliers import find_outliers

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(dtype: torch.dtype, layout: torch.memory_format, seed: int = 0) -> Tensor:
    """Maps (2, 8, 32, 32) whose sizes differ by six orders of magnitude."""
    torch.manual_seed(seed)
    size = torch.logspace(-4, 2, 8)[:, None, None]
    return (torch.randn(2, 8, 32, 32) * size).to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "distance_tolerance", "gradient_tolerance"),
    [
        (torch.float64, 1e-12, 1e-12),
        (torch.float32, 1e-5, 1e-5),
        (torch.bfloat16, 0.01, 0.015),
        (torch.float16, 0.01, 0.015),
    ],
)
def test_distance_and_gradient(
    dtype: torch.dtype, distance_tolerance: float, gradient_tolerance: float, layout: torch.memory_format
) -> None:
    """Against float64 of the same numbers, map by map, so that small maps count as large ones do."""
    prediction, target = maps(dtype, layout).requires_grad_(), maps(dtype, layout, seed=1)
    weight = torch.rand(2, 8, dtype=torch.float64)
    difference = prediction.detach().double() - target.double()
    distance = squared_distance(prediction, target, None)
    assert torch.allclose(distance.double(), difference.square().sum(dim=(-2, -1)), rtol=distance_tolerance, atol=0)
    (gradient,) = torch.autograd.grad(distance, prediction, weight.to(distance.dtype))
    expected = 2 * weight[..., None, None] * difference
    error = (gradient.double() - expected).norm(dim=(-2, -1)) / expected.norm(dim=(-2, -1))
    assert error.max() < gradient_tolerance
    assert gradient.dtype == dtype
    assert gradient.stride() == prediction.stride()


def test_masked_positions_have_no_gradient() -> None:
    target = maps(torch.bfloat16, torch.channels_last)
    target[0, 7, 10:14, 10:14] = 5000
    outliers = find_outliers(target)
    kept = outliers.mask()
    assert (~kept).sum() >= 16
    prediction = maps(torch.bfloat16, torch.channels_last, seed=1).requires_grad_()
    distance = squared_distance(prediction, target, outliers)
    (gradient,) = torch.autograd.grad(distance.sum(), prediction)
    assert (gradient[~kept] == 0).all()
    assert (gradient[kept] != 0).float().mean() > 0.9  # bytes round small differences to zero


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("few", [512, 3000, 20_000])
def test_working_piece_by_piece_changes_little(
    dtype: torch.dtype, layout: torch.memory_format, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of some rows or channels of a sample (of 8,192 values), and of several samples."""
    target = torch.cat([maps(dtype, layout), maps(dtype, layout, seed=2)]).contiguous(memory_format=layout)
    target[0, 7, 10:14, 10:14], target[3, 2, 4:8, 5:9], target[3, 5, 20:24, 20:24] = 5000, -3000, 4000
    outliers, found = find_outliers(target), []
    assert (~outliers.mask()).flatten(2).any(-1).sum() == 3
    for limit in (1 << 20, few):
        monkeypatch.setattr("lpl.losses.maps.FEW_VALUES", limit)
        prediction = (target.flip(0) / 2).requires_grad_()
        distance = squared_distance(prediction, target, outliers)
        (gradient,) = torch.autograd.grad(distance.sum(), prediction)
        assert (gradient[~outliers.mask()] == 0).all()
        found.append((distance.detach(), gradient))
    (whole, whole_gradient), (parts, parts_gradient) = found
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=0)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02  # the bytes of half precision have a step for each piece
    difference = (parts_gradient - whole_gradient).float().norm(dim=(2, 3))
    assert (difference <= tolerance * whole_gradient.float().norm(dim=(2, 3))).all()


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.float32, 3), (torch.bfloat16, 1)])
def test_bytes_kept_a_value(dtype: torch.dtype, size: int) -> None:
    prediction, target = maps(dtype, LAYOUTS[0]).requires_grad_(), maps(dtype, LAYOUTS[0], seed=1)
    kept = kept_bytes(lambda: squared_distance(prediction, target, None))
    assert kept == size * prediction.numel() + (4 * 2 * 8 if size == 1 else 0)  # and a number a map


def test_nothing_is_kept_without_a_gradient() -> None:
    prediction, target = maps(torch.float32, LAYOUTS[0]), maps(torch.float32, LAYOUTS[0], seed=1)
    assert kept_bytes(lambda: squared_distance(prediction, target, None)) == 0


@pytest.mark.parametrize(("largest", "tolerance"), [(0.0, 0.011), (20.0, 0.02), (100.0, 0.05)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bytes_bear_heavy_tails(dtype: torch.dtype, largest: float, tolerance: float) -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 1, 128, 128)
    if largest > 0:
        values[0, 0, 3, 5] = largest  # in standard deviations
    values = values.to(dtype)
    levels = torch.empty_like(values, dtype=torch.int8)
    step = in_bytes(values, levels)
    restored = levels.double() * levels.double().abs() * step.double()
    small = values.abs() < 10
    error = (restored - values.double())[small].norm() / values.double()[small].norm()
    assert error < tolerance


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("few", [1, 300, 1 << 20])
def test_pieces_of_half_precision_have_steps_of_their_own(few: int, layout, monkeypatch) -> None:
    monkeypatch.setattr(maps_module, "FEW_VALUES", few)
    prediction = maps(torch.bfloat16, layout)
    prediction[..., 0, :] *= 50  # steps as large as this row asks for would drown the others
    prediction.requires_grad_()
    target = maps(torch.bfloat16, layout, seed=1)
    exact = 2 * (prediction.detach().double() - target.double())
    (gradient,) = torch.autograd.grad(squared_distance(prediction, target, None).sum(), prediction)
    assert (gradient.double() - exact).norm() < 0.012 * exact.norm()
    if few < 1 << 20 and layout == torch.channels_last:
        rest = (slice(None), slice(None), slice(4, None))
        assert (gradient.double() - exact)[rest].norm() < 0.012 * exact[rest].norm()


def test_maps_of_zeros_stay_zero_and_others_stay_not_finite() -> None:
    values = torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)
    values[0, 1, 0, 0], values[0, 2, 0, 0] = float("nan"), float("inf")
    prediction = values.requires_grad_()
    (gradient,) = torch.autograd.grad(
        squared_distance(prediction, torch.zeros_like(values), None), prediction, torch.ones(1, 3)
    )
    assert (gradient[0, 0] == 0).all()
    assert not gradient[0, 1].isfinite().any()
    assert not gradient[0, 2, 0, 0].isfinite()
