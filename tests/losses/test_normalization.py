from __future__ import annotations

import pytest
import torch

from lpl.losses.normalization import masked_statistics
from lpl.losses.outliers import find_outliers

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("size", [20.0, 300.0, 1e6])
def test_what_is_masked_leaves_no_trace(
    layout: torch.memory_format, dtype: torch.dtype, differentiable: bool, size: float
) -> None:
    """However large, and however much of the variance it makes up; nor do digits get lost where the mean is large."""
    features = torch.randn(2, 5, 40, 30, generator=torch.Generator().manual_seed(0)) + 8
    features[0, 1, 3:6, 2:5] = size
    features[1, 0, -2:, -2:] = -size
    features[1, 4, 20, 20] = size
    features = features.to(dtype).contiguous(memory_format=layout)
    outliers = find_outliers(features, down_f=2.0)
    kept = outliers.mask()
    assert not kept[0, 1].all()
    with torch.set_grad_enabled(differentiable):
        found = masked_statistics(features.clone().requires_grad_(differentiable), outliers, variance_floor=0.0)
    for sample in range(2):
        for channel in range(5):
            values = features[sample, channel][kept[sample, channel]].double()
            mean, std = (statistic[sample, channel].item() for statistic in found)
            assert mean == pytest.approx(values.mean().item(), rel=1e-5)
            assert std == pytest.approx(values.std(correction=0).item(), rel=1e-5)


def test_gradient_flows_through_the_statistics_of_what_is_kept() -> None:
    features = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features[0, 1, 4, 4] = 50.0
    outliers = find_outliers(features, down_f=2.0)
    features.requires_grad_()
    for statistic in masked_statistics(features, outliers, variance_floor=0.0):
        (gradient,) = torch.autograd.grad(statistic.sum(), features, retain_graph=True)
        assert (gradient[~outliers.mask()] == 0).all()
    assert torch.autograd.gradcheck(lambda x: masked_statistics(x, outliers, 0.0), (features,))


def test_a_map_masked_whole_has_no_variance() -> None:
    features = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    features[0, 0, ::2, ::2] *= 40
    features[0, 0, 1::2, 1::2] *= -40
    outliers = find_outliers(features, down_f=2.0, opening=9, quantile=0.49, offset=0.0)
    assert not outliers.mask()[0, 0].any()
    mean, std = masked_statistics(features, outliers, variance_floor=0.0)
    assert torch.isfinite(mean).all()
    assert std[0, 0] < 1e-6
