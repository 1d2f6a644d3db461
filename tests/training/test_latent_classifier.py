"""A classifier of latents: what it learns, where it lies, and for which latents it is refused."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lpl.autoencoders import load_autoencoder
from lpl.cli import classifier_recipe
from lpl.config import LatentClassifierConfig
from lpl.data import LatentCache
from lpl.data.latents import CacheInfo, CacheKey
from lpl.training import CheckpointError
from lpl.training.latent_classifier import ClassifierError, load_latent_classifier
from lpl.training.latent_classifier_run import ClassifierData, LatentClassifierRun, shifted
from lpl.training.latent_classifier_training import classifier_of, train_latent_classifier
from lpl.training.recorder import TrainingInterrupted

SMALL = {"width": 4, "steps": 12, "batch_size": 8, "checkpoint_every": 5}


def write_cache(folder, count, seed, crops=1, classes=3, flips=True):
    """Latents whose class is the channel of a bright column, or of a bright row in the mirror image."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.permutation(count // crops) % classes, crops)
    mean = 0.5 * generator.standard_normal((count, 1 + flips, 4, 8, 8))
    for entry, label in enumerate(labels):
        mean[entry, 0, label, :, 3] += 2
        mean[entry, -1, label, 3, :] += 2 * flips
    np.save(folder / "mean.npy", mean.astype(np.float16))
    np.save(folder / "labels.npy", labels.astype(np.int64))
    key = CacheKey(f"source{seed}", "autoencoder", "float32", 64, "center", crops, flips)
    names = [f"class {label}" for label in range(classes)]
    counts = np.bincount(labels, minlength=classes).tolist()
    CacheInfo(key, names, count // crops, 0, count, counts, (4, 8, 8), True, [0.0] * 4, [1.0] * 4, 1.0).write(folder)
    return LatentCache.open(folder)


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    return write_cache(folder / "train", 240, seed=0), write_cache(folder / "test", 90, seed=1)


@pytest.mark.usefixtures("one_thread")
def test_it_learns_what_tells_classes_apart(caches, capsys):
    config = LatentClassifierConfig(width=4, steps=60, batch_size=32, learning_rate=3e-3)
    folder = train_latent_classifier(*caches, config, device=torch.device("cpu"))
    assert folder.parent == caches[0].folder.parent
    about = json.loads((folder / "classifier.json").read_text())
    assert about["accuracy"] > 0.9
    assert about["largest_class"] == pytest.approx(1 / 3)
    assert about["tested_on"] == {"latents": 90, "which": "held-out images"}
    assert f"{about['accuracy']:.1%} right of 90 latents" in capsys.readouterr().err
    model, _ = load_latent_classifier(folder, "autoencoder")
    right = model(caches[1].latents(torch.arange(90))).argmax(1) == caches[1].labels
    assert right.float().mean().item() == pytest.approx(about["accuracy"])
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert train_latent_classifier(*caches, config, device=torch.device("cpu")) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.usefixtures("one_thread")
def test_stopped_and_resumed_it_is_the_one_that_never_stopped(caches, tmp_path, monkeypatch):
    config = LatentClassifierConfig(**SMALL)
    whole = train_latent_classifier(*caches, config, tmp_path / "whole", torch.device("cpu"), progress=False)
    advance = LatentClassifierRun.advance

    def stopping(run):
        loss = advance(run)
        if run.step == 7:
            signal.raise_signal(signal.SIGTERM)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(LatentClassifierRun, "advance", stopping)
        with pytest.raises(TrainingInterrupted) as stopped:
            train_latent_classifier(*caches, config, tmp_path / "stopped", torch.device("cpu"), progress=False)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "stopped").exists()
    other = config.model_copy(update={"width": 5})
    with pytest.raises(ClassifierError, match="training of another classifier"):
        train_latent_classifier(*caches, other, tmp_path / "stopped", torch.device("cpu"), progress=False)
    state = tmp_path / "stopped.training" / "checkpoints" / "step-00000007" / "state.json"
    whole_state = state.read_text()
    state.write_text("")
    with pytest.raises(CheckpointError, match="none of the checkpoints there can be used"):
        train_latent_classifier(*caches, config, tmp_path / "stopped", torch.device("cpu"), progress=False)
    state.write_text(whole_state)
    resumed = train_latent_classifier(*caches, config, tmp_path / "stopped", torch.device("cpu"), progress=False)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_the_folder_is_named_after_what_went_in(caches):
    def folder_of(train=caches[0], held_out=caches[1], **settings):
        config = LatentClassifierConfig(**{**SMALL, "steps": 1, **settings})
        return train_latent_classifier(train, held_out, config, device=torch.device("cpu"), progress=False)

    first = folder_of()
    assert folder_of(checkpoint_every=3) == first  # changes nothing about the result
    others = {folder_of(seed=1), folder_of(width=3), folder_of(held_out=None)}
    assert len(others | {first}) == 4
    with pytest.raises(ClassifierError, match=r"holds another classifier \(settings differ\)"):
        train_latent_classifier(*caches, LatentClassifierConfig(**SMALL), first, torch.device("cpu"))


