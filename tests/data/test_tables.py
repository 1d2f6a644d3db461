from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from pictures import encoded, image_set, picture, write_parquet

from lpl.data import tables
from lpl.data.images import DataError, UnreadableImage
from lpl.data.tables import TableSource, open_dataset, open_parquet


def check_pictures(source: TableSource, labels: list[int]) -> None:
    assert len(source) == len(labels)
    for number, label in enumerate(labels):
        image, found = source[number]
        assert found == label
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture(number)))


def test_class_labels_keep_their_names_and_order(tmp_path: Path):
    names = ["zebra", "ant", "unused"]
    image_set([0, 1, 0], datasets.ClassLabel(names=names)).to_parquet(tmp_path / "a.parquet")
    source = open_parquet([tmp_path / "a.parquet"], "image", "label")
    assert source.classes == names
    check_pictures(source, [0, 1, 0])
    assert source.name(2) == f"{tmp_path / 'a.parquet'} row 2"


def test_plain_integers_and_strings_are_numbered_in_order(tmp_path: Path):
    image_set([10, 2, 10], datasets.Value("int32")).to_parquet(tmp_path / "a.parquet")
    integers = open_parquet([tmp_path / "a.parquet"], "image", "label")
    assert integers.classes == ["2", "10"]
    check_pictures(integers, [1, 0, 1])
    image_set(["sea", "ice"], datasets.Value("string"), "kind").to_parquet(tmp_path / "b.parquet")
    strings = open_parquet([tmp_path / "b.parquet"], "image", "kind")
    assert strings.classes == ["ice", "sea"]
    check_pictures(strings, [1, 0])


def test_parquet_written_without_datasets(tmp_path: Path):
    """Bytes in a plain binary column, or in a struct, as other tools write them."""
    contents = [encoded(picture(number)) for number in range(2)]
    plain = write_parquet(tmp_path / "plain.parquet", image=contents, label=[1, 0])
    check_pictures(open_parquet([plain], "image", "label"), [1, 0])
    struct = write_parquet(tmp_path / "struct.parquet", picture=[{"bytes": c, "path": "x.png"} for c in contents])
    source = open_parquet([struct], "picture", None)
    assert source.classes == ["images"]
    check_pictures(source, [0, 0])


def test_several_files_follow_each_other(tmp_path: Path):
    files = []
    for number in range(3):
        files.append(write_parquet(tmp_path / f"{number}.parquet", image=[encoded(picture(number))], label=[number]))
    check_pictures(open_parquet(files, "image", "label"), [0, 1, 2])


