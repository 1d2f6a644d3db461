from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from pictures import encoded, image_set, labelled_members, picture, write_class_folders, write_parquet, write_shard

from lpl.config import DataConfig
from lpl.data.images import DataError
from lpl.data.sources import detect_format, open_images


def test_default_is_the_bundled_photographs_with_their_own_holdout():
    train, test = open_images(DataConfig()), open_images(DataConfig(), holdout=True)
    assert (len(train), len(test)) == (12 * 192, 12 * 48)
    assert train.classes == test.classes
    assert train.fingerprint() != test.fingerprint()


def test_unknown_split_of_the_photographs_is_refused_by_key():
    with pytest.raises(DataError, match=r"^data\.split: got 'dev'"):
        open_images(DataConfig(split="dev"))
    with pytest.raises(DataError, match=r"^data\.holdout_split: got 'dev'"):
        open_images(DataConfig(holdout_split="dev"), holdout=True)


def test_photographs_without_labels_are_one_class():
    source = open_images(DataConfig(label_column=None, limit=30))
    assert source.classes == ["images"]
    assert {source[index][1] for index in range(0, 30, 7)} == {0}
    assert len(source) == 30


def test_every_format_is_detected(tmp_path: Path):
    write_class_folders(tmp_path / "images", {"a": 1})
    write_parquet(tmp_path / "x.parquet", image=[encoded(picture(0))], label=[0])
    write_shard(tmp_path / "x.tar", labelled_members([0]))
    image_set([0], datasets.Value("int64")).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "repository" / "data").mkdir(parents=True)
    write_parquet(tmp_path / "repository" / "data" / "train.parquet", image=[encoded(picture(0))], label=[0])
    expected = {
        "photographs": "photographs",
        f"{tmp_path}/images": "folder",
        f"{tmp_path}/x.parquet": "parquet",
        f"{tmp_path}/*.parquet": "parquet",
        f"{tmp_path}/**/*.tar": "webdataset",
        f"{tmp_path}/saved": "hub",
        f"{tmp_path}/repository": "hub",
        "owner/some-images": "hub",
        "owner/some-images:small": "hub",
    }
    assert {source: detect_format(source) for source in expected} == expected
    for source in list(expected)[1:7]:
        config = DataConfig(source=source)
        assert len(open_images(config)) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/folder", "/no/such/folder does not exist; takes 'photographs', a folder"),
        ("./photos", "does not exist"),
        ("a/b/c", "does not exist"),
        ("/no/such.parquet", r"no file is named /no/such\.parquet or matches"),
        ("/no/*.tar", "no file is named"),
    ],
)
def test_missing_sources_are_refused_by_key(source: str, message: str):
    with pytest.raises(DataError, match=rf"^data\.source: .*{message}"):
        open_images(DataConfig(source=source))


def test_folders_of_nothing_known_or_of_two_kinds_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no images, parquet files or tar shards"):
        open_images(DataConfig(source=str(tmp_path)))
    write_shard(tmp_path / "x.tar", labelled_members([0]))
    with pytest.raises(DataError, match=r"holds tar shards; name them by a pattern, such as .*/\*\.tar"):
        open_images(DataConfig(source=str(tmp_path)))
    write_parquet(tmp_path / "x.parquet", image=[encoded(picture(0))])
    picture(0).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"both images and parquet files; set data\.format"):
        open_images(DataConfig(source=str(tmp_path)))
    (tmp_path / "x.txt").write_text("no images")
    with pytest.raises(DataError, match=r"x\.txt is none of these"):
        open_images(DataConfig(source=str(tmp_path / "x.txt")))


def test_format_overrides_detection(tmp_path: Path):
    write_shard(tmp_path / "shard.data", labelled_members([0, 1]))
    assert len(open_images(DataConfig(source=str(tmp_path / "shard.data"), format="webdataset"))) == 2


def test_holdout_labels_follow_the_training_classes(tmp_path: Path):
    write_class_folders(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    write_class_folders(tmp_path / "test", {"c": 2, "a": 1})
    config = DataConfig(source=str(tmp_path / "train"), holdout=str(tmp_path / "test"), limit=1)
    held_out = open_images(config, holdout=True)
    assert held_out.classes == ["a", "b", "c"]
    names = {Path(held_out.name(index)).parent.name: held_out[index][1] for index in range(len(held_out))}
    assert names == {"a": 0, "c": 2}
    assert len(open_images(config)) == 1  # the limit is for training


def test_holdout_of_unknown_classes_is_refused(tmp_path: Path):
    write_class_folders(tmp_path / "train", {"a": 1})
    write_class_folders(tmp_path / "test", {"a": 1, "z": 1})
    config = DataConfig(source=str(tmp_path / "train"), holdout=str(tmp_path / "test"))
    with pytest.raises(DataError, match=r"data\.holdout: has classes that data\.source lacks: z"):
        open_images(config, holdout=True)


def test_missing_holdout_is_refused_by_key(tmp_path: Path):
    write_class_folders(tmp_path, {"a": 1})
    with pytest.raises(DataError, match=r"data\.holdout: not given"):
        open_images(DataConfig(source=str(tmp_path)), holdout=True)
    with pytest.raises(DataError, match=r"data\.holdout: /no/where does not exist"):
        open_images(DataConfig(holdout="/no/where"), holdout=True)


def test_saved_data_set_with_splits_is_its_own_holdout(tmp_path: Path):
    data = image_set([0, 1, 1], datasets.Value("int64"))
    datasets.DatasetDict({"train": data, "validation": data.select([1])}).save_to_disk(str(tmp_path / "d"))
    config = DataConfig(source=str(tmp_path / "d"), holdout_split="validation")
    held_out = open_images(config, holdout=True)
    assert held_out.classes == ["0", "1"]
    assert held_out[0][1] == 1