def test_another_autoencoders_latents_are_refused(caches, tmp_path):
    config = LatentClassifierConfig(**{**SMALL, "steps": 1})
    folder = train_latent_classifier(*caches, config, tmp_path / "one", torch.device("cpu"), progress=False)
    with pytest.raises(ClassifierError, match=r"fingerprint autoencoder, in float32\) than the recipe's \(another\)"):
        load_latent_classifier(folder, "another")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ClassifierError, match=r"model.safetensors: is missing or damaged"):
        load_latent_classifier(folder)
    with pytest.raises(ClassifierError, match="`lpl train-latent-classifier` writes one"):
        load_latent_classifier(tmp_path)


def test_without_held_out_images_whole_images_are_kept_from_training(tmp_path):
    cache = write_cache(tmp_path / "crops", 120, seed=2, crops=4)
    data = ClassifierData.of(cache, None)
    assert len(data.held_out_entries) == 12
    assert sorted([*data.entries.tolist(), *data.held_out_entries.tolist()]) == list(range(120))
    assert not set((data.entries // 4).tolist()) & set((data.held_out_entries // 4).tolist())
    with pytest.raises(ValueError, match="has one class; a classifier needs two or more"):
        ClassifierData.of(write_cache(tmp_path / "alike", 8, seed=3, classes=1), None)


def test_shifts_move_latents_and_repeat_their_edges():
    latents = torch.arange(64.0).reshape(1, 1, 8, 8).expand(50, 2, 8, 8)
    moved = shifted(latents, 2, torch.Generator().manual_seed(0))
    offsets = set()
    for image in moved:
        # the middle position tells how far the image moved
        row, column = divmod(int(image[0, 4, 4]), 8)
        offsets.add((row - 4, column - 4))
        rows, columns = ((torch.arange(8) + offset).clamp(0, 7) for offset in (row - 4, column - 4))
        assert torch.equal(image[0], latents[0, 0][rows][:, columns])
    assert {abs(value) for offset in offsets for value in offset} == {0, 1, 2}
    assert shifted(latents, 0, torch.Generator()) is latents


def test_a_recipe_is_encoded_and_its_own_term_says_how_to_train(tiny_recipe, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "objective: {perceptual: {kind: latent_lpips, classifier_training: {width: 5}}}\ntraining: {steps: 3}\n"
    )
    loaded, settings = classifier_recipe(recipe, ["objective.perceptual.classifier_training.steps=2"])
    assert (settings.width, settings.steps, loaded.training.steps) == (5, 2, 3)
    recipe.write_text("objective: {perceptual: {normalization: target}}\n")
    assert classifier_recipe(recipe, [])[1] == LatentClassifierConfig()
    ours = tiny_recipe()
    autoencoder = load_autoencoder(ours.autoencoder.path)
    folder = classifier_of(ours, autoencoder, LatentClassifierConfig(width=2, steps=2), progress=False)
    about = json.loads((folder / "classifier.json").read_text())
    assert about["classes"] == ["blue", "red"]
    assert about["tested_on"]["which"].startswith("a tenth of the training images")  # the recipe names no others
    load_latent_classifier(folder, autoencoder.fingerprint())


def test_training_that_diverges_says_so(caches, tmp_path):
    run = LatentClassifierRun(ClassifierData.of(*caches), LatentClassifierConfig(**SMALL), torch.device("cpu"))
    with torch.no_grad():
        run.model.head.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 0: the classifier's weights are NaN"):
        run.save(tmp_path, {})
    config = LatentClassifierConfig(**{**SMALL, "poolings": 4})
    with pytest.raises(ValueError, match="poolings: 4 of them take latents of 16x16"):
        LatentClassifierRun(ClassifierData.of(*caches), config, torch.device("cpu"))
