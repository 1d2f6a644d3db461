"""The store: runs are found by what went into them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_studies import StudyFolder

from lpl.config import Recipe, build_recipe, merge
from lpl.study import load_study
from lpl.study.identity import Adopted, Training
from lpl.study.recipes import study_recipe
from lpl.study.store import Store, adopt, has_milestones, is_complete
from lpl.training.checkpoints import resolve_checkpoint, save_checkpoint


@pytest.fixture
def recipe(studies: StudyFolder) -> Recipe:
    return study_recipe(load_study(studies.write()), "l2")


def finish(folder: Path, recipe: Recipe, steps: list[int]) -> None:
    """What training leaves behind, as far as the store looks at it."""
    for step in steps:
        tensors = {"model": {"weight": torch.full((2,), float(step))}}
        state = {"recipe": recipe.model_dump(mode="json"), "seconds": 1.5, "images": 4 * step}
        save_checkpoint(folder / "checkpoints", step, tensors, state, keep=9)
    (folder / "run.json").write_text(json.dumps({"status": "complete", "step": steps[-1]}))


def test_a_run_is_found_whatever_it_is_called(recipe: Recipe, tmp_path: Path) -> None:
    folder = Store(tmp_path / "store").claim(Training("the first name", recipe))
    assert folder.name.startswith("the-first-name-")
    assert Store(tmp_path / "store").claim(Training("another", recipe)) == folder
    other = build_recipe(merge(recipe.model_dump(), {"seed": 1}))
    assert Store(tmp_path / "store").claim(Training("another", other)) != folder


def test_runs_of_a_version_that_cannot_be_followed_are_passed_over(recipe: Recipe, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = store.claim(Training("run", recipe))
    identity = json.loads((folder / "identity.json").read_text())
    identity["recipe"]["training"]["gone"] = 1
    (folder / "identity.json").write_text(json.dumps(identity))
    damaged = tmp_path / "store" / "damaged"
    damaged.mkdir()
    (damaged / "identity.json").write_text("{")
    assert Store(tmp_path / "store")._recorded == {}


def test_a_run_without_the_checkpoints_of_a_curve_is_trained_beside(recipe: Recipe, tmp_path: Path) -> None:
    training = Training("run", recipe)
    curve = replace(training, milestones=(2, 4))
    folder = Store(tmp_path / "store").claim(training)
    assert Store(tmp_path / "store").locate(curve) == folder  # it has not come to the first of them
    finish(folder, recipe, [4])
    assert not has_milestones(folder, (2, 4))
    beside = Store(tmp_path / "store").claim(curve)
    assert beside != folder
    finish(beside, recipe, [2, 4])
    assert Store(tmp_path / "store").locate(curve) == beside
    assert Store(tmp_path / "store").locate(training) == folder
    # Other checkpoints are trained beside either: what is complete never gets them.
    third = Store(tmp_path / "store").claim(replace(training, milestones=(3, 4)))
    assert third not in (folder, beside)
    assert not is_complete(third)


def test_a_checkpoint_from_elsewhere_becomes_a_run_without_being_copied(recipe: Recipe, tmp_path: Path) -> None:
    origin = tmp_path / "elsewhere"
    finish(origin, recipe, [3, 5])
    rows = [{"step": step, "loss": 0.1 * step} for step in (2, 3, 4, 5)]
    (origin / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    first = Adopted("start", resolve_checkpoint(origin / "checkpoints" / "step-00000003"), recipe)
    store = Store(tmp_path / "store")
    folder = store.claim(first)
    assert is_complete(folder)
    assert resolve_checkpoint(folder).resolve() == first.checkpoint.resolve()
    information = json.loads((folder / "run.json").read_text())
    assert (information["step"], information["seconds"]) == (3, 1.5)
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [2, 3]
    adopt(first, folder)  # once is enough
    last = Adopted("start", resolve_checkpoint(origin), recipe)
    assert store.claim(last) != folder
    # What begins from either is another run.
    assert store.key(Training("a", recipe, first)) != store.key(Training("a", recipe, last))


def test_a_checkpoint_that_has_moved_is_linked_to_where_it_lies_now(recipe: Recipe, tmp_path: Path) -> None:
    finish(tmp_path / "before", recipe, [3])
    store = Store(tmp_path / "store")
    folder = store.claim(Adopted("start", resolve_checkpoint(tmp_path / "before"), recipe))
    (tmp_path / "before").rename(tmp_path / "after")
    moved = Adopted("start", resolve_checkpoint(tmp_path / "after"), recipe)
    assert store.claim(moved) == folder
    assert resolve_checkpoint(folder).resolve() == moved.checkpoint.resolve()
    assert json.loads((folder / "run.json").read_text())["adopted_from"] == str(moved.checkpoint.resolve())
