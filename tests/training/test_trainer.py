"""Whole runs: what they leave behind, and that stopping and resuming changes nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lpl.autoencoders import load_autoencoder
from lpl.config import Recipe
from lpl.data import build_latent_cache
from lpl.denoisers.mmdit import PRESETS, Preset
from lpl.diffusion import make_path
from lpl.training import CheckpointError, ResumeError, TrainingDiverged, load_denoiser, train
from lpl.training.batches import BatchSource
from lpl.training.checkpoints import latest_checkpoint, read_state
from lpl.training.loading import build_denoiser
from lpl.training.schedule import learning_rate

LPL = {"weight": 0.3, "sigma_threshold": 2.0}


def _rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _terms(run):
    """Logged rows without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in _rows(run)
    ]


def _tensors(run, name="model"):
    return load_file(latest_checkpoint(run / "checkpoints") / f"{name}.safetensors")


def _assert_same_result(first, second):
    """Bit for bit: weights, average, optimiser and every logged term."""
    for name in ("model", "ema", "optimizer"):
        ours, theirs = _tensors(first, name), _tensors(second, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    assert _terms(first) == _terms(second)


# What a run leaves behind.


def test_a_run_leaves_everything_that_others_read(tiny_recipe):
    recipe = tiny_recipe(objective__perceptual=LPL, training__steps=5, training__log_every=2)
    run = train(recipe)
    assert run == Path(recipe.output)
    assert Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text())) == recipe
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["ended_by"], info["step"]) == ("complete", "steps", 5)
    assert info["classes"] == ["blue", "red"]
    assert info["latent_shape"] == [4, 8, 8]
    assert info["parameters"] == sum(value.numel() for value in _tensors(run).values())
    assert info["images"] == 20
    assert info["images_per_second"] == pytest.approx(20 / info["seconds"], rel=0.01)
    assert info["peak_memory_bytes"] > 50e6
    assert {"python", "torch", "diffusers", "accelerate"} <= info["versions"].keys()
    rows = _rows(run)
    assert [row["step"] for row in rows] == [1, 2, 4, 5]
    blocks = ("mid_block", "up_blocks.0", "up_blocks.1")
    wanted = {"seconds", "images_per_second", "learning_rate", "loss", "loss/diffusion", "loss/perceptual", "passed"}
    wanted |= {
        "gradient_ratio",
        "gradient_norm",
        *(f"{kind}/{b}" for kind in ("loss/perceptual", "outliers") for b in blocks),
    }
    for row in rows:
        assert wanted <= row.keys()
        assert row["loss"] == pytest.approx(row["loss/diffusion"] + 0.3 * row["loss/perceptual"], rel=1e-5)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000004", "step-00000005"]
    assert list((run / "tensorboard").iterdir())


def _reference(recipe, weights=None):
    """The same training written as plainly as possible: no accelerate, no accumulation, no state."""
    codec = load_autoencoder(recipe.autoencoder.path)
    cache = build_latent_cache(recipe.data, codec, 4, progress=False)
    path = make_path(recipe.diffusion)
    denoiser = build_denoiser(recipe, 2, cache.latent_shape)
    training = recipe.training
    source = BatchSource(
        cache=cache,
        path=path,
        denoiser=denoiser,
        seed=recipe.seed,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
    )
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=1.0, betas=training.betas, weight_decay=training.weight_decay
    )
    average = {name: value.detach().clone() for name, value in denoiser.named_parameters()}
    for step in range(1, training.steps + 1):
        batches = source.step(step)
        clean, noise, times, labels = (
            torch.cat([getattr(batch, name) for batch in batches]) for name in ("clean", "noise", "timesteps", "labels")
        )
        t = times.reshape(-1, 1, 1, 1)
        output = denoiser((1 - t) * clean + t * noise, 1000 * times, labels)
        loss = (output - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), training.clip_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(step, training)
        optimizer.step()
        decay = min(training.ema_decay, (1 + step) / (10 + step))
        for name, value in denoiser.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
    return denoiser.state_dict(), average


