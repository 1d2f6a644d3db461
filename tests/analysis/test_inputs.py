from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from lpl.analysis import AnalysisError, encode, open_pictures
from lpl.analysis.inputs import check_resolution, decoder_features, draw_order, tracked
from lpl.autoencoders import Autoencoder
from lpl.data import DataError
from lpl.errors import LplError


@pytest.fixture
def folder(tmp_path):
    """Twelve grey images in two classes, image i of brightness 20·i, the last of them damaged."""
    for index in range(12):
        place = tmp_path / ("left" if index < 6 else "right")
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), 20 * index, dtype=np.uint8)).save(place / f"{index:02d}.png")
    (tmp_path / "right" / "11.png").write_bytes(b"not a picture")
    return tmp_path


def test_images_are_drawn_the_same_every_time(folder) -> None:
    everything = open_pictures(str(folder), resolution=8, limit=12, label_column="label")
    assert everything.images.shape == (11, 3, 8, 8)  # the damaged one is left out, and named
    assert len(everything.skipped) == 1
    assert "11.png" in everything.skipped[0]
    numbers = [int(name.split("/")[-1].removesuffix(".png")) for name in everything.names]
    assert sorted(numbers) == list(range(11))
    assert numbers != sorted(numbers)
    brightness = ((everything.images.mean(dim=(1, 2, 3)) + 1) * 127.5).round()
    assert brightness.tolist() == [20 * number for number in numbers]
    assert everything.labels == tuple(int(number >= 6) for number in numbers)
    assert everything.classes == ("left", "right")
    assert everything.available == 12
    few = open_pictures(str(folder), resolution=8, limit=5, label_column="label")
    assert few.names == everything.names[: len(few.names)]  # a larger limit only adds


def test_more_are_not_asked_for_than_there_are(folder) -> None:
    assert len(open_pictures(str(folder), 8, limit=100).names) == 11


def test_the_bundled_photographs(tmp_path) -> None:
    pictures = open_pictures("photographs", 16, limit=3)
    assert pictures.images.shape == (3, 3, 16, 16)
    assert pictures.classes == ("images",)


def test_nothing_to_read_is_said(tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(AnalysisError, match="none of the 1 images tried"):
        open_pictures(str(tmp_path), 8, limit=4)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_pictures(str(empty), 8, limit=4)


@pytest.mark.parametrize(("options", "message"), [((0, 4), "resolution: got 0"), ((8, 0), "limit: got 0")])
def test_impossible_numbers_are_named(options: tuple, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        open_pictures("photographs", *options)


def test_latents_are_posterior_means_whatever_the_batch() -> None:
    autoencoder = Autoencoder(zoo.make("sd3"))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = autoencoder.model.encode(images).latent_dist.mean
    expected = (mean - autoencoder.model.config.shift_factor) * autoencoder.model.config.scaling_factor
    torch.testing.assert_close(encode(autoencoder, images, batch_size=2), expected, rtol=1e-4, atol=1e-5)


def test_mistakes_are_named_and_are_the_packages_errors() -> None:
    autoencoder = Autoencoder(zoo.make("stable_diffusion"))
    with pytest.raises(LplError, match="got 36, takes a multiple of 8"):
        check_resolution(autoencoder, 36)
    with pytest.raises(AnalysisError, match="no block 'up_blocks.7'; did you mean 'up_blocks"):
        decoder_features(autoencoder, ["up_blocks.7"])


def test_progress_passes_items_through(capsys) -> None:
    assert list(tracked([3, 1, 2], "Counting")) == [3, 1, 2]
    assert capsys.readouterr().out == ""  # it goes to standard error


def test_the_bundled_photographs_come_in_turn() -> None:
    pictures = open_pictures("photographs", 16, limit=24)
    files = [name.split(" ")[0] for name in pictures.names]
    assert len(set(files[:12])) == 12
    assert files[12:] == files[:12]
    assert len(set(pictures.names)) == 24


def test_orders_are_permutations_that_take_groups_in_turn() -> None:
    order = draw_order(30, groups=3)
    assert sorted(order) == list(range(30))
    assert [index % 3 for index in order] == [0, 1, 2] * 10
    assert order[::3] != sorted(order[::3])
    assert sorted(draw_order(7)) == list(range(7))
