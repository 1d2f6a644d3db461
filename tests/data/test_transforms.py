from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image
from torch.nn import functional

from lpl.data.transforms import crop_and_resize, to_pil, to_tensor


def smooth(size: tuple[int, int]) -> Image.Image:
    return picture(3, (9, 7)).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (200, 80), (16, 16), (10, 14)])
def test_center_crop_agrees_with_torchs_antialiased_resize(size: tuple[int, int]):
    image, side = smooth(size), min(size)
    left, upper = (size[0] - side) // 2, (size[1] - side) // 2
    square = to_tensor(image)[None, :, upper : upper + side, left : left + side]
    expected = functional.interpolate(square, (16, 16), mode="bicubic", antialias=True, align_corners=False)
    found = crop_and_resize(image, 16)
    inner = (slice(None), slice(2, -2), slice(2, -2))  # at its rim the crop may see the pixels beyond
    assert (found[inner] - expected.clamp(-1, 1)[0][inner]).abs().max() < 3 / 127.5
    assert found.shape == (3, 16, 16)
    assert found.dtype == torch.float32


def test_image_of_the_resolution_is_unchanged():
    image = picture(4, (32, 32))
    assert torch.equal(crop_and_resize(image, 32), to_tensor(image))


def test_downscaling_is_antialiased():
    """A checkerboard of single pixels has nothing below its frequency but its mean."""
    board = np.indices((128, 128)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8))
    assert crop_and_resize(image, 16)[:, 1:-1, 1:-1].abs().max() < 0.02


def test_center_crop_commutes_with_mirroring():
    image = smooth((83, 51))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert (crop_and_resize(mirrored, 24).flip(-1) - crop_and_resize(image, 24)).abs().max() <= 1.01 / 127.5


def test_random_crops_follow_the_generator_and_stay_inside():
    """On an image whose colour is its position, a crop's mean and span tell where it lies and how large it is."""
    ramp = np.stack(np.broadcast_arrays(np.arange(200)[None, :], np.arange(100)[:, None], 0), axis=-1)
    image = Image.fromarray(ramp.astype(np.uint8))
    spans, lefts = [], []
    for seed in range(60):
        crop = crop_and_resize(image, 50, "random", torch.Generator().manual_seed(seed))
        again = crop_and_resize(image, 50, "random", torch.Generator().manual_seed(seed))
        assert torch.equal(crop, again)
        pixels = (crop + 1) * 127.5
        spans.append(float(pixels[0, :, -1].mean() - pixels[0, :, 0].mean()) * 50 / 49)
        lefts.append(float(pixels[0, :, 0].mean()))
        assert pixels[1].max() <= 100
    assert min(spans) > 78
    assert max(spans) < 102
    assert max(spans) - min(spans) > 10
    assert max(lefts) - min(lefts) > 80


def test_random_crops_of_a_square_image_differ():
    crops = [crop_and_resize(smooth((40, 40)), 16, "random", torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert not torch.equal(*crops)


def test_tensor_and_picture_are_inverse():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1))
    tensor = to_tensor(image)
    assert tensor.min() == -1
    assert tensor.max() == 1
    np.testing.assert_array_equal(np.asarray(to_pil(tensor)), np.asarray(image))


def test_to_pil_clamps_and_takes_half_precision():
    pixels = np.asarray(to_pil(torch.tensor([-3.0, 0.0, 3.0]).reshape(3, 1, 1).half()))
    assert pixels.tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crop_and_resize(picture(0), 0), "resolution: got 0"),
        (lambda: crop_and_resize(picture(0), 8, "middle"), "crop: got 'middle', takes 'center' or 'random'"),
        (lambda: to_tensor(picture(0).convert("L")), "image: got mode 'L'"),
        (lambda: to_pil(torch.zeros(1, 3, 8, 8)), r"image: got shape \(1, 3, 8, 8\), takes \(3, H, W\)"),
        (lambda: to_pil(torch.full((3, 2, 2), torch.nan)), "image: holds NaN"),
    ],
)
def test_wrong_arguments_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
