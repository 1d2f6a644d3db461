"""Two trainings are one run where everything that changes the weights is equal, and only there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_studies import StudyFolder

import zoo
from lpl.config import Recipe, build_recipe, merge
from lpl.study import load_study
from lpl.study.identity import (
    Fingerprints,
    Training,
    evaluation_contents,
    evaluation_key,
    identity_key,
    identity_of,
    set_key,
)
from lpl.study.recipes import study_recipe
from lpl.study.running import Measurement, reconstructions_file


@pytest.fixture
def recipe(studies: StudyFolder) -> Recipe:
    return study_recipe(load_study(studies.write()), "lpl")


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    return build_recipe(merge(recipe.model_dump(), sections))


def key(training: Training) -> str:
    return identity_key(identity_of(training, Fingerprints()))


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "another"},
        {"output": "elsewhere"},
        {"sampling": {"steps": 7, "guidance_scale": 3.0}},
        {"evaluation": {"extractor": "inception"}},
        {"training": {"log_every": 7, "checkpoint_every": 3, "keep_checkpoints": 5, "keep_every": 2}},
        {"data": {"holdout": "elsewhere"}},
    ],
)
def test_what_does_not_change_the_weights_does_not_count(recipe: Recipe, sections: dict[str, Any]) -> None:
    assert key(Training("a", changed(recipe, **sections))) == key(Training("b", recipe))


@pytest.mark.parametrize(
    "sections",
    [
        {"seed": 1},
        {"training": {"steps": 4}},
        {"training": {"time_budget": 4.0}},
        {"training": {"accumulation": 2}},
        {"objective": {"perceptual": {"weight": 0.25}}},
        {"objective": {"perceptual": {"normalization": "unit"}}},
        {"data": {"limit": 23}},
        {"data": {"resolution": 24}},
        {"autoencoder": {"precision": "bfloat16"}},
        {"diffusion": {"logit_mean": 0.5}},
        {"denoiser": {"gradient_checkpointing": True}},  # the same weights at another speed, in other memory
    ],
)
def test_what_changes_the_run_counts(recipe: Recipe, sections: dict[str, Any]) -> None:
    assert key(Training("a", changed(recipe, **sections))) != key(Training("a", recipe))


def test_where_a_run_begins_and_whose_time_it_takes_counts(recipe: Recipe) -> None:
    alone, start = Training("a", recipe), Training("start", changed(recipe, seed=5))
    keys = {
        key(alone),
        key(replace(alone, start=start)),
        key(replace(alone, start=Training("start", changed(recipe, seed=6)))),
        key(replace(alone, same_time_as=start)),
    }
    assert len(keys) == 4


def test_an_autoencoder_counts_by_its_weights_not_by_its_path(recipe: Recipe, tmp_path: Path) -> None:
    before = key(Training("a", recipe))
    shutil.copytree(tmp_path / "vae", tmp_path / "copy")
    assert key(Training("a", changed(recipe, autoencoder={"path": str(tmp_path / "copy")}))) == before
    other = zoo.make("stable_diffusion", seed=1)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "vae")
    assert key(Training("a", recipe)) != before


def test_a_recorded_identity_without_keys_that_came_later_means_their_defaults(recipe: Recipe) -> None:
    identity = identity_of(Training("a", recipe), Fingerprints())
    recorded = json.loads(json.dumps(identity))
    del recorded["recipe"]["training"]["clip_norm"]
    del recorded["same_time_as"]
    assert identity_key(recorded) == identity_key(identity)
    recorded["recipe"]["training"]["clip_norm"] = 2.0
    assert identity_key(recorded) != identity_key(identity)


def test_samples_and_measurements_have_keys_of_their_own(recipe: Recipe) -> None:
    sampling, evaluation, known = recipe.sampling, recipe.evaluation, Fingerprints()
    assert set_key(5, sampling) == set_key(5, sampling.model_copy(update={"batch_size": 3}))
    others = [{"seed": 1}, {"steps": 9}, {"weights": "raw"}, {"count": 13}]
    keys = {set_key(5, sampling), set_key(6, sampling)}
    keys |= {set_key(5, sampling.model_copy(update=update)) for update in others}
    assert len(keys) == 6
    contents = evaluation_contents(evaluation, recipe.data, known)
    other = evaluation_contents(evaluation.model_copy(update={"reference": "holdout"}), recipe.data, known)
    assert evaluation_key(5, sampling, contents) != evaluation_key(5, sampling, other)
    assert contents == evaluation_contents(evaluation.model_copy(update={"batch_size": 3}), recipe.data, known)


def test_an_extractor_counts_by_its_weights(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "features.py"
    spec = f"{file}:extract"

    def contents(value: float) -> str:
        file.write_text(
            "import torch\n"
            "class Pixels(torch.nn.Module):\n"
            "    def __init__(self):\n"
            f"        super().__init__(); self.scale = torch.nn.Parameter(torch.tensor({value}))\n"
            "    def forward(self, images):\n"
            "        return self.scale * images.flatten(1)[:, :8]\n"
            "def extract():\n"
            "    return Pixels()\n"
        )
        evaluation = recipe.evaluation.model_copy(update={"extractor": spec})
        return evaluation_contents(evaluation, recipe.data, Fingerprints())

    assert contents(1.0) == contents(1.0)
    assert contents(1.0) != contents(2.0)


def test_runs_with_a_loss_of_ones_own_are_told_apart_by_its_settings(studies: StudyFolder) -> None:
    def training(**settings: Any) -> Training:
        perceptual = {"kind": "custom", "term": "loss.py:Loss", "settings": settings}
        arms = {"own": {"recipe": {"objective": {"perceptual": perceptual}}}}
        return Training("own", study_recipe(load_study(studies.write(arms=arms)), "own"))

    plain = training(power=1, bands=[1, {"low": 2}])
    assert hash(plain) == hash(training(power=1.0, bands=[1, {"low": 2}]))
    assert plain == training(power=1.0, bands=[1, {"low": 2}])
    assert len({plain, training(power=2), training()}) == 3


def test_reconstructions_are_measured_for_each_number_of_samples() -> None:
    """Distances depend on how many images they are of, so that studies of other sizes can't share them."""
    recipe = Recipe()

    def file(**sampling: object) -> Path:
        settings = recipe.sampling.model_copy(update=sampling)
        return reconstructions_file(
            Path("store"), Measurement(3, settings, recipe.evaluation, "contents", "autoencoder")
        )

    assert file(count=96) != file(count=1000)
    assert file(count=96) == file(count=96, seed=1, guidance_scale=2.0)