def test_changed_parquet_is_read_anew_and_has_another_fingerprint(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet", image=[encoded(picture(5))], label=[0])
    before = open_parquet([file], "image", "label").fingerprint()
    write_parquet(file, image=[encoded(picture(0))], label=[0])
    source = open_parquet([file], "image", "label")
    check_pictures(source, [0])
    assert source.fingerprint() != before
    assert source.fingerprint() == open_parquet([file], "image", "label").fingerprint()


def test_other_labels_have_another_fingerprint_however_alike_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Labels are a small part of a large file, most of whose content its hash leaves out."""
    monkeypatch.setattr(tables, "digest_files", lambda files, folder: "the same")
    images = [encoded(picture(number)) for number in range(3)]
    prints = [
        open_parquet([write_parquet(tmp_path / f"{number}.parquet", image=images, label=labels)], "image", column)
        .fingerprint()
        for number, (labels, column) in enumerate(
            [([0, 1, 1], "label"), ([0, 1, 0], "label"), ([0, 1, 1], None), ([0, 1, 0], None)]
        )
    ]  # fmt: skip
    assert len(set(prints)) == 3
    assert prints[2] == prints[3]


def test_saved_data_set_with_and_without_splits(tmp_path: Path):
    data = image_set([1, 0], datasets.ClassLabel(names=["a", "b"]))
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "two"))
    check_pictures(open_dataset(str(tmp_path / "one"), "train", "image", "label"), [1, 0])
    check_pictures(open_dataset(str(tmp_path / "two"), "test", "image", "label"), [1])
    with pytest.raises(DataError, match=r"data\.source: .*two' has no split 'dev'; it has 'train', 'test'"):
        open_dataset(str(tmp_path / "two"), "dev", "image", "label")


def test_folder_laid_out_like_a_hub_repository(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for split, labels in (("train", [0, 1]), ("test", [1])):
        image_set(labels, datasets.Value("int64")).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    check_pictures(open_dataset(str(tmp_path), "train", "image", "label"), [0, 1])
    with pytest.raises(DataError, match=r"split 'dev'.*dev"):
        open_dataset(str(tmp_path), "dev", "image", "label")


def test_hub_names_go_to_the_loader_with_their_configuration(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def load(*arguments: object, **options: object) -> datasets.Dataset:
        calls.append((arguments, options))
        return image_set([0], datasets.Value("int64"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    check_pictures(open_dataset("owner/name:small", "train", "image", "label"), [0])
    check_pictures(open_dataset("owner/name", "test", "image", "label"), [0])
    assert calls == [(("owner/name", "small"), {"split": "train"}), (("owner/name", None), {"split": "test"})]


def test_unreachable_name_says_what_was_tried(monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"data\.holdout: .*no file or folder owner/x here.*no route to the hub"):
        open_dataset("owner/x", "train", "image", "label", "data.holdout")


def test_missing_columns_are_refused_with_those_there_are(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet", image=[encoded(picture(0))], label=[0])
    with pytest.raises(DataError, match=r"data\.image_column: .* has no column 'jpg'; it has image, label$"):
        open_parquet([file], "jpg", "label")
    with pytest.raises(DataError, match=r"data\.label_column: .* no column 'kind'; .*data\.label_column=null"):
        open_parquet([file], "image", "kind")


def test_rows_without_a_label_are_refused(tmp_path: Path):
    data = image_set([0, -1], datasets.ClassLabel(names=["a"]))
    with pytest.raises(DataError, match=r"holds \[-1\] besides its 1 classes; such rows have no label"):
        TableSource(data, "image", "label", "table", "")
    data = image_set([0, None], datasets.Value("int64"))
    with pytest.raises(DataError, match="NoneType"):
        TableSource(data, "image", "label", "table", "")


def test_columns_of_other_types_are_refused():
    data = datasets.Dataset.from_dict({"image": ["a.png"], "boxes": [[1, 2]]})
    with pytest.raises(DataError, match=r"data\.image_column: 'image' of table holds .*string"):
        TableSource(data, "image", None, "table", "")
    with pytest.raises(DataError, match=r"data\.label_column: 'boxes' of table holds List"):
        TableSource(image_set([0], datasets.Value("int64")).add_column("boxes", [[1]]), "image", "boxes", "table", "")


def test_empty_table_and_file_that_is_no_parquet_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.source: table has no rows"):
        TableSource(image_set([], datasets.Value("int64")), "image", "label", "table", "")
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"cannot read .*a\.parquet as parquet: .*Parquet"):
        open_parquet([tmp_path / "a.parquet"], "image", "label")


def test_corrupt_and_empty_cells_are_unreadable_images(tmp_path: Path):
    contents = [encoded(picture(0)), b"broken", None]
    file = write_parquet(tmp_path / "a.parquet", image=contents, label=[0, 1, 0])
    source = open_parquet([file], "image", "label")
    for row, reason in ((1, "UnidentifiedImageError"), (2, "the cell is empty")):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            source[row]
        assert caught.value.name == f"{file} row {row}"


def test_real_photographs(shared: Path):
    source = open_parquet([shared / "data" / "scenes-128" / "test.parquet"], "image", "label")
    assert source.classes == ["buildings", "forest", "glacier", "mountain", "sea", "street"]
    assert len(source) == 1500
    image, label = source[7]
    assert image.size == (128, 128)
    assert image.mode == "RGB"
    assert 0 <= label < 6
