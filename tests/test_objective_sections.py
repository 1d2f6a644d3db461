"""Kinds of perceptual terms in a recipe, and what is said about those that can't be."""

from __future__ import annotations

import pytest

from lpl.config import PerceptualConfig, Recipe, RecipeError, build_recipe, dump_recipe, load_recipe
from lpl.training.terms import PERCEPTUAL_TERMS

KINDS = {
    "lpl": {"normalization": "target"},
    "latent_lpips": {"classifier": "folder", "sigma_threshold": 3},
    "self_perceptual": {"depth": 4},
    "custom": {"term": "losses/mine.py:Mine", "settings": {"anything": {"at": ["all"]}}},
}
START = {"training": {"initial_checkpoint": "runs/start"}}


def recipe(**objective) -> Recipe:
    return build_recipe({**START, "objective": objective})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_back_as_itself(kind, tmp_path) -> None:
    made = recipe(perceptual={"kind": kind, "weight": "matched", **KINDS[kind]})
    term = made.objective.perceptual
    assert (term.kind, term.weight) == (kind, "matched")
    assert type(term) in PERCEPTUAL_TERMS
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(made), encoding="utf-8")
    assert load_recipe(path) == made


def test_a_kind_is_changed_on_the_command_line(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("objective: {perceptual: {weight: 2}}\n")
    changed = ["objective.perceptual.kind=latent_lpips", "objective.perceptual.classifier_training.width=8"]
    term = load_recipe(path, changed).objective.perceptual
    assert (term.kind, term.weight, term.classifier_training.width) == ("latent_lpips", 2, 8)
    assert term.sigma_threshold is None  # E-LatentLPIPS has no gate unless asked for


def test_without_a_kind_it_is_the_latent_perceptual_loss() -> None:
    assert recipe(perceptual={"blocks": ["mid_block"]}) == recipe(perceptual={"kind": "lpl", "blocks": ["mid_block"]})
    assert recipe(perceptual=PerceptualConfig()).objective.perceptual.sigma_threshold == 3.0


PATH = "objective.perceptual"
GAUGE = {"weighting": "gated", "gate_gain": "measured"}


@pytest.mark.parametrize(
    ("objective", "parts", "absent"),
    [
        (
            {"perceptual": {"kind": "latent_lpips", "clasifier": None}},
            [f"{PATH}.clasifier: no such key; did you mean {PATH}.classifier?", "classifier_training"],
            "normalization",  # a key of another kind
        ),
        ({"perceptual": {"normalisation": "none"}}, [f"did you mean {PATH}.normalization?"], "depth,"),
        ({"perceptual": {"kind": "self_perceptual", "blocks": ["a"]}}, [f"{PATH}.blocks: no such key"], "outliers"),
        (
            {"perceptual": {"kind": "latent_lpips", "classifier_training": {"step": 3}}},
            [f"did you mean {PATH}.classifier_training.steps?"],
            "normalization",
        ),
        (
            {"perceptual": {"kind": "lpips"}},
            [f"{PATH}.kind: got 'lpips'; did you mean latent_lpips? takes lpl, latent_lpips, self_perceptual, custom"],
            "no such key",
        ),
        ({"perceptual": "lpl"}, [f"{PATH}: got 'lpl'; takes a section, such as {{kind: lpl}}"], "no such key"),
        ({"perceptual": {"kind": "self_perceptual", "depth": 0}}, [f"{PATH}.depth: got 0"], "kind["),
        ({"perceptual": {"kind": "custom"}}, [f"{PATH}.term: is missing"], "kind["),
        (
            {"perceptual": {"kind": "custom", "term": "a.py"}},
            [f"{PATH}.term: got 'a.py'; takes FILE.py"],
            "kind[",
        ),
        ({"weighting": "gated", "gate_gain": "measured"}, ["gate_gain=measured needs", "in gate_perceptual"], "kind["),
        ({"gate_gain": "measured", "gate_perceptual": {}}, ["needs weighting=gated"], "kind["),
        ({"gate_perceptual": {}}, ["gate_perceptual has a use only with gate_gain=measured"], "kind["),
        (
            {**GAUGE, "gate_perceptual": {"sigma_threshold": 2}},
            ["gate_sigma_threshold=3.0 and gate_perceptual.sigma_threshold=2.0 are the one τ_σ of eq. (15)"],
            "kind[",
        ),
    ],
)
def test_mistakes_are_named_with_what_the_kind_allows(objective, parts, absent) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(**objective)
    for part in parts:
        assert part in str(caught.value)
    assert absent not in str(caught.value)


def test_terms_whose_needs_the_recipe_does_not_meet_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"kind=self_perceptual .* training\.initial_checkpoint"):
        build_recipe({"objective": {"perceptual": {"kind": "self_perceptual"}}})
    gate = {**GAUGE, "gate_sigma_threshold": 3, "gate_perceptual": {"kind": "self_perceptual", "sigma_threshold": 3}}
    with pytest.raises(RecipeError, match=r"objective\.gate_perceptual\.kind=self_perceptual"):
        build_recipe({"objective": gate})
    unlabelled = {"data": {"label_column": None}, "objective": {"perceptual": {"kind": "latent_lpips"}}}
    with pytest.raises(RecipeError, match=r"classifier=null trains on labels, and data\.label_column=null"):
        build_recipe(unlabelled)
