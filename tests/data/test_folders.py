from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture, write_class_folders
from PIL import Image

from lpl.data.folders import FolderSource, list_images, suffixes_below
from lpl.data.images import DataError, UnreadableImage


def test_subfolders_are_classes_and_take_turns(tmp_path: Path):
    source = FolderSource(write_class_folders(tmp_path, {"sea": 3, "forest": 1, "street": 2}))
    assert source.classes == ["forest", "sea", "street"]
    names = [Path(source.name(index)).relative_to(tmp_path).as_posix() for index in range(len(source))]
    assert names == [
        "forest/000.png", "sea/000.png", "street/000.png",
        "sea/001.png", "street/001.png",
        "sea/002.png",
    ]  # fmt: skip
    for index, name in enumerate(names):
        image, label = source[index]
        assert source.classes[label] == name.split("/")[0]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / name)))


def test_deeper_images_belong_to_the_uppermost_subfolder(tmp_path: Path):
    (tmp_path / "sea" / "2024").mkdir(parents=True)
    picture(0).save(tmp_path / "sea" / "2024" / "a.PNG")
    assert FolderSource(tmp_path).classes == ["sea"]


def test_flat_folder_without_labels_has_one_class(tmp_path: Path):
    for number in (2, 0, 1):
        picture(number).save(tmp_path / f"{number}.png")
    source = FolderSource(tmp_path, labelled=False)
    assert source.classes == ["images"]
    assert [Path(source.name(index)).name for index in range(3)] == ["0.png", "1.png", "2.png"]
    assert {source[index][1] for index in range(3)} == {0}


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / ".thumbnails").mkdir()
    picture(0).save(tmp_path / ".thumbnails" / "0.png")
    (tmp_path / "notes.txt").write_text("about")
    with caplog.at_level("INFO"):
        assert [file.name for file in list_images(tmp_path)] == ["000.png"]
    assert "passed over 1 files" in caplog.text
    assert suffixes_below(tmp_path) == {".png", ".txt"}


def test_images_of_kinds_that_are_not_read_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_class_folders(tmp_path, {"a": 1})
    for name in ("1.heic", "2.HEIC", "3.avif", "4.txt"):
        (tmp_path / "a" / name).write_bytes(b"")
    (tmp_path / "a" / "5.jfif").write_bytes(encoded(picture(5), "JPEG"))
    assert len(FolderSource(tmp_path)) == 2
    assert "passed over images of kinds that are not read: 1 of .avif, 2 of .heic; takes" in caplog.text


def test_a_link_back_to_the_folder_repeats_no_image(tmp_path: Path):
    write_class_folders(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "a")  # the same images as another class, which leads round in no circle
    assert len(FolderSource(tmp_path)) == 5


def test_fingerprint_follows_names_and_content_not_times(tmp_path: Path):
    write_class_folders(tmp_path / "images", {"a": 2})
    first = FolderSource(tmp_path / "images").fingerprint()
    copied = shutil.copytree(tmp_path / "images", tmp_path / "copy", copy_function=shutil.copyfile)
    assert FolderSource(copied).fingerprint() == first
    file = copied / "a" / "000.png"
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # as many bytes as before
    changed = FolderSource(copied).fingerprint()
    file.rename(copied / "a" / "005.png")
    assert len({first, changed, FolderSource(copied).fingerprint()}) == 3


def test_corrupt_image_is_named(tmp_path: Path):
    write_class_folders(tmp_path, {"a": 1})
    (tmp_path / "a" / "000.png").write_bytes(b"broken")
    with pytest.raises(UnreadableImage) as caught:
        FolderSource(tmp_path)[0]
    assert caught.value.name == str(tmp_path / "a" / "000.png")


def test_a_file_that_vanished_is_no_corrupt_image(tmp_path: Path):
    source = FolderSource(write_class_folders(tmp_path, {"a": 1}))
    (tmp_path / "a" / "000.png").unlink()
    with pytest.raises(FileNotFoundError):
        source[0]


def test_missing_and_empty_folders_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.holdout: .*nowhere is not a folder"):
        FolderSource(tmp_path / "nowhere", key="data.holdout")
    with pytest.raises(DataError, match=r"data\.source: .* holds no images \(\.bmp"):
        FolderSource(tmp_path)


def test_images_outside_any_class_are_refused_with_the_way_out(tmp_path: Path):
    write_class_folders(tmp_path, {"a": 1})
    picture(0).save(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png lies in .* in no class; .*data\.label_column=null"):
        FolderSource(tmp_path)
    assert len(FolderSource(tmp_path, labelled=False)) == 2


def test_splits_are_not_taken_for_classes(tmp_path: Path):
    write_class_folders(tmp_path, {"train": 1, "test": 1})
    with pytest.raises(DataError, match=r"\(test, train\) look like splits"):
        FolderSource(tmp_path)
