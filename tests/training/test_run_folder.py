"""Which recipes may carry on a run."""

from __future__ import annotations

import pytest

from lpl.training import ResumeError, train

LPL = {"weight": 0.3, "sigma_threshold": 2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.learning_rate": 2e-3}, r"training\.learning_rate was 0\.001 and is now 0\.002"),
        ({"objective.perceptual": LPL}, r"objective\.perceptual was None and is now \{'weight': 0\.3"),
        ({"seed": 1, "data.flip": False}, r"seed was 0 and is now 1; data\.flip was True and is now False;"),
        ({"training.steps": 3}, r"is at step 4 already, beyond training\.steps=3"),
        ({"training.accumulation": 2}, r"a step took 1 forward passes .* now takes 2"),
    ],
)
def test_resuming_with_another_recipe_is_refused_by_key(tiny_recipe, settings, message):
    train(tiny_recipe())
    changed = {key.replace(".", "__"): value for key, value in {"training.steps": 6, **settings}.items()}
    with pytest.raises(ResumeError, match=message):
        train(tiny_recipe(**changed))


def test_a_cosine_run_can_not_be_extended(tiny_recipe):
    train(tiny_recipe(training__schedule="cosine"))
    with pytest.raises(ResumeError, match=r"training\.steps was 4 and is now 6 \(it may change with"):
        train(tiny_recipe(training__schedule="cosine", training__steps=6))


def test_resuming_on_other_images_is_refused(tiny_recipe, tiny_images, tmp_path):
    images = tmp_path / "images"
    (images / "blue").mkdir(parents=True)
    (images / "red").mkdir()
    for path in tiny_images.rglob("*.png"):
        (images / path.relative_to(tiny_images)).write_bytes(path.read_bytes())
    train(tiny_recipe(data__source=str(images)))
    next(images.rglob("*.png")).unlink()
    with pytest.raises(ResumeError, match="was trained on other latents: source changed"):
        train(tiny_recipe(data__source=str(images), training__steps=6))
