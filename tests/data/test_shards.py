from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, labelled_members, picture, write_shard

from lpl.data.images import DataError, UnreadableImage
from lpl.data.shards import ShardSource


def test_samples_of_all_shards_in_order(tmp_path: Path):
    shards = [
        write_shard(tmp_path / "0.tar", labelled_members([10, 9])),
        write_shard(tmp_path / "1.tar", labelled_members([9], first=2)),
    ]
    source = ShardSource(shards)
    assert source.classes == ["9", "10"]
    assert source.labels == [1, 0, 0]
    assert source.name(2) == f"{shards[1]}/000002.png"
    for number in (2, 0, 1):
        np.testing.assert_array_equal(np.asarray(source[number][0]), np.asarray(picture(number)))


def test_webdatasets_own_writer_is_understood(tmp_path: Path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(3):
            sample = {"__key__": f"part/{number:04}", "webp": encoded(picture(number), "WEBP", lossless=True)}
            writer.write({**sample, "json": {"label": "even" if number % 2 == 0 else "odd", "width": 24}})
    source = ShardSource([tmp_path / "0.tar"])
    assert source.classes == ["even", "odd"]
    assert [source[number][1] for number in range(3)] == [0, 1, 0]
    np.testing.assert_array_equal(np.asarray(source[1][0]), np.asarray(picture(1)))


@pytest.mark.parametrize(
    ("column", "classes"),
    [("label", ["3"]), ("cls", ["3"]), ("txt", ["a dog"]), ("breed", ["collie"]), (None, ["images"])],
)
def test_label_column_chooses_the_member_or_the_json_key(tmp_path: Path, column: str | None, classes: list[str]):
    members = {
        "a/7.jpg": encoded(picture(7), "JPEG"),
        "a/7.cls": b" 3\n",
        "a/7.txt": b"a dog\n",
        "a/7.json": json.dumps({"label": 5, "breed": "collie"}).encode(),
    }
    assert ShardSource([write_shard(tmp_path / "0.tar", members)], column).classes == classes


def test_json_and_then_text_stand_in_for_a_missing_cls(tmp_path: Path):
    image = encoded(picture(0))
    with_json = write_shard(tmp_path / "0.tar", {"0.png": image, "0.json": b'{"label": 4}', "0.txt": b"dog"})
    with_text = write_shard(tmp_path / "1.tar", {"0.png": image, "0.json": b'{"width": 4}', "0.txt": b"dog"})
    assert ShardSource([with_json]).classes == ["4"]
    assert ShardSource([with_text]).classes == ["dog"]


def test_keys_end_at_the_first_dot_and_folders_tell_samples_apart(tmp_path: Path):
    image = encoded(picture(0))
    members = {"v1.0/a.png": image, "v1.0/a.cls": b"0", "v2.0/a.png": image, "v2.0/a.cls": b"1"}
    source = ShardSource([write_shard(tmp_path / "0.tar", members)])
    assert [source.samples[index].key for index in range(2)] == ["v1.0/a", "v2.0/a"]
    assert source.labels == [0, 1]


def test_threads_read_at_once(tmp_path: Path):
    source = ShardSource([write_shard(tmp_path / "0.tar", labelled_members([0] * 20))])
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda index: np.asarray(source[index][0]), list(range(20)) * 3))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, np.asarray(picture(index % 20)))


def test_fingerprint_follows_the_shards(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", labelled_members([0, 1]))
    before = ShardSource([shard]).fingerprint()
    assert ShardSource([shard]).fingerprint() == before
    write_shard(shard, labelled_members([1, 0]))
    assert ShardSource([shard]).fingerprint() != before


def test_corrupt_image_is_named_by_shard_and_member(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", {"a.jpg": b"broken", "a.cls": b"0"})
    with pytest.raises(UnreadableImage) as caught:
        ShardSource([shard])[0]
    assert caught.value.name == f"{shard}/a.jpg"


def test_sample_without_label_is_refused_with_the_way_out(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", {"a.png": encoded(picture(0)), "a.json": b'{"kind": 1}'})
    message = r"data\.label_column: sample a of .*no label 'label' \(found None; .*png, json\); data\.label_column=null"
    with pytest.raises(DataError, match=message):
        ShardSource([shard])
    (tmp_path / "0.tar").unlink()
    shard = write_shard(tmp_path / "0.tar", {"a.png": encoded(picture(0)), "a.json": b"{oops"})
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        ShardSource([shard])


def test_tars_that_cannot_be_read_are_refused(tmp_path: Path):
    packed = write_shard(tmp_path / "0.tar", labelled_members([0]), "w:gz")
    (tmp_path / "1.tar").write_bytes(b"no tar" * 100)
    for shard in (packed, tmp_path / "1.tar"):
        with pytest.raises(DataError, match=r"data\.holdout: cannot read .*\.tar as an uncompressed tar file"):
            ShardSource([shard], key="data.holdout")
    with pytest.raises(DataError, match=r"no image in .*2\.tar; takes members such as"):
        ShardSource([write_shard(tmp_path / "2.tar", {"a.cls": b"0"})])


def test_truncated_shard_is_refused(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", labelled_members([0] * 8))
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot read"):
        ShardSource([shard])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data.rstrip(b"\0")) - 700], id="cut within a member"),
        pytest.param(lambda data: data + data, id="two archives in one file"),
    ],
)
def test_damaged_shards_are_refused_rather_than_read_in_part(tmp_path: Path, damage: Callable[[bytes], bytes]):
    shard = write_shard(tmp_path / "0.tar", labelled_members([3, 4, 5]))
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(DataError, match=r"data\.source: .*0\.tar"):
        ShardSource([shard])


@pytest.mark.parametrize("overwritten", [b"x" * 512, b"\0" * 512])
def test_no_header_in_the_middle_ends_a_shard(tmp_path: Path, overwritten: bytes):
    """`tarfile` takes either for the end of the archive, and says nothing of the samples that follow."""
    shard = write_shard(tmp_path / "0.tar", labelled_members([3, 4, 5]))
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2].offset
    data = shard.read_bytes()
    shard.write_bytes(data[:third] + overwritten + data[third + 512 :])
    with pytest.raises(DataError, match=f"damaged or cut short at byte {third:,}"):
        ShardSource([shard])


def test_shard_cut_between_members_is_refused(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", labelled_members([3, 4, 5]))
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2].offset
    shard.write_bytes(shard.read_bytes()[:third])
    with pytest.raises(DataError, match=f"damaged or cut short at byte {third:,}"):
        ShardSource([shard])
