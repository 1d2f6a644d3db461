from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_files import assert_same_result

from lpl.training import sample_run, train


def images_in(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))]


def test_previews_are_the_samples_of_that_step(tiny_recipe, one_thread):
    recipe = tiny_recipe(training__sample_every=2, training__ema_decay=0.5, sampling__count=3, sampling__steps=4)
    run = train(recipe)
    assert sorted(path.name for path in (run / "previews").iterdir()) == ["step-00000002", "step-00000004"]
    samples = images_in(sample_run(run, recipe.sampling, progress=False))
    preview = images_in(run / "previews" / "step-00000004")
    assert len(preview) == len(samples) == 3
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(preview, samples, strict=True))
    earlier = images_in(run / "previews" / "step-00000002")
    assert not np.array_equal(earlier, preview)


@pytest.mark.parametrize("start", [0, 3])
def test_training_is_the_same_with_and_without_previews(tiny_recipe, one_thread, start):
    """Also before the average has begun, when the weights being trained are drawn with."""
    settings = {"training__ema_start": start, "sampling__count": 2, "sampling__steps": 2}
    with_previews = train(tiny_recipe("with", training__sample_every=1, **settings))
    assert_same_result(with_previews, train(tiny_recipe("without", **settings)))


def test_no_previews_unless_asked_for(tiny_recipe):
    assert not (train(tiny_recipe()) / "previews").exists()


def test_previews_may_be_asked_for_when_a_run_is_resumed(tiny_recipe):
    train(tiny_recipe(training__steps=2))
    run = train(tiny_recipe(training__steps=4, training__sample_every=3, sampling__count=2, sampling__steps=2))
    assert [path.name for path in (run / "previews").iterdir()] == ["step-00000003"]


def test_a_class_that_no_preview_can_show_is_refused_before_training(tiny_recipe):
    recipe = tiny_recipe(training__sample_every=3, sampling__labels=[99])
    with pytest.raises(ValueError, match=r"sampling\.labels: got 99, this run takes 0 to 1"):
        train(recipe)
    assert not Path(recipe.output).exists()
