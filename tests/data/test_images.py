from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture, write_class_folders
from PIL import Image

from lpl.data import images
from lpl.data.folders import FolderSource
from lpl.data.images import DataError, Limited, Relabelled, UnreadableImage, decode_image, digest, index_classes


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (8, lambda pixels: np.rot90(pixels, 1)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, upright):
    image = picture(0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(image, exif=exif), "image")
    np.testing.assert_array_equal(np.asarray(decoded), upright(np.asarray(image)))


def test_transparency_lies_over_white():
    colours = np.asarray(picture(1)).astype(float)
    alpha = np.linspace(0, 255, colours.shape[0] * colours.shape[1]).round().reshape(colours.shape[:2])
    layered = Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8), "RGBA")
    expected = colours * alpha[..., None] / 255 + 255 * (1 - alpha[..., None] / 255)
    decoded = np.asarray(decode_image(encoded(layered), "image"))
    assert np.abs(decoded - expected).max() <= 1


def test_grey_with_alpha_lies_over_white():
    image = Image.merge("LA", [Image.new("L", (2, 1), 40), Image.fromarray(np.array([[0, 255]], dtype=np.uint8))])
    assert np.asarray(decode_image(encoded(image), "image")).tolist() == [[[255] * 3, [40] * 3]]


def test_palette_keeps_its_colours_and_its_transparent_entry_turns_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert np.asarray(decode_image(encoded(image), "image")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    clear = decode_image(encoded(image, transparency=1), "image")
    assert np.asarray(clear).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_full_range(kind: str):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), kind), "image")
    assert np.asarray(decoded).tolist() == [[[value] * 3 for value in (0, 1, 128, 255)]]


def test_cmyk_becomes_the_same_colours():
    colour = Image.new("RGB", (16, 16), (200, 80, 30))
    decoded = decode_image(encoded(colour.convert("CMYK"), "JPEG", quality=95), "image")
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded).mean((0, 1)) - (200, 80, 30)).max() < 4


def test_black_and_white_and_grey_become_rgb():
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert np.asarray(decode_image(encoded(bits), "image")).tolist() == [[[0] * 3, [255] * 3]]
    assert np.asarray(decode_image(encoded(Image.new("L", (1, 1), 7)), "image")).tolist() == [[[7] * 3]]


def test_the_first_frame_of_an_animation_is_taken():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(decode_image(buffer.getvalue(), "image"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image at all",
        encoded(picture(2, (64, 64)), "JPEG")[:600],
        encoded(picture(2, (64, 64)))[:600],
        encoded(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"),
        encoded(Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)), "TIFF"),
    ],
    ids=["empty", "text", "half a jpeg", "half a png", "floats", "beyond 16 bits"],
)
def test_unreadable_images_raise_with_their_name(data: bytes):
    with pytest.raises(UnreadableImage, match=r"shard\.tar/7\.jpg: unreadable image: \w+") as caught:
        decode_image(data, "shard.tar/7.jpg")
    assert caught.value.name == "shard.tar/7.jpg"
    assert caught.value.reason


def test_classes_of_integers_are_in_numerical_order():
    assert index_classes([10, 9, 2], "subject") == (["2", "9", "10"], {2: 0, 9: 1, 10: 2})


@pytest.mark.parametrize("values", [[1, "a"], [0.5], [True, False], [None, 1]])
def test_other_labels_are_refused(values: list[object]):
    with pytest.raises(DataError, match=r"data\.label_column: 'x' holds .*takes integers"):
        index_classes(values, "data.label_column: 'x'")


def test_limited_keeps_the_first_and_changes_the_fingerprint(tmp_path: Path):
    source = FolderSource(write_class_folders(tmp_path, {"a": 3, "b": 2}))
    first = Limited(source, 2)
    assert len(first) == 2
    assert [first[index][1] for index in range(2)] == [0, 1]
    assert first.name(1) == source.name(1)
    assert first.fingerprint() != source.fingerprint() == Limited(source, 99).source.fingerprint()
    assert len(Limited(source, 99)) == 5
    with pytest.raises(IndexError):
        first[2]


def test_relabelled_moves_labels_to_the_new_classes(tmp_path: Path):
    source = FolderSource(write_class_folders(tmp_path, {"a": 1, "b": 1}))
    moved = Relabelled(source, ["b", "c", "a"], [2, 0])
    assert [moved.classes[moved[index][1]] for index in range(2)] == ["a", "b"]
    assert moved.fingerprint() != source.fingerprint()


def test_digest_is_that_of_the_values():
    assert digest("a", 1, ["b"]) == digest("a", 1, ["b"]) != digest("a", "1", ["b"])


def test_digest_of_files_reads_the_ends_and_a_sample_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "DIGESTED_FILES", 2)
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(bytes(100 * images.BLOCK_BYTES))
    original = images.digest_files(files, tmp_path)

    def changed(file: Path, position: int) -> bool:
        content = file.read_bytes()
        file.write_bytes(content[:position] + b"x" + content[position + 1 :])
        different = images.digest_files(files, tmp_path) != original
        file.write_bytes(content)
        return different

    ends = [0, 100 * images.BLOCK_BYTES - 1]
    assert all(changed(file, position) for file in (files[0], files[2]) for position in ends)
    assert sum(changed(files[0], block * images.BLOCK_BYTES) for block in range(100)) == images.DIGESTED_BLOCKS
    assert not changed(files[1], 0)  # of a file that is not looked into, name and size alone count
    files[1].write_bytes(bytes(5))
    assert images.digest_files(files, tmp_path) != original
    assert images.digest_files([], tmp_path) != original
