"""Sample folders: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lpl.evaluation import SampleError, open_samples

Draw = Callable[..., torch.Tensor]
Write = Callable[..., Path]


def test_images_come_back_in_order_without_the_grid(random_pixels: Draw, sample_folder: Write) -> None:
    pixels = random_pixels(12)
    samples = open_samples(sample_folder(pixels, "guided"), "guided")
    assert len(samples) == 12
    assert samples.resolution == 16
    assert samples.metadata["seed"] == 7
    torch.testing.assert_close(torch.stack(list(samples)), pixels.float() / 127.5 - 1)


def test_missing_things_are_named(random_pixels: Draw, sample_folder: Write, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no such run folder"):
        open_samples(tmp_path / "absent")
    run = sample_folder(random_pixels(3), "guided")
    with pytest.raises(SampleError, match=r"no sample set 'default' \(it has guided\); draw one with: lpl sample"):
        open_samples(run)
    (run / "samples" / "guided" / "samples.json").unlink()
    with pytest.raises(SampleError, match=r"samples.json: missing, so the samples are incomplete"):
        open_samples(run, "guided")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "expected a JSON object, got list")])
def test_broken_metadata_is_named(random_pixels: Draw, sample_folder: Write, text: str, message: str) -> None:
    run = sample_folder(random_pixels(2))
    (run / "samples" / "default" / "samples.json").write_text(text)
    with pytest.raises(SampleError, match=message):
        open_samples(run)


def test_an_interrupted_set_is_refused(random_pixels: Draw, sample_folder: Write) -> None:
    run = sample_folder(random_pixels(4))
    (run / "samples" / "default" / "000003.png").unlink()
    with pytest.raises(SampleError, match="holds 3 images, expected 4; was sampling interrupted"):
        open_samples(run)


def test_unusable_images_are_named(random_pixels: Draw, sample_folder: Write) -> None:
    run = sample_folder(random_pixels(3))
    file = run / "samples" / "default" / "000001.png"
    Image.new("L", (16, 16)).save(file)
    with pytest.raises(SampleError, match=r"000001.png: expected a square RGB image, got 16×16 L"):
        open_samples(run)[1]
    file.write_bytes(b"no image")
    with pytest.raises(SampleError, match=r"000001.png: can't be read as an image"):
        open_samples(run)[1]
