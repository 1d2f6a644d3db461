from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lpl.config import (
    DataConfig,
    Recipe,
    RecipeError,
    Section,
    apply_overrides,
    build_recipe,
    dump_recipe,
    load_recipe,
    merge,
)
from lpl.training.autoencoder_recipe import AutoencoderRecipe
from lpl.training.tiny_decoder_recipe import TinyDecoderRecipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_dumped_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    values = {
        "training": {"steps": 7, "betas": [0.8, 0.9]},
        "objective": {"perceptual": {"weight": "matched", "matching_batches": 4}},
    }
    recipe = build_recipe(values)
    path = write(tmp_path / "recipe.yaml", dump_recipe(recipe))
    assert load_recipe(path) == recipe


def test_overrides_reach_any_depth_and_are_yaml(tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", "training: {steps: 5, ema_start: 1}\n")
    recipe = load_recipe(
        path, ["training.learning_rate=1e-4", "objective.perceptual.blocks=[mid_block]", "data.limit=3", "name=x=y"]
    )
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.steps == 5
    assert recipe.objective.perceptual is not None
    assert recipe.objective.perceptual.blocks == ("mid_block",)
    assert recipe.data.limit == 3
    assert recipe.name == "x=y"
    assert load_recipe(path, ["objective.perceptual=null"]).objective.perceptual is None


def test_no_is_a_word_on_the_command_line(tmp_path: Path) -> None:
    """Messages say `training.precision=no`, and YAML reads that as false."""
    path = write(tmp_path / "recipe.yaml", "training: {precision: bf16}\n")
    assert load_recipe(path, ["training.precision=no"]).training.precision == "no"
    with pytest.raises(
        RecipeError, match="training.precision: got True; input should be 'auto', 'no', 'bf16' or 'fp16'"
    ):
        load_recipe(path, ["training.precision=yes"])


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "data: {resolution: 32, flip: false}\ntraining: {steps: 9}\n")
    (tmp_path / "more").mkdir()
    path = write(tmp_path / "more" / "top.yaml", "extends: ../base.yaml\ndata: {resolution: 64}\n")
    recipe = load_recipe(path)
    assert (recipe.data.resolution, recipe.data.flip, recipe.training.steps) == (64, False, 9)


def test_merging_leaves_its_arguments_alone() -> None:
    base, top = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}
    assert merge(base, top) == {"a": {"b": 3, "c": 2}}
    assert base == {"a": {"b": 1, "c": 2}}
    assert apply_overrides(base, ["a.b=9"])["a"]["b"] == 9
    assert base["a"]["b"] == 1


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"trainin": {}}, ["trainin: no such key", "did you mean training?", "allowed here: name"]),
        ({"training": {"step": 1}}, ["training.step: no such key", "did you mean training.steps?"]),
        (
            {"objective": {"perceptual": {"sigma": 3}}},
            ["objective.perceptual.sigma: no such key", "did you mean objective.perceptual.sigma_threshold?"],
        ),
        ({"training": {"learning_rate": -1}}, ["training.learning_rate: got -1", "greater than 0"]),
        ({"training": {"precision": "half"}}, ["training.precision: got 'half'", "'no', 'bf16' or 'fp16'"]),
        ({"data": {"crops_per_image": 4}}, ["crops_per_image=4 needs crop=random"]),
        ({"sampling": {"method": "ddim"}}, ["sampling.method=ddim", "flow_ot takes euler, heun, rk4 or dopri5"]),
        ({"diffusion": {"path": "ddpm"}}, ["sampling.method=euler: diffusion.path=ddpm takes ddim"]),
        ({"sampling": {"eta": 0.5}}, ["sampling.eta=0.5"]),
        (
            {"diffusion": {"path": "ddpm"}, "sampling": {"method": "ddim", "steps": 2000}},
            ["sampling.steps=2000: at most diffusion.num_timesteps=1000"],
        ),
        ({"training": {"steps": 5, "ema_start": 5}}, ["training.ema_start=5 is not before training.steps=5"]),
        ({"training": {"betas": [0.9, 1.0]}}, ["training.betas.1: got 1.0", "less than 1"]),
        ({"diffusion": {"logit_mean": float("nan")}}, ["diffusion.logit_mean: got nan", "finite"]),
        ({"sampling": {"guidance_interval": [0.8, 0.2]}}, ["guidance_interval=[0.8, 0.2]", "the earlier one first"]),
        (
            {"training": {"steps": 5, "accumulation": 2}, "objective": {"perceptual": {"weight": "matched"}}},
            ["objective.perceptual.matching_batches=32 is not less than the 10 batches of training"],
        ),
        ({"training": {"stps": 1, "betas": [2, 0.5]}, "seed": -1}, ["stps", "betas", "seed: got -1"]),
    ],
)
def test_every_mistake_is_named_with_what_is_allowed(values: dict, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe(values)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: [1, 2", "not valid YAML"),
        ("- a\n- b\n", "a recipe is a mapping of sections, got list"),
        ("extends: recipe.yaml\n", "extends itself"),
        ("extends: none.yaml\n", "none.yaml: no such recipe file"),
        ("extends: 5\n", "extends: got 5, takes the name of another recipe file"),
        ("training: {steps: 5}\nname: a\ntraining: {batch_size: 3}\n", "training stands there twice"),
        ("training: {steps: 5, steps: 6}\n", "steps stands there twice"),
    ],
)
def test_files_that_are_no_recipe_are_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "recipe.yaml", text))


def test_recipes_that_extend_each_other_are_named(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "extends: second.yaml\n")
    second = write(tmp_path / "second.yaml", "extends: first.yaml\n")
    with pytest.raises(RecipeError, match=f"^{second}: extends itself, by way of {first} → {second} → {first}"):
        load_recipe(first)


def test_yaml_merge_keys_are_no_repetition(tmp_path: Path) -> None:
    merged = write(tmp_path / "recipe.yaml", "training: {<<: {batch_size: 2, steps: 4}, steps: 5, ema_start: 1}\n")
    assert load_recipe(merged).training.steps == 5
    assert load_recipe(merged).training.batch_size == 2


def test_the_folder_of_a_run_may_lie_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build_recipe({"output": "~/runs/a"}).folder == tmp_path / "runs" / "a"


@pytest.mark.parametrize(
    ("override", "message"),
    [("steps", "not of the form key=value"), ("=3", "not of the form"), ("name.x=1", "name is the value")],
)
def test_overrides_that_are_none_are_named(override: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "recipe.yaml", "name: here\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, [override])


def test_sections_can_be_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "data.yaml", "resolution: 32\n")
    assert load_recipe(path, ["flip=false"], DataConfig) == DataConfig(resolution=32, flip=False)
    with pytest.raises(RecipeError, match="did you mean resolution"):
        load_recipe(path, ["resolutoin=3"], DataConfig)


def test_recipes_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Recipe(), "name", "other")  # noqa: B010 - a type checker refuses the plain assignment


def schema_of(path: Path) -> type[Section]:
    """What a recipe of the repository describes, by its file's name."""
    if "autoencoder" in path.name:
        return AutoencoderRecipe
    return TinyDecoderRecipe if "tiny-decoder" in path.name else Recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_of_the_repository_is_sound(path: Path) -> None:
    recipe: Any = load_recipe(path, [], schema_of(path))
    assert yaml.safe_load(dump_recipe(recipe))["name"] == recipe.name
