from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpl import outlier_mask
from lpl.losses import outliers as module
from lpl.losses import thresholds
from lpl.losses.outliers import find_outliers
from lpl.losses.ranks import order_statistics_in_tails, widened_order_statistics
from references import appendix_listing


def maps_with_artefacts(seed: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, height, width, generator=generator)
    features[0, 0, 2:6, 3:7] += 40
    features[1, 2, -1, 0] -= 60
    return features


@pytest.mark.parametrize("down_f", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(16, 16), (24, 10), (9, 31)])
def test_equals_the_appendix_listing(down_f: int, size: tuple[int, int]) -> None:
    features = maps_with_artefacts(0, *size)
    mask = outlier_mask(features, down_f)
    for sample in range(2):
        for channel in range(3):
            expected = appendix_listing(features[sample, channel].double().numpy(), down_f)
            assert np.array_equal(mask[sample, channel].numpy(), expected)


def test_masks_artefacts_and_their_surroundings_alone() -> None:
    mask = outlier_mask(maps_with_artefacts(1, 32, 32))
    assert not mask[0, 0, 2:6, 3:7].any()
    assert mask[0, 0, 8:, 9:].all()
    assert mask[0, 1].float().mean() > 0.97


def test_a_lone_false_alarm_is_closed_at_full_resolution() -> None:
    features = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    features[0, 0, 10, 10] = 4.5  # beyond the threshold, but a single position: the dilation closes it
    assert outlier_mask(features).all()


def test_small_maps_use_their_smallest_value() -> None:
    features = torch.linspace(-1, 1, 9).view(1, 1, 3, 3).clone()
    features[0, 0, 0, 0] = -100.0
    assert outlier_mask(features, down_f=8).all()  # nothing lies below the smallest value
    assert outlier_mask(torch.full((1, 1, 1, 1), 3.0)).all()
    features[0, 0, 2, 2] = 1000.0  # the upper threshold is the second largest value of nine, as printed
    assert outlier_mask(features, down_f=8).logical_not().nonzero().tolist() == [[0, 0, 2, 2]]


def test_constant_maps_are_kept_whole() -> None:
    for value in (0.0, 3.3, -1e4):
        assert outlier_mask(torch.full((1, 2, 8, 8), value)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_mask_of_the_same_numbers_in_float32(dtype: torch.dtype) -> None:
    features = (maps_with_artefacts(3, 20, 20) * 300).to(dtype)
    assert torch.equal(outlier_mask(features), outlier_mask(features.float()))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    down_f=st.floats(0.5, 16),
    opening=st.integers(1, 9),
    closing=st.integers(1, 9),
)
def test_any_size_and_window_keeps_the_shape(
    height: int, width: int, down_f: float, opening: int, closing: int
) -> None:
    mask = outlier_mask(torch.randn(1, 2, height, width), down_f, opening, closing)
    assert mask.shape == (1, 2, height, width)
    assert mask.dtype == torch.bool


