"""Summaries: the same whatever the batch, the container or the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from lpl.data.images import UnreadableImage
from lpl.evaluation import PatchSettings, contrast, load_extractor, radial_power_spectrum, saturation
from lpl.evaluation.summary import ImageSummary, SummarySettings, cached_summary, first_image, summarize, summary_key

Draw = Callable[..., torch.Tensor]
PATCHES = PatchSettings(patches_per_image=3, max_images=8)


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


def assert_equal(first: ImageSummary, second: ImageSummary) -> None:
    assert first.resolution == second.resolution
    assert first.skipped == second.skipped
    assert list(first.patches) == list(second.patches)
    for side in first.patches:
        torch.testing.assert_close(first.patches[side], second.patches[side], atol=2e-3, rtol=0)
    for name in ("contrast", "saturation", "power", "features"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))


def test_columns_are_the_measures_of_each_image(random_pixels: Draw, user_module: str) -> None:
    images = as_images(random_pixels(11, 32))
    extractor = load_extractor(user_module)
    summary = summarize(images, SummarySettings(extractor, PATCHES, batch_size=4))
    assert summary.count == 11
    assert {side: patches.shape for side, patches in summary.patches.items()} == {32: (24, 3, 7, 7), 16: (24, 3, 7, 7)}
    torch.testing.assert_close(summary.contrast, contrast(images))
    torch.testing.assert_close(summary.saturation, saturation(images))
    torch.testing.assert_close(summary.power, radial_power_spectrum(images), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(summary.features, extractor(images))


def test_batch_size_and_container_make_no_difference(random_pixels: Draw, user_module: str) -> None:
    images = as_images(random_pixels(11))
    extractor = load_extractor(user_module)
    expected = summarize(images, SummarySettings(extractor, PATCHES, batch_size=64))
    labelled = [(image, 3) for image in images]
    for container in (images, list(images), labelled, iter(labelled)):
        assert_equal(summarize(container, SummarySettings(extractor, PATCHES, batch_size=3)), expected)


def test_floats_are_put_on_the_grid_of_a_png(random_pixels: Draw) -> None:
    pixels = random_pixels(6)
    shaken = as_images(pixels) + 0.3 / 127.5 * (torch.rand(pixels.shape) * 2 - 1)
    settings = SummarySettings(patches=PATCHES)
    first, second = summarize(shaken.clamp(-1, 1), settings), summarize(as_images(pixels), settings)
    torch.testing.assert_close(first.power, second.power)
    assert first.features is None


def test_progress_is_told_of_every_batch(random_pixels: Draw) -> None:
    done: list[int] = []
    summarize(as_images(random_pixels(7)), SummarySettings(patches=PATCHES, batch_size=3), advance=done.append)
    assert done == [3, 3, 1]


class Holey:
    """A data set whose images at odd places are corrupt."""

    def __init__(self, images: Sequence[torch.Tensor] | torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index % 2:
            raise UnreadableImage(f"{index}.png", "cut short")
        return self.images[index]


class AllCorrupt:
    """A data set of one corrupt image."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        raise UnreadableImage("only.png", "cut short")


def test_corrupt_images_are_skipped_and_named(random_pixels: Draw) -> None:
    summary = summarize(Holey(as_images(random_pixels(5))), SummarySettings(patches=PATCHES))
    assert summary.count == 3
    assert summary.skipped == ("1.png: unreadable image: cut short", "3.png: unreadable image: cut short")


def test_bad_images_are_named(random_pixels: Draw) -> None:
    settings = SummarySettings(patches=PATCHES)
    images = list(as_images(random_pixels(3)))
    with pytest.raises(ValueError, match="mine, image 3: is 8×8 pixels, but 16×16 is expected"):
        summarize([*images, torch.zeros(3, 8, 8)], settings, "mine")
    with pytest.raises(ValueError, match="mine, image 0: is 16×16 pixels, but 32×32 is expected"):
        summarize(images, settings, "mine", resolution=32)
    with pytest.raises(ValueError, match=r"images, image 1: values must lie in \[-1, 1\], got -?\d.* to 9"):
        summarize([images[0], torch.full((3, 16, 16), 9.0)], settings)
    with pytest.raises(TypeError, match=r"images, image 0: expected a tensor \(3, R, R\) in \[-1, 1\], got str"):
        summarize(["picture"], settings)
    with pytest.raises(ValueError, match="mine: there are no images$"):
        summarize([], settings, "mine")
    with pytest.raises(ValueError, match=r"that can be read; the first of 1: only.png"):
        summarize(AllCorrupt(), settings)


def test_first_image_takes_nothing_from_an_iterator() -> None:
    images = [torch.full((3, 8, 8), value) for value in (0.1, 0.2)]
    first, again = first_image(iter(images), "mine")
    assert first[0, 0, 0] == pytest.approx(0.1)
    assert len(list(again)) == 2
    assert first_image(images, "mine")[1] is images


def test_cache_returns_what_was_filed(random_pixels: Draw, user_module: str, tmp_path: Path) -> None:
    settings = SummarySettings(load_extractor(user_module), PATCHES)
    images, notes = as_images(random_pixels(5, 32)), []
    calls: list[int] = []

    def make() -> ImageSummary:
        calls.append(1)
        return summarize(Holey(images), settings)

    key = summary_key(settings, "reference", 32)
    made, found = (cached_summary(tmp_path / "cache", key, make, notes.append) for _ in range(2))
    assert len(calls) == 1
    assert_equal(made, found)
    assert not notes

    others = [
        summary_key(settings, "other", 32),
        summary_key(settings, "reference", 16),
        summary_key(SummarySettings(None, PATCHES), "reference", 32),
        summary_key(SummarySettings(settings.extractor, PATCHES, seed=1), "reference", 32),
        summary_key(SummarySettings(settings.extractor), "reference", 32),
    ]
    for other in others:
        cached_summary(tmp_path / "cache", other, make, notes.append)
    assert len(calls) == 6


def test_a_damaged_cache_is_made_again_and_said(random_pixels: Draw, tmp_path: Path) -> None:
    settings = SummarySettings(patches=PATCHES)
    images, notes = as_images(random_pixels(5)), []
    made = cached_summary(tmp_path, {}, lambda: summarize(images, settings), notes.append)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:100])
    again = cached_summary(tmp_path, {}, lambda: summarize(images, settings), notes.append)
    torch.testing.assert_close(made.power, again.power)
    assert len(notes) == 1
    assert f"cache: {file} could not be read" in notes[0]
