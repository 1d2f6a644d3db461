"""Whole runs: what they leave behind, what they compute, and what ends them."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from run_files import rows_of, tensors_of, terms_of

from lpl import precision
from lpl.autoencoders import load_autoencoder
from lpl.config import Recipe, SamplingConfig
from lpl.data import build_latent_cache
from lpl.diffusion import make_path
from lpl.training import ResumeError, TrainingDiverged, sample_run, train
from lpl.training.batches import BatchSource
from lpl.training.checkpoints import latest_checkpoint, read_state
from lpl.training.loading import build_denoiser
from lpl.training.schedule import learning_rate

LPL = {"weight": 0.3, "sigma_threshold": 2.0}


def test_a_run_leaves_everything_that_others_read(tiny_recipe):
    recipe = tiny_recipe(objective__perceptual=LPL, training__steps=5, training__log_every=2)
    run = train(recipe)
    assert run == Path(recipe.output)
    assert Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text())) == recipe
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["ended_by"], info["step"]) == ("complete", "steps", 5)
    assert info["classes"] == ["blue", "red"]
    assert info["latent_shape"] == [4, 8, 8]
    assert info["parameters"] == sum(value.numel() for value in tensors_of(run).values())
    assert info["images"] == 20
    assert info["images_per_second"] == pytest.approx(20 / info["seconds"], rel=0.01)
    assert info["peak_memory_bytes"] > 50e6
    assert {"python", "torch", "diffusers", "accelerate"} <= info["versions"].keys()
    rows = rows_of(run)
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
    for name, value in tensors_of(run).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-5)
    for name, value in average.items():
        torch.testing.assert_close(tensors_of(run, "ema")[name], value, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss(tiny_recipe):
    run = train(tiny_recipe(training__steps=60, training__batch_size=12, training__learning_rate=3e-3))
    losses = [row["loss"] for row in rows_of(run)]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])


def test_a_complete_run_says_so_and_stays_as_it_is(tiny_recipe, capsys):
    recipe = tiny_recipe()
    run = train(recipe)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train(recipe) == run
    assert "is complete already, step-00000004" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "status": "running", "ended_by": None}))
    train(recipe)  # as if killed between its last checkpoint and its last word
    assert json.loads((run / "run.json").read_text())["ended_by"] == "steps"
    with pytest.raises(ResumeError, match="begin anew with another output"):
        train(recipe, resume=False)


def test_the_time_budget_ends_a_run_and_a_larger_one_carries_on(tiny_recipe):
    settings = {"training__steps": 100_000, "training__checkpoint_every": 1000}
    run = train(tiny_recipe(**settings, training__time_budget=0.3))
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["ended_by"]) == ("complete", "time_budget")
    assert 0.3 <= info["seconds"] < 2
    assert rows_of(run)[-1]["step"] == info["step"] < 100_000
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
    assert all(torch.isfinite(value).all() for value in tensors_of(run).values())
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "failed"
    assert "step 6" in info["ended_by"]


def test_bfloat16_trains_close_to_float32_and_keeps_float32_weights(tiny_recipe):
    settings = {"training__steps": 3, "training__learning_rate": 1e-3}
    exact = train(tiny_recipe("exact", **settings))
    mixed = train(tiny_recipe("mixed", **settings, training__precision="bf16"))
    assert {value.dtype for value in tensors_of(mixed).values()} == {torch.float32}
    ours, exactly = rows_of(mixed)[-1]["loss"], rows_of(exact)[-1]["loss"]  # at first the output is 0 in any precision
    assert ours == pytest.approx(exactly, rel=0.02)
    assert ours != exactly


def test_bfloat16_is_told_of_where_it_is_slow(tiny_recipe, monkeypatch, capsys):
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: False)
    perceptual = {"weight": 0.1, "precision": "bfloat16"}
    run = train(tiny_recipe(training__steps=1, training__precision="bf16", objective__perceptual=perceptual))
    told = capsys.readouterr().err
    assert "training.precision=bf16: this machine has no instructions for bfloat16" in told
    assert "objective.perceptual.precision=bfloat16: this machine has no instructions for bfloat16" in told
    sample_run(run, SamplingConfig(steps=1, count=1, precision="bf16"))
    assert "sampling.precision=bf16: this machine has no instructions for bfloat16" in capsys.readouterr().err


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
    for name, value in tensors_of(one).items():
        torch.testing.assert_close(tensors_of(two)[name], value, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(terms_of(two), terms_of(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    value = read_state(latest_checkpoint(one / "checkpoints"))["objective"]["value"]
    assert read_state(latest_checkpoint(two / "checkpoints"))["objective"]["value"] == pytest.approx(value, rel=1e-4)