def with_tails(draw, generator: torch.Generator, shape: tuple[int, ...], power: float, shift: float) -> torch.Tensor:
    """Maps whose tails grow heavier with the power: some have outliers, some none, some sit at the threshold."""
    values = torch.randn(shape, generator=generator)
    values = values.sign() * values.abs() ** power
    return (values + shift).contiguous(
        memory_format=draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    )


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    power=st.floats(0.2, 3),
    shift=st.sampled_from([0.0, 1.0, -300.0, 1e4]),
    quantile=st.sampled_from([0.001, 0.02, 0.1, 0.4]),
    offset=st.sampled_from([0.0, 0.5, 2.0, 4.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_counting_decides_as_order_statistics_do(data, seed, size, power, shift, quantile, offset, dtype) -> None:
    """Thresholds by kthvalue for every map, without the shortcut that spares most maps the sorting."""
    generator = torch.Generator().manual_seed(seed)
    features = with_tails(data.draw, generator, (2, 3, *size), power, shift).to(dtype)
    wide = features.to(torch.promote_types(dtype, torch.float32)).flatten(2)
    count = wide.shape[-1]
    low = wide.kthvalue(max(int(count * quantile), 1), dim=-1).values[..., None]
    high = wide.kthvalue(max(int(count * (1 - quantile)), 1), dim=-1).values[..., None]
    margin = offset * wide.std(dim=-1, correction=int(count > 1), keepdim=True)
    expected = ((wide >= low - margin) & (wide <= high + margin)).view_as(features)
    expected[(features == features[..., :1, :1]).flatten(2).all(dim=-1)] = True  # constant maps are kept whole
    found = find_outliers(features, opening=1, closing=1, quantile=quantile, offset=offset)
    assert torch.equal(found.mask(), expected)
    assert torch.equal(found.positions(), expected.flatten(2).sum(dim=-1).clamp_min(1))
    assert found.share().item() == pytest.approx(1 - expected.float().mean().item(), abs=1e-6)
    assert torch.equal(found.masked, (~expected).flatten(2).sum(dim=-1))
    for layout in (torch.contiguous_format, torch.channels_last):
        cleared = found.clear(features.clone(memory_format=layout))
        assert torch.equal(cleared, torch.where(expected, features, 0))
        assert torch.equal(found.at_places(features.contiguous(memory_format=layout)), found.at_places(features))


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    power=st.floats(0.5, 3),
    patch=st.floats(0, 12),
    quantile=st.sampled_from([0.02, 0.1, 0.3]),
    closing=st.sampled_from([1, 3, 5]),
    opening=st.sampled_from([1, 3, 5, 7]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_windows_are_closed_and_opened(data, seed, size, power, patch, quantile, closing, opening, dtype) -> None:
    """Thresholds by kthvalue for every map, then a dilation and an erosion by max pooling."""
    generator = torch.Generator().manual_seed(seed)
    features = with_tails(data.draw, generator, (2, 4, *size), power, 0.0)
    features[:, 0, :3, :3] += patch  # large enough to be left, if it is an outlier
    features[:, 1, -3:, :3] -= patch
    both = patch * torch.tensor([[1, -1, 1], [-1, 1, -1], [1, -1, 1.0]])  # outliers of both kinds
    features[0, 2, :3, :3] = both[: size[0], : size[1]]
    features = features.to(dtype)
    wide = features.float().flatten(2)
    count = wide.shape[-1]
    low = wide.kthvalue(max(int(count * quantile), 1), dim=-1).values[..., None]
    high = wide.kthvalue(max(int(count * (1 - quantile)), 1), dim=-1).values[..., None]
    margin = 2.0 * wide.std(dim=-1, keepdim=True)
    kept = ((wide >= low - margin) & (wide <= high + margin)).view_as(features).float()
    dilated = torch.nn.functional.max_pool2d(kept, closing, stride=1, padding=closing // 2)
    eroded = -torch.nn.functional.max_pool2d(-dilated, opening, stride=1, padding=opening // 2)
    assert torch.equal(outlier_mask(features, 1.0, opening, closing, quantile), eroded.bool())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crowded_maps_are_looked_at_whole_to_the_same_end(layout: torch.memory_format, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 48, 40, generator=generator)
    blobs = torch.nn.functional.max_pool2d((torch.rand(2, 6, 48, 40, generator=generator) < 0.002).float(), 3, 1, 1)
    features = (features + 30 * blobs).contiguous(memory_format=layout)
    found = []
    for few in (-1, 10**9):  # positions: every map is crowded, and none is
        monkeypatch.setattr(module, "FEW", few)
        monkeypatch.setattr(module, "CROWDED", 10**9)
        found.append(find_outliers(features))
    assert 0 < found[0].share() < 0.2
    assert torch.equal(found[0].places, found[1].places)


def test_order_statistics_are_taken_of_suspects_alone(monkeypatch) -> None:
    ranked = []

    def counted(find):
        def counting(maps: torch.Tensor, *known):
            ranked.append(maps.shape[1])
            return find(maps, *known)

        return counting

    for find in (widened_order_statistics, order_statistics_in_tails):
        monkeypatch.setattr(thresholds, find.__name__, counted(find))
    features = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    assert outlier_mask(features).all()
    assert sum(ranked) <= 13  # of 128 maps of noise a tenth may look like it has some
    features[0, 0, 5, 5] = 50
    assert not outlier_mask(features, down_f=4)[0, 0, 5, 5]
    assert sum(ranked) > 0


def test_an_empty_batch_is_ordinary() -> None:
    assert outlier_mask(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    assert outlier_mask(torch.zeros(2, 3, 0, 8)).shape == (2, 3, 0, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": torch.zeros(3, 8, 8)}, "features: got"),
        ({"features": torch.zeros(1, 3, 8, 8, dtype=torch.int32)}, "features: got torch.int32"),
        ({"features": torch.zeros(1, 3, 8, 8), "down_f": 0}, "down_f: got 0"),
        ({"features": torch.zeros(1, 3, 8, 8), "opening": 0}, "opening: got 0"),
        ({"features": torch.zeros(1, 3, 8, 8), "quantile": 0.5}, "quantile: got 0.5"),
        ({"features": torch.zeros(1, 3, 8, 8), "offset": -1.0}, "offset: got -1.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outlier_mask(**arguments)
