from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import write_run, write_samples

from lpl.reports.pictures import gallery
from lpl.reports.runs import load_runs


def decoded(picture):
    head, _, body = picture.uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(body, validate=True)))


def test_pairs_hold_the_same_sample_of_every_run_pixel_for_pixel(two_runs):
    found = gallery(load_runs(two_runs))
    assert [group.index for group in found.groups] == list(range(8))
    for group in found.groups:
        assert [picture.run for picture in group.pictures] == [0, 1]
        for picture in group.pictures:
            head, image = decoded(picture)
            original = Image.open(two_runs[picture.run] / "samples" / "default" / f"{group.index:06d}.png")
            assert head == "data:image/png;base64"
            np.testing.assert_array_equal(np.asarray(image), np.asarray(original))
    assert found.groups[1].class_name == "cat"
    assert found.groups[1].pictures[1].alternative == "lpl: sample 1 of cat"
    assert found.notes == ()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"seed": 1}, "their seeds differ (0 and 1)"),
        ({"side": 48}, "their images differ in size"),
        ({"labels": [3, 2, 1, 0]}, "the same sample has another class in each"),
    ],
)
def test_what_does_not_belong_together_is_not_paired(make_run, settings, reason):
    found = gallery(load_runs([make_run("l2", count=4), make_run("lpl", count=4, **settings)]))
    assert found.groups == ()
    assert len(found.notes) == 1
    assert found.notes[0].startswith("l2 and lpl can't be paired")
    assert reason in found.notes[0]


def test_begins_with_two_runs_that_pair(make_run):
    runs = [make_run("other", seed=1), make_run("l2"), make_run("lpl")]
    assert gallery(load_runs(runs)).first_pair == (1, 2)
    assert gallery(load_runs(runs[:2])).first_pair == (0, 0)
    assert gallery([]).first_pair == (0, 0)


def test_unknown_seeds_are_not_taken_for_equal(two_runs):
    for folder in two_runs:
        (folder / "samples" / "default" / "samples.json").unlink()
    found = gallery(load_runs(two_runs))
    assert found.groups == ()
    assert "a seed is unknown" in found.notes[0]


def test_only_samples_of_one_class_pair(make_run):
    runs = load_runs([make_run("l2", labels=[0, 1, 2, 3]), make_run("lpl", labels=[0, 1, 3, 3])])
    found = gallery(runs)
    assert [group.index for group in found.groups] == [0, 1, 3]
    assert found.notes == ("1 sample of l2 and lpl have different classes: not paired.",)


def test_samples_that_one_run_lacks_are_left_to_the_others(make_run):
    runs = [make_run("a", count=4), make_run("b", count=4), make_run("c", count=2)]
    found = gallery(load_runs(runs))
    assert [[picture.run for picture in group.pictures] for group in found.groups] == [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1],
        [0, 1],
    ]


def test_the_first_ones_are_shown_when_there_are_many(two_runs):
    found = gallery(load_runs(two_runs), limit=3)
    assert [group.index for group in found.groups] == [0, 1, 2]
    assert found.notes == ("The first 3 of 8 shared samples are shown, to keep the page small.",)


def test_budget_bounds_the_bytes(two_runs):
    runs = load_runs(two_runs)
    whole = gallery(runs)
    size = sum(len(picture.uri) for group in whole.groups for picture in group.pictures)
    half = gallery(runs, budget=size // 2)
    used = sum(len(picture.uri) for group in half.groups for picture in group.pictures)
    assert 0 < used <= size // 2
    assert 0 < len(half.groups) < 8
    assert "shared samples are shown" in half.notes[0]
    nothing = gallery(runs, budget=10)
    assert nothing.groups == ()
    assert nothing.notes == ("The first 0 of 8 shared samples are shown, to keep the page small.",)


def test_large_images_are_jpeg_with_full_chroma_and_said(make_run):
    folder = make_run("run", count=1, side=288)
    found = gallery(load_runs([folder]))
    head, image = decoded(found.groups[0].pictures[0])
    original = np.asarray(Image.open(folder / "samples" / "default" / "000000.png")).astype(float)
    error = np.asarray(image).astype(float) - original
    assert head == "data:image/jpeg;base64"
    assert all(component[1:3] == (1, 1) for component in image.layer)  # no chroma subsampling
    assert np.sqrt(np.mean(error**2)) < 3
    assert found.notes == ("Images over 256 pixels a side are inlined as JPEG at quality 95.",)


def test_unreadable_images_are_left_out_and_named(two_runs):
    (two_runs[0] / "samples" / "default" / "000002.png").write_bytes(b"not an image")
    found = gallery(load_runs(two_runs))
    assert [picture.run for picture in found.groups[2].pictures] == [1]
    assert found.notes == ("Unreadable images were left out: l2/000002.png.",)


def test_one_run_shows_all_its_samples(make_run):
    found = gallery(load_runs([make_run("run", count=3)]))
    assert [group.index for group in found.groups] == [0, 1, 2]


def test_other_sampling_or_another_autoencoder_is_said(tmp_path, make_run):
    other = write_run(tmp_path / "lpl", autoencoder={"path": "elsewhere"})
    path = other / "samples" / "default" / "samples.json"
    details = json.loads(path.read_text())
    details["settings"] |= {"guidance_scale": 2.0, "batch_size": 3}
    path.write_text(json.dumps(details))
    notes = gallery(load_runs([make_run("l2"), other])).notes
    assert notes == (
        "l2 and lpl use different autoencoders, so a seed is not the same noise.",
        "l2 and lpl were sampled differently (guidance_scale 1 and 2), so the pictures show that too.",
    )


def test_small_pictures_are_enlarged_pixel_by_pixel(tmp_path, make_run):
    assert gallery(load_runs([make_run("small", side=64)])).pixelated
    folder = make_run("large", count=1)
    write_samples(folder / "samples" / "big", seed=0, count=1, side=160)
    assert not gallery(load_runs([folder], "big")).pixelated
