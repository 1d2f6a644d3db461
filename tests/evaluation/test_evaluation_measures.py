"""The registry: which numbers come out, and what is said of those that don't."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lpl.config import EvaluationConfig
from lpl.evaluation import PatchSettings
from lpl.evaluation.measures import MEASURES, MeasureSettings, all_labels, compare
from lpl.evaluation.summary import ImageSummary, SummarySettings, summarize

PATCHES = PatchSettings(patches_per_image=4, directions=16)
SETTINGS = MeasureSettings(EvaluationConfig(kid_subset_size=20, kid_subsets=3), PATCHES)


def summary(count: int, seed: int, features: int | None = 4) -> ImageSummary:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1
    points = torch.randn(count, features, generator=generator) if features else None
    return replace(summarize(images, SummarySettings(patches=PATCHES)), features=points)


def test_every_number_has_a_label_and_every_label_a_number() -> None:
    results, notes = compare(summary(60, 0), summary(70, 1), SETTINGS)
    assert {name.split("/")[0] for name in results} == set(all_labels())
    assert {name for name in results if "/" in name} == {
        f"sliced_wasserstein{kind}/{side}" for kind in ("", "_shared") for side in (32, 16)
    }
    assert notes == []


def test_equal_sets_are_as_good_as_can_be() -> None:
    same = summary(60, 0)
    results, _ = compare(same, same, SETTINGS)
    for name, label in all_labels().items():
        if label.better == "lower" and name != "kernel_distance":  # unbiased, so it may fall below zero
            assert results[name] == pytest.approx(0, abs=1e-6), name
        elif label.better in ("higher", "one") and name != "density":
            assert results[name] == pytest.approx(1), name


def test_without_features_a_note_says_what_is_missing() -> None:
    results, notes = compare(summary(10, 0, None), summary(10, 1, None), SETTINGS)
    assert "frechet_distance" not in results
    assert "sliced_wasserstein" in results
    assert notes == ["frechet_distance, kernel_distance, neighbours: need features, and evaluation.extractor is none"]


def test_too_few_samples_are_noted_measure_by_measure() -> None:
    results, notes = compare(summary(4, 0), summary(70, 1), SETTINGS)
    assert [note.split(":")[0] for note in notes] == ["frechet_distance", "kernel_distance", "neighbours"]
    assert "4 samples are fewer than a subset of kid_subset_size=20" in notes[1]
    assert not {"frechet_distance", "kernel_distance", "precision"} & set(results)
    _, cautions = compare(summary(30, 0), summary(70, 1), SETTINGS)
    assert cautions[0].startswith("frechet_distance: 30 samples and 70 reference images for 4 features: biased upwards")


def test_ratios_to_nothing_are_noted() -> None:
    grey = torch.zeros(6, 3, 32, 32)
    flat = summarize(grey, SummarySettings(patches=PATCHES))
    results, notes = compare(summary(6, 0, None), flat, SETTINGS)
    assert "contrast_ratio" not in results
    assert results["saturation_reference"] == 0
    assert "contrast: no contrast_ratio, for the reference has no contrast at all" in notes


def test_progress_names_the_measures_in_order() -> None:
    named: list[str] = []
    compare(summary(10, 0, None), summary(10, 1, None), SETTINGS, named.append)
    assert named == [measure.name for measure in MEASURES if not measure.on_features]


def test_sets_that_don_t_match_are_refused() -> None:
    small = summarize(torch.zeros(2, 3, 16, 16), SummarySettings(patches=PATCHES))
    with pytest.raises(ValueError, match="samples are 32 pixels a side and the reference 16"):
        compare(summary(3, 0, None), small, SETTINGS)
    with pytest.raises(ValueError, match="both have features, or neither"):
        compare(summary(3, 0), summary(3, 1, None), SETTINGS)
