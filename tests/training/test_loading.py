"""From checkpoints to denoisers: post-training, sampling, and checkpoints that don't fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from run_files import assert_same_result, tensors_of

from lpl.training import CheckpointError, load_denoiser, train
from lpl.training.checkpoints import latest_checkpoint, read_state

LPL = {"weight": 0.3, "sigma_threshold": 2.0}


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_post_training_begins_from_the_weights_asked_for_at_another_resolution(tiny_recipe, weights):
    first = train(tiny_recipe("first", training__ema_decay=0.9))
    recipe = tiny_recipe(
        "second",
        data__resolution=32,
        objective__perceptual=LPL,
        training__steps=1,
        training__learning_rate=1e-12,
        training__initial_checkpoint=str(first),
        training__initial_weights=weights,
    )
    second = train(recipe)
    expected = tensors_of(first, "model" if weights == "raw" else "ema")
    for name, value in tensors_of(second).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10)
    info = json.loads((second / "run.json").read_text())
    assert info["latent_shape"] == [4, 16, 16]
    assert info["initial_checkpoint"] == str(first / "checkpoints" / "step-00000004")


def test_post_training_from_averaged_weights_goes_on_with_their_average(tiny_recipe):
    first = train(tiny_recipe("first", training__ema_decay=0.9))
    recipe = tiny_recipe(
        "second",
        training__steps=1,
        training__ema_decay=0.75,
        training__ema_warmup=False,
        training__initial_checkpoint=str(first),
        training__initial_weights="ema",
    )
    second = train(recipe)
    begun, raw = tensors_of(first, "ema"), tensors_of(second)
    names = [name for name, value in raw.items() if not torch.equal(value, begun[name])]
    assert len(names) > 10
    for name, value in tensors_of(second, "ema").items():
        torch.testing.assert_close(value, 0.75 * begun[name] + 0.25 * raw[name])


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_began_where_it_began(tiny_recipe):
    """Whatever became since of the run that it began from."""
    first = train(tiny_recipe("first"))
    settings = {"training__initial_checkpoint": str(first)}
    whole = train(tiny_recipe("whole", **settings, training__steps=6))
    second = train(tiny_recipe("second", **settings, training__steps=2))
    train(tiny_recipe("first", training__steps=8))
    begun = str(first / "checkpoints" / "step-00000004")
    train(tiny_recipe("second", **settings, training__steps=4))
    shutil.rmtree(first)
    train(tiny_recipe("second", **settings, training__steps=6))
    assert json.loads((second / "run.json").read_text())["initial_checkpoint"] == begun
    assert read_state(latest_checkpoint(second / "checkpoints"))["initial_checkpoint"] == begun
    assert_same_result(second, whole)


@pytest.mark.usefixtures("one_thread")
def test_a_term_that_compares_in_the_start_is_resumed_with_that_very_one(tiny_recipe):
    first = train(tiny_recipe("first"))
    settings = {
        "training__initial_checkpoint": str(first),
        "objective__perceptual": {"kind": "self_perceptual", "depth": 1},
    }
    whole = train(tiny_recipe("whole", **settings, training__steps=4))
    second = train(tiny_recipe("second", **settings, training__steps=2))
    train(tiny_recipe("first", training__steps=6, training__keep_checkpoints=5))
    train(tiny_recipe("second", **settings, training__steps=4))
    assert_same_result(second, whole)
    shutil.rmtree(first / "checkpoints" / "step-00000004")
    with pytest.raises(CheckpointError, match=r"step-00000004: is not complete.* goes on comparing .* put it back"):
        train(tiny_recipe("second", **settings, training__steps=6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"denoiser.patch_size": 2},
            r"pos_embed\.proj\.weight has shape \(32, 4, 4, 4\), the model takes \(32, 4, 2, 2\)",
        ),
        ({"denoiser.qk_norm": False}, r"norm_q\.weight \(16,\) has no place"),
        (
            {"diffusion.path": "ddpm", "sampling.method": "ddim"},
            r"was trained with diffusion\.path=flow_ot, and the recipe has ddpm",
        ),
        ({"training.initial_checkpoint": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_post_training_from_another_model_is_refused(tiny_recipe, settings, message):
    first = train(tiny_recipe("first", training__steps=1))
    changed = {"training.initial_checkpoint": str(first), **settings}
    with pytest.raises(CheckpointError, match=message):
        train(tiny_recipe("second", **{key.replace(".", "__"): value for key, value in changed.items()}))


def test_loading_a_denoiser_for_sampling(tiny_recipe):
    recipe = tiny_recipe(training__ema_start=3, training__keep_checkpoints=4)
    run = train(recipe)
    denoiser, loaded, info = load_denoiser(run, weights="raw")
    assert loaded == recipe
    assert (info["step"], info["classes"], info["latent_shape"]) == (4, ["blue", "red"], [4, 8, 8])
    assert not denoiser.training
    assert all(torch.equal(value, tensors_of(run)[name]) for name, value in denoiser.state_dict().items())
    averaged, _, _ = load_denoiser(run)
    assert all(torch.equal(value, tensors_of(run, "ema")[name]) for name, value in averaged.state_dict().items())
    with pytest.raises(CheckpointError, match="no averaged weights yet"):
        load_denoiser(run / "checkpoints" / "step-00000002")


def test_a_checkpoint_of_another_version_is_named(tiny_recipe):
    run = train(tiny_recipe())
    path = run / "checkpoints" / "step-00000004" / "state.json"
    state = json.loads(path.read_text())
    state["recipe"]["training"]["momentum"] = 0.9
    path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"step-00000004, its recipe: training\.momentum: no such key"):
        load_denoiser(run)
    with pytest.raises(CheckpointError, match="written by a version that this one can't follow"):
        train(tiny_recipe(training__steps=6))
