from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import zoo
from lpl.analysis.inputs import Pictures
from lpl.analysis.output import AnalysisFolder, describe_autoencoder, plain, sprite
from lpl.analysis.records.common import grey_picture
from lpl.autoencoders import Autoencoder


def test_plain_values() -> None:
    values = {
        "tensor": torch.tensor([[1.0, 2.0]]),
        "array": np.array([3, 4]),
        "scalar": np.float64(0.123456789),
        "missing": [math.nan, math.inf, -math.inf],
        7: (True, None, "text"),
    }
    expected = {
        "tensor": [[1.0, 2.0]],
        "array": [3, 4],
        "scalar": 0.123457,
        "missing": [None, None, None],
        "7": [True, None, "text"],
    }
    assert plain(values) == expected


def test_the_folder_holds_what_the_json_names(tmp_path) -> None:
    folder = AnalysisFolder(tmp_path / "deep" / "down", "test")
    pictures = Pictures(torch.zeros(1, 3, 8, 8), ("a.png",), "somewhere", "train", 5, "f00", (0,), ("images",))
    image = torch.zeros(3, 8, 8)
    image[0] = 1.0
    path = folder.save_image("images/red.png", image)
    figure = Figure()
    figure.subplots().plot([1, 2])
    folder.save_figure("curve", figure)
    autoencoder = describe_autoencoder(Autoencoder(zoo.make("tiny")), "folder")
    written = folder.write(
        autoencoder, pictures, {"seed": 1}, [{"index": 0, "picture": path}], {"value": np.float32(2)}
    )
    content = json.loads(written.read_text(encoding="utf-8"))
    assert content["analysis"] == "test"
    assert content["results"] == {"value": 2.0}
    assert content["data"]["names"] == ["a.png"]
    assert content["autoencoder"]["kind"] == "AutoencoderTiny"
    assert {"torch", "lpl", "numpy"} <= set(content["provenance"]["versions"])
    with Image.open(written.parent / content["images"][0]["picture"]) as picture:
        assert picture.getpixel((4, 4)) == (255, 128, 128)
    assert (written.parent / content["figures"]["curve"]).is_file()
    assert list(written.parent.glob("*.partial")) == []


def test_sprites_lie_row_by_row() -> None:
    tiles = [Image.new("L", (2, 3), value) for value in (10, 20, 30, 40, 50)]
    sheet = sprite(tiles, columns=2)
    assert sheet.size == (4, 9)
    assert [sheet.getpixel((x, y)) for y in (0, 3, 6) for x in (0, 2)] == [10, 20, 30, 40, 50, 0]


@pytest.mark.parametrize(("low", "high", "expected"), [(0.0, 2.0, [0, 128, 255]), (1.0, 1.0, [0, 0, 255])])
def test_grey_pictures(low: float, high: float, expected: list[int]) -> None:
    assert np.asarray(grey_picture(np.array([[0.0, 1.0, 2.0]]), low, high))[0].tolist() == expected


def test_a_sprite_never_outgrows_webp(tmp_path) -> None:
    tiles = [Image.new("L", (512, 512), value) for value in (10, 200)] * 40
    sheet = sprite(tiles, columns=40)
    assert sheet.width <= 16_383
    assert (sheet.width // 40, sheet.height // 2) == (409, 409)
    assert sheet.getpixel((409 * 3 + 200, 409 + 200)) == 200
    AnalysisFolder(tmp_path, "sprites").save_picture("sheet.webp", sheet)
    assert sprite(tiles[:4], columns=2).size == (1024, 1024)
