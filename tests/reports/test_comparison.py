from __future__ import annotations

import json

import pytest

from lpl.reports.comparison import flatten, machine_facts, objective_in_words, plain, recipe_differences, shortened
from lpl.reports.runs import Run, load_runs


def test_flatten_joins_keys():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1e-4, "0.0001"), ([0.9, 0.99], "0.9, 0.99"), ([], "[]"), ({}, "{}")],
)
def test_plain(value, text):
    assert plain(value) == text


def test_same_recipes_have_no_differences(make_run):
    assert recipe_differences(load_runs([make_run("a"), make_run("b")])) == []


def test_a_section_that_one_lacks_is_one_row(two_runs):
    (row,) = recipe_differences(load_runs(two_runs))
    assert row.label == "objective.perceptual"
    assert row.values[0] == "null"
    assert row.values[1].splitlines()[0] == "weight: 0.2"
    assert "sigma_threshold: 3" in row.values[1].splitlines()


def test_settings_that_differ_within_a_section_get_their_own_row(make_run, two_runs):
    perceptual = {"perceptual": {"weight": 0.5}}
    third = make_run("heavy", objective=perceptual, training={"steps": 200, "initial_checkpoint": "runs/pretrained"})
    rows = {row.label: row.values for row in recipe_differences(load_runs([*two_runs, third]))}
    assert list(rows) == ["objective.perceptual", "objective.perceptual.weight", "training.steps"]
    assert rows["objective.perceptual.weight"] == ("–", "0.2", "0.5")
    assert rows["training.steps"] == ("300", "300", "200")


def run_with(tmp_path, objective, **info):
    return Run(tmp_path, "run", recipe={"objective": objective}, info=info)


@pytest.mark.parametrize(
    ("objective", "info", "words"),
    [
        ({"weighting": "none", "perceptual": None}, {}, "ℓ2"),
        ({"weighting": "min_snr", "perceptual": None}, {}, "ℓ2 weighted by min-snr"),
        ({"perceptual": {"weight": 0}}, {}, "ℓ2"),
        ({"perceptual": {"weight": 1.0}}, {}, "ℓ2 + 1 × LPL (prediction statistics, τ = 3)"),
        (
            {"perceptual": {"weight": 0.2, "sigma_threshold": None, "normalization": "unit"}},
            {},
            "ℓ2 + 0.2 × LPL (unit statistics, no gate)",
        ),
        (
            {"perceptual": {"weight": "matched"}},
            {"perceptual_weight": 0.12345},
            "ℓ2 + 0.123 (variance-matched) × LPL (prediction statistics, τ = 3)",
        ),
        ({"perceptual": {"weight": "matched"}}, {}, "ℓ2 + variance-matched LPL (prediction statistics, τ = 3)"),
        ({"perceptual": {"kind": "latent_lpips", "weight": 2}}, {}, "ℓ2 + 2 × latent LPIPS (no gate)"),
        (
            {"perceptual": {"kind": "latent_lpips", "classifier": "elatentlpips", "sigma_threshold": 3.0}},
            {},
            "ℓ2 + 1 × latent LPIPS (published weights, τ = 3)",
        ),
        ({"perceptual": {"kind": "self_perceptual"}}, {}, "ℓ2 + 1 × Self-Perceptual (middle block, no gate)"),
        ({"perceptual": {"kind": "self_perceptual", "depth": 4}}, {}, "ℓ2 + 1 × Self-Perceptual (block 4, no gate)"),
        ({"perceptual": {"kind": "custom", "term": "a/b.py:Mine"}}, {}, "ℓ2 + 1 × Mine (no gate)"),
    ],
)
def test_objective_in_words(tmp_path, objective, info, words):
    assert objective_in_words(run_with(tmp_path, objective, **info)) == words


def test_facts_have_units_and_the_machine_first(make_run):
    folder = make_run("run")
    info = json.loads((folder / "run.json").read_text())
    info |= {"classes": [f"class {index}" for index in range(1000)], "resumed": None, "own_key": 3}
    (folder / "run.json").write_text(json.dumps(info))
    asked, others = (
        {row.label: row.values[0].replace("\u00a0", " ") for row in rows} for rows in machine_facts(load_runs([folder]))
    )
    assert list(asked)[:3] == ["CPU", "device", "processes"]
    assert (asked["time of training"], asked["throughput"]) == ("3 min 34 s", "96.4 images/s")
    assert (asked["peak memory"], asked["parameters"]) == ("858 MiB", "9.81 M")
    assert asked["software"] == "torch 2.6.0, python 3.11.7"
    assert others["classes"].endswith("class 7 … (1,000 in all)")
    assert others["own key"] == "3"
    assert "resumed" not in asked | others


def test_absolute_paths_are_shortened():
    assert shortened("/home/somebody/runs/base") == "base"
    assert shortened("runs/base") == "runs/base"
