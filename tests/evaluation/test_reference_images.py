"""Reference images: the recipe's crop, an even choice, and what can't be read."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from lpl.config import DataConfig
from lpl.data.images import ImageSource, UnreadableImage
from lpl.evaluation import ReferenceImages
from lpl.evaluation.reference import Stratified, limited, readable


class Shades(ImageSource):
    """Six images of 40×30 pixels, each a gradient of its own; the third is corrupt."""

    def __init__(self) -> None:
        self.classes = ["only"]

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 2:
            raise UnreadableImage(self.name(index), "cut short")
        ramp = np.linspace(0, 40 * (index + 1), 40, dtype=np.uint8)
        return Image.fromarray(np.broadcast_to(ramp[None, :, None], (30, 40, 3)).copy()), 0

    def name(self, index: int) -> str:
        return f"shade-{index}.png"

    def fingerprint(self) -> str:
        return "shades"


def test_center_crop_equals_pillows() -> None:
    reference = ReferenceImages(Shades(), DataConfig(resolution=15))
    picture = Shades()[4][0].crop((5, 0, 35, 30)).resize((15, 15), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(picture) / 127.5 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(reference[4], expected, atol=1.01 / 127.5, rtol=0)  # the border may round otherwise
    assert len(reference) == 6


def test_random_crops_differ_between_images_and_never_change() -> None:
    reference = ReferenceImages(Shades(), DataConfig(resolution=16, crop="random"))
    assert torch.equal(reference[5], reference[5])
    middle = ReferenceImages(Shades(), DataConfig(resolution=16))
    assert not torch.equal(reference[5], middle[5])


def test_fingerprint_follows_source_crop_and_resolution() -> None:
    configs = [DataConfig(resolution=16), DataConfig(resolution=32), DataConfig(resolution=16, crop="random")]
    prints = [ReferenceImages(Shades(), config).fingerprint() for config in [*configs, configs[0]]]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_corrupt_images_are_left_out_by_name() -> None:
    skipped: list[str] = []
    images = list(readable(ReferenceImages(Shades(), DataConfig(resolution=8)), skipped))
    assert len(images) == 5
    assert skipped == ["shade-2.png: unreadable image: cut short"]


@pytest.mark.parametrize("limit", [1, 7, 30, 90, 100, 500])
def test_a_limit_spreads_over_classes_that_lie_one_after_the_other(limit: int) -> None:
    chosen = list(Stratified([index // 30 for index in range(90)], limit))
    assert len(chosen) == min(limit, 90)
    counts = Counter(chosen)
    assert max(counts.values()) - min(counts.get(label, 0) for label in range(3)) <= 2


@pytest.mark.parametrize("limit", [64, 96, 192, 768])
def test_a_limit_takes_every_class_where_they_take_turns(limit: int) -> None:
    """Every k-th image would be of a few classes, or of one, where k and their number have a common divisor."""
    counts = Counter(Stratified([index % 12 for index in range(2304)], limit))
    assert len(counts) == 12
    assert max(counts.values()) < limit / 12 + 4 * (limit / 12) ** 0.5


def test_a_limit_takes_the_same_images_every_time_and_none_twice() -> None:
    chosen = list(Stratified(range(1000), 300))
    assert chosen == list(Stratified(range(1000), 300))
    assert chosen == sorted(set(chosen))
    assert list(Stratified(range(7), 7)) == list(range(7))
    assert list(Stratified([], 3)) == []


def test_a_limit_on_an_iterator_takes_the_first() -> None:
    assert list(limited(iter(range(10)), 3)) == [0, 1, 2]
    assert list(limited([4, 5], None)) == [4, 5]
