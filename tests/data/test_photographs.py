from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from sklearn.datasets import load_sample_image

from lpl.data.images import DataError
from lpl.data.photographs import (
    CROPS,
    PHOTOGRAPHS,
    Photograph,
    PhotographSource,
    crop_boxes,
    load_photograph,
    read_photograph,
    spread_points,
)


def covered(photograph: Photograph, split: str) -> np.ndarray:
    width, height = load_photograph(photograph).size
    mask = np.zeros((height, width), dtype=bool)
    for left, upper, right, lower in crop_boxes(photograph, split):
        mask[upper:lower, left:right] = True
    return mask


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.name)
def test_splits_share_no_pixel_and_use_most_of_the_photograph(photograph: Photograph):
    train, test = covered(photograph, "train"), covered(photograph, "test")
    assert not (train & test).any()
    assert (train | test).mean() > 0.97


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.name)
def test_crops_are_distinct_squares_within_the_photograph(photograph: Photograph):
    width, height = load_photograph(photograph).size
    for split, count in CROPS.items():
        boxes = crop_boxes(photograph, split)
        assert len(set(boxes)) == count
        for left, upper, right, lower in boxes:
            assert right - left == lower - upper > 0
            assert left >= 0
            assert upper >= 0
            assert right <= width
            assert lower <= height
    assert min(box[2] - box[0] for box in crop_boxes(photograph, "train")) > 0.4 * min(width, height)


@pytest.mark.parametrize(
    ("name", "pixels"), [("coffee", skimage.data.coffee), ("pagoda", lambda: load_sample_image("china.jpg"))]
)
def test_crops_are_those_pixels_of_the_packages_own_image(name: str, pixels):
    source = PhotographSource("test")
    label = source.classes.index(name)
    index = label + 5 * len(source.classes)
    image, found = source[index]
    left, upper, right, lower = source.boxes[label][5]
    assert found == label
    np.testing.assert_array_equal(np.asarray(image), pixels()[upper:lower, left:right])


def test_first_images_hold_every_class_evenly():
    source = PhotographSource("train")
    labels = [source[index][1] for index in range(2 * len(source.classes))]
    assert labels == list(range(len(source.classes))) * 2
    assert len(source) == 12 * 192


def test_every_crop_is_rgb_and_grey_photographs_stay_grey():
    source = PhotographSource("test")
    for index in range(len(source.classes)):
        image, label = source[index]
        pixels = np.asarray(image)
        assert image.mode == "RGB"
        grey = bool((pixels == pixels[..., :1]).all())
        assert grey == (source.classes[label] in ("brick", "gravel"))


def test_names_tell_file_and_box_and_end_with_the_source():
    source = PhotographSource("test")
    label = source.classes.index("cat")
    assert source.name(label) == f"data/chelsea.png {source.boxes[label][0]}"
    with pytest.raises(IndexError, match="takes 0 to 575"):
        source[len(source)]


def test_fingerprint_depends_on_the_split_alone():
    assert PhotographSource("train").fingerprint() == PhotographSource("train").fingerprint()
    assert PhotographSource("train").fingerprint() != PhotographSource("test").fingerprint()


def test_spread_points_fill_the_cube_evenly_at_any_stride():
    points = spread_points(192)
    for stride in (1, 2, 3, 4, 6, 12):
        counts = np.histogram(points[::stride, 0], bins=4, range=(0, 1))[0]
        assert counts.min() >= 0.6 * counts.mean()
    assert np.abs(np.corrcoef(points.T) - np.eye(3)).max() < 0.1


def test_unknown_split_is_refused():
    with pytest.raises(DataError, match=r"data\.split: got 'validation'; the bundled photographs have 'train' and"):
        PhotographSource("validation")


def test_missing_photograph_is_named():
    with pytest.raises(DataError, match=r"skimage lacks data/nothing\.png.*install scikit-image"):
        read_photograph(Photograph("nothing", "skimage", "data/nothing.png", "left", 0.3))