def test_training_is_adamw_on_the_flow_matching_loss(tiny_recipe):
    recipe = tiny_recipe(
        training__steps=6,
        training__accumulation=2,
        training__clip_norm=0.5,
        training__weight_decay=0.1,
        training__warmup_steps=2,
        training__schedule="cosine",
        training__ema_decay=0.3,
    )
    run = train(recipe)
    weights, average = _reference(recipe)
    for name, value in _tensors(run).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-5)
    for name, value in average.items():
        torch.testing.assert_close(_tensors(run, "ema")[name], value, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss(tiny_recipe):
    run = train(tiny_recipe(training__steps=60, training__batch_size=12, training__learning_rate=3e-3))
    losses = [row["loss"] for row in _rows(run)]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])


# Stopping and resuming.


def _train_in_child(values, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    PRESETS["T"] = Preset(width=32, depth=2, heads=2)
    train(Recipe.model_validate(values))


@pytest.fixture
def start(forks, latent_caches):
    """Starts a child that trains a recipe, with more environment variables."""

    def start_child(recipe, **environment):
        environment["LPL_CACHE"] = str(latent_caches)
        child = forks.Process(target=_train_in_child, args=(recipe.model_dump(), environment))
        child.start()
        return child

    return start_child


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_killed_at_random_moments_and_resumed_is_bitwise_the_run_that_never_stopped(tiny_recipe, start):
    settings = {
        "training__steps": 24,
        "training__checkpoint_every": 3,
        "training__log_every": 2,
        "training__accumulation": 2,
        "training__ema_start": 5,
        "training__schedule": "cosine",
        "objective__perceptual": {"weight": "matched", "matching_batches": 14, "sigma_threshold": 2.0},
    }
    whole = train(tiny_recipe("whole", **settings))
    recipe = tiny_recipe("killed", **settings)
    run = Path(recipe.output)
    chance = np.random.default_rng(0)
    resumed_from = []
    for _ in range(5):
        begun = read_state(found)["step"] if (found := latest_checkpoint(run / "checkpoints")) else 0
        resumed_from.append(begun)
        child = start(recipe)
        _wait_for_step(run, begun + chance.integers(1, 7), child, session=len(resumed_from))
        child.join(chance.uniform(0, 0.08))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    train(recipe)
    assert len(set(resumed_from)) >= 3, resumed_from
    _assert_same_result(run, whole)
    assert read_state(latest_checkpoint(run / "checkpoints"))["objective"]["value"] > 0


def _wait_for_step(run, step, child, session=1):
    """Until that session has logged this step or a later one, so that what follows falls on training."""
    info, metrics = run / "run.json", run / "metrics.jsonl"
    while child.is_alive():
        begun = info.is_file() and len(json.loads(info.read_text())["sessions"]) >= session
        if begun and metrics.is_file() and _last_step(metrics) >= step:
            return
        time.sleep(0.005)


def _last_step(path):
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_and_loses_nothing(tiny_recipe, start, number):
    settings = {"training__steps": 20, "training__checkpoint_every": 1000, "training__log_every": 7}
    recipe = tiny_recipe("stopped", **settings)
    run = Path(recipe.output)
    child = start(recipe)
    _wait_for_step(run, 1, child)
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == 128 + number
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["ended_by"]) == ("interrupted", number.name)
    assert 0 < read_state(latest_checkpoint(run / "checkpoints"))["step"] == info["step"] < 20
    train(recipe)
    _assert_same_result(run, train(tiny_recipe("whole", **settings)))
    assert len(json.loads((run / "run.json").read_text())["sessions"]) == 2


def test_a_complete_run_says_so_and_stays_as_it_is(tiny_recipe, capsys):
    recipe = tiny_recipe()
    run = train(recipe)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train(recipe) == run
    assert "is complete already, step-00000004" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(ResumeError, match="begin anew with another output"):
        train(recipe, resume=False)


