from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lpl.reports.instruments.store import PictureStore


def noise(path, side=96, seed=0, mode="RGB", **options):
    """A picture that hardly compresses."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.squeeze(), mode).save(path, **options)
    return path


def opened(uri):
    kind, _, data = uri.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{picture.format.lower()}"
    return picture


def test_pictures_that_fit_are_inlined_as_they_are_and_once(tmp_path):
    noise(tmp_path / "a" / "x.png")
    noise(tmp_path / "b" / "same.png")
    store = PictureStore()
    first = store.add(tmp_path / "a", "x.png", "features", "originals")
    second = store.add(tmp_path / "b", "same.png", "linear", "originals")
    store.settle(100_000)
    assert first == second
    assert list(store.uris) == [first]
    assert base64.b64decode(store.uris[first].partition(",")[2]) == (tmp_path / "a" / "x.png").read_bytes()
    assert store.notes("features") == store.notes("linear") == []


def test_nothing_to_show_is_no_picture(tmp_path):
    assert PictureStore().add(tmp_path, None, "linear", "steps") is None


@pytest.mark.parametrize("budget", [70_000, 30_000, 12_000, 4_000, 500, 0, -5])
def test_the_budget_holds_and_every_step_is_said(tmp_path, budget):
    store = PictureStore()
    keys = [
        store.add(tmp_path, noise(tmp_path / f"{index}.png", seed=index).name, "features", "maps") for index in range(3)
    ]
    store.settle(budget)
    assert sum(map(len, store.uris.values())) <= max(budget, 0)
    sides = [opened(store.uris[key]).width if key in store.uris else 0 for key in keys]
    lost = [side for side in sides if side < 96]
    notes = " ".join(store.notes("features"))
    assert notes.startswith("To keep the page under 25\N{NO-BREAK SPACE}MB, ")
    for side, words in ((48, "at a half"), (24, "at a quarter"), (0, "left out")):
        count = lost.count(side)
        phrase = "maps" if count == 3 else f"{count} of 3 maps"
        assert (f"{words} of their size: {phrase}." in notes or f"{words}: {phrase}." in notes) == (count > 0)


def test_the_largest_gives_way_first(tmp_path):
    store = PictureStore()
    large = store.add(tmp_path, noise(tmp_path / "large.png", 256).name, "features", "sheets")
    small = store.add(tmp_path, noise(tmp_path / "small.png", 32).name, "features", "icons")
    store.settle(60_000)
    assert opened(store.uris[small]).format == "PNG"
    assert opened(store.uris[large]).format == "WEBP"
    assert all("icons" not in note for note in store.notes("features"))


@pytest.mark.parametrize("tile", [32, 33])
def test_tiles_shrink_by_themselves(tmp_path, tile):
    """Black and white tiles side by side: a resize of the whole would mix them where the tile's side is odd."""
    board = np.indices((4, 4)).sum(axis=0) % 2 * 255
    texture = np.random.default_rng(0).integers(0, 60, (4 * tile, 4 * tile))  # without it, WebP alone would do
    sheet = np.abs(np.kron(board, np.ones((tile, tile))) - texture).astype(np.uint8)
    Image.fromarray(sheet).convert("RGB").save(tmp_path / "sheet.png", compress_level=0)
    store = PictureStore()
    key = store.add(tmp_path, "sheet.png", "features", "maps", (tile, tile))
    store.settle(6_000)
    picture = opened(store.uris[key]).convert("L")
    side = tile // 2
    assert picture.size == (4 * side, 4 * side)
    small = np.asarray(picture, dtype=float).reshape(4, side, 4, side).transpose(0, 2, 1, 3)
    assert np.abs(small - np.abs(board[:, :, None, None] - 30)).mean(axis=(2, 3)).max() < 20


def test_maps_too_small_to_read_are_left_out_instead(tmp_path):
    noise(tmp_path / "sheet.png", 8 * 20)
    store = PictureStore()
    key = store.add(tmp_path, "sheet.png", "features", "maps", (20, 20))
    store.settle(6_000)
    assert key not in store.uris
    assert store.notes("features") == ["To keep the page under 25\N{NO-BREAK SPACE}MB, left out: maps."]


def test_transparency_survives(tmp_path):
    noise(tmp_path / "mask.png", 128, mode="LA")
    store = PictureStore()
    key = store.add(tmp_path, "mask.png", "features", "masked maps")
    store.settle(30_000)
    alpha = np.asarray(opened(store.uris[key]).convert("RGBA"))[..., 3]
    assert alpha.std() > 20


def test_what_is_no_picture_or_elsewhere_is_noted_and_never_inlined(tmp_path):
    noise(tmp_path / "secret.png")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "text.png").write_text("not a picture")
    store = PictureStore()
    paths = ["missing.png", "text.png", "../secret.png", str(tmp_path / "secret.png")]
    assert [store.add(folder, path, "linear", "steps") for path in paths] == [None] * 4
    store.settle(1_000_000)
    assert store.uris == {}
    (note,) = store.notes("linear")
    assert note.startswith("Missing or unreadable, so not shown: run/missing.png, run/text.png, run/../secret.png and ")
    assert store.notes("features") == []