def test_a_longer_run_with_a_constant_rate_is_the_run_that_was_long_from_the_start(tiny_recipe):
    short = {"training__steps": 4, "training__log_every": 2}
    long = {**short, "training__steps": 8}
    train(tiny_recipe("extended", **short))
    extended = train(tiny_recipe("extended", **long, training__keep_checkpoints=5))
    _assert_same_result(extended, train(tiny_recipe("whole", **long)))


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


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny_recipe):
    settings = {"training__steps": 6, "training__checkpoint_every": 2}
    recipe = tiny_recipe("damaged", **{**settings, "training__steps": 4})
    run = train(recipe)
    (run / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    train(tiny_recipe("damaged", **settings))
    _assert_same_result(run, train(tiny_recipe("whole", **settings)))


# What ends a run early.


def test_the_time_budget_ends_a_run_and_a_larger_one_carries_on(tiny_recipe):
    settings = {"training__steps": 100_000, "training__checkpoint_every": 1000}
    run = train(tiny_recipe(**settings, training__time_budget=0.3))
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["ended_by"]) == ("complete", "time_budget")
    assert 0.3 <= info["seconds"] < 2
    assert _rows(run)[-1]["step"] == info["step"] < 100_000
    train(tiny_recipe(**settings, training__time_budget=0.3))
    assert json.loads((run / "run.json").read_text())["step"] == info["step"]
    train(tiny_recipe(**settings, training__time_budget=0.6))
    later = json.loads((run / "run.json").read_text())
    assert later["step"] > info["step"]
    assert later["seconds"] >= 0.6


@pytest.mark.parametrize("perceptual", [None, LPL])
def test_divergence_stops_with_step_and_term_and_keeps_the_last_good_checkpoint(tiny_recipe, monkeypatch, perceptual):
    make = BatchSource.batch

    def poisoned(self, step, slot):
        batch = make(self, step, slot)
        if step >= 6:
            batch.noise.fill_(math.inf)
        return batch

    monkeypatch.setattr(BatchSource, "batch", poisoned)
    recipe = tiny_recipe(training__steps=40, training__log_every=20, objective__perceptual=perceptual)
    with pytest.raises(TrainingDiverged, match="step 6: loss/diffusion is NaN or infinite"):
        train(recipe)
    run = Path(recipe.output)
    assert latest_checkpoint(run / "checkpoints").name == "step-00000004"
    assert all(torch.isfinite(value).all() for value in _tensors(run).values())
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "failed"
    assert "step 6" in info["ended_by"]


# Post-training.


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
    expected = _tensors(first, "model" if weights == "raw" else "ema")
    for name, value in _tensors(second).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10)
    info = json.loads((second / "run.json").read_text())
    assert info["latent_shape"] == [4, 16, 16]
    assert info["initial_checkpoint"] == str(first / "checkpoints" / "step-00000004")


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
    assert all(torch.equal(value, _tensors(run)[name]) for name, value in denoiser.state_dict().items())
    averaged, _, _ = load_denoiser(run)
    assert all(torch.equal(value, _tensors(run, "ema")[name]) for name, value in averaged.state_dict().items())
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


# Precision and processes.


def test_bfloat16_trains_close_to_float32_and_keeps_float32_weights(tiny_recipe):
    settings = {"training__steps": 3, "training__learning_rate": 1e-3}
    exact = train(tiny_recipe("exact", **settings))
    mixed = train(tiny_recipe("mixed", **settings, training__precision="bf16"))
    assert {value.dtype for value in _tensors(mixed).values()} == {torch.float32}
    ours, exactly = _rows(mixed)[-1]["loss"], _rows(exact)[-1]["loss"]  # at first the output is 0 in any precision
    assert ours == pytest.approx(exactly, rel=0.02)
    assert ours != exactly


@pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 is fine on this machine")
def test_fp16_on_a_cpu_is_refused_before_anything_starts(tiny_recipe):
    recipe = tiny_recipe(training__precision="fp16")
    with pytest.raises(ValueError, match=r"training\.precision: fp16 needs a GPU"):
        train(recipe)
    assert not Path(recipe.output).exists()


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_as_one_with_twice_the_batch(tiny_recipe, start):
    settings = {
        "training__steps": 6,
        "objective__perceptual": {"weight": "matched", "matching_batches": 4, "sigma_threshold": 2.0},
    }
    recipe = tiny_recipe("two", **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared["ACCELERATE_USE_CPU"] = "true"
    children = [start(recipe, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    two, one = Path(recipe.output), train(tiny_recipe("one", **settings, training__accumulation=2))
    assert json.loads((two / "run.json").read_text())["hardware"]["processes"] == 2
    for name, value in _tensors(one).items():
        torch.testing.assert_close(_tensors(two)[name], value, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(_terms(two), _terms(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    value = read_state(latest_checkpoint(one / "checkpoints"))["objective"]["value"]
    assert read_state(latest_checkpoint(two / "checkpoints"))["objective"]["value"] == pytest.approx(value, rel=1e-4)
