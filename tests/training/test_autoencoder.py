"""Training an autoencoder: what it saves, what it refuses, and the weights that are shipped for the demo."""

import json
import math
import shutil
import signal

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio

from lpl.autoencoders import load_autoencoder
from lpl.config import DataConfig, RecipeError, build_recipe, load_recipe
from lpl.data import crop_and_resize, open_images
from lpl.training import CheckpointError, ResumeError
from lpl.training.autoencoder import AutoencoderRecipe, train_autoencoder
from lpl.training.autoencoder_run import AutoencoderRun, learning_rate
from lpl.training.crops import CropMemory
from lpl.training.reconstruction import (
    PatchDiscriminator,
    gradient_balance,
    hinge_loss,
    laplacian_pyramid,
    psnr,
    pyramid_distance,
)
from lpl.training.recorder import TrainingInterrupted
from lpl.training.run_folder import held

TINY = {
    "data": {"resolution": 16},
    "architecture": {"block_channels": [8, 16], "latent_channels": 4, "norm_groups": 4},
    "training": {
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "warmup_steps": 2,
        "log_every": 2,
        "checkpoint_every": 3,
        "heldout_images": 10,
        "statistics_images": 48,
    },
}


@pytest.fixture(scope="module", autouse=True)
def pictures(tmp_path_factory):
    """Small pictures in two classes: photographs take seconds to decode."""
    root = tmp_path_factory.mktemp("pictures")
    source = open_images(DataConfig(split="test"))
    chosen = {"cat": 2, "coffee": 3}
    for split, start, count in (("train", 0, 12), ("test", 20, 5)):
        for name, label in chosen.items():
            (root / split / name).mkdir(parents=True)
            for index in range(start, start + count):
                image, found = source[12 * index + label]
                assert found == label
                image.resize((24, 24)).save(root / split / name / f"{index:02d}.png")
    TINY["data"] |= {"source": str(root / "train"), "holdout": str(root / "test")}
    return root


def tiny_recipe(folder, **changes):
    """A recipe that trains in a second; `changes` are dotted keys with `_` for the dot of the section."""
    values = {section: dict(settings) for section, settings in TINY.items()} | {"output": str(folder)}
    for key, value in changes.items():
        section, _, name = key.partition("_")
        values.setdefault(section, {})[name] = value
    return build_recipe(values, "tiny", AutoencoderRecipe)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder):
    return AutoencoderKL.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run long enough to learn something."""
    recipe = tiny_recipe(tmp_path_factory.mktemp("finished"), training_steps=60, training_ema_decay=0.9)
    return recipe, train_autoencoder(recipe)


# --- the trained autoencoder ---


def test_training_lowers_the_loss(finished):
    recipe, _ = finished
    losses = [row["loss/pixel"] for row in rows_of(recipe.folder)]
    assert losses[-1] < 0.6 * losses[0]


def test_held_out_psnr_is_that_of_scikit_image(finished):
    recipe, result = finished
    model = AutoencoderKL.from_pretrained(result)
    source = open_images(recipe.data, holdout=True)
    assert len(source) == recipe.training.heldout_images
    images = torch.stack([crop_and_resize(source[index][0], 16) for index in range(len(source))])
    with torch.no_grad():
        decoded = model.decode(model.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    pairs = zip(images.numpy(), decoded.numpy(), strict=True)
    expected = sum(peak_signal_noise_ratio(image, other, data_range=2) for image, other in pairs) / len(images)
    results = json.loads((recipe.folder / "metrics.json").read_text())["results"]
    assert results["psnr"] == pytest.approx(expected, abs=1e-3)


def test_training_latents_have_zero_mean_and_unit_variance(finished):
    recipe, result = finished
    codec = load_autoencoder(str(result))
    source = open_images(recipe.data)
    memory = CropMemory((source[index][0] for index in range(len(source))), 16)
    mean, std = codec.encode(memory.crops(256, torch.Generator().manual_seed(5)))
    latents = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(6))
    assert latents.mean().item() == pytest.approx(0, abs=0.1)
    assert latents.std().item() == pytest.approx(1, abs=0.1)


def test_a_run_leaves_its_records(finished):
    recipe, result = finished
    folder = recipe.folder
    about = json.loads((folder / "run.json").read_text())
    assert about["parameters"] == sum(value.numel() for value in weights_of(result).values())
    assert about["status"] == "complete"
    results = json.loads((folder / "metrics.json").read_text())["results"]
    per_class = [value for name, value in results.items() if name.startswith("psnr/")]
    assert sum(per_class) / 2 == pytest.approx(results["psnr"], rel=1e-5)  # as many held-out images of both classes
    assert load_recipe(folder / "recipe.yaml", (), AutoencoderRecipe) == recipe
    assert Image.open(folder / "reconstructions.png").size == (10 * 16, 2 * 16)
    assert not (folder / "checkpoints").exists()


def test_a_finished_run_is_not_trained_again(finished):
    recipe, result = finished
    before = (result / "config.json").stat().st_mtime_ns
    assert train_autoencoder(recipe) == result
    assert (result / "config.json").stat().st_mtime_ns == before


def test_half_precision_is_saved_as_such(tmp_path):
    result = train_autoencoder(tiny_recipe(tmp_path, training_save_precision="float16", training_steps=3))
    weights = load_file(result / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


# --- stopping and carrying on ---


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    whole = train_autoencoder(tiny_recipe(tmp_path / "whole", reconstruction_adversarial_weight=0.1))
    recipe = tiny_recipe(tmp_path / "stopped", reconstruction_adversarial_weight=0.1)
    advance = AutoencoderRun.advance

    def killed(run):
        if run.step == 4:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(AutoencoderRun, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(recipe)
    monkeypatch.setattr(AutoencoderRun, "advance", advance)
    resumed = train_autoencoder(recipe)

    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    timeless = [{k: v for k, v in row.items() if "second" not in k} for row in rows_of(tmp_path / "whole")]
    assert timeless == [{k: v for k, v in row.items() if "second" not in k} for row in rows_of(recipe.folder)]


def test_a_signal_saves_before_it_stops(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path)
    advance = AutoencoderRun.advance

    def interrupted(run):
        advance(run)
        if run.step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(AutoencoderRun, "advance", interrupted)
    with pytest.raises(TrainingInterrupted) as stop:
        train_autoencoder(recipe)
    assert stop.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "checkpoints" / "step-00000002" / "model.safetensors").is_file()


def test_another_recipe_in_the_same_folder_is_refused(tmp_path, finished):
    recipe, _ = finished
    other = recipe.model_copy(update={"seed": 7})
    with pytest.raises(ResumeError, match="seed was 0 and is now 7"):
        train_autoencoder(other)


def stopped(recipe, monkeypatch, step=4):
    """Trains until a signal comes after that step."""
    advance = AutoencoderRun.advance

    def interrupted(run):
        advance(run)
        if run.step == step:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderRun, "advance", interrupted)
        with pytest.raises(TrainingInterrupted):
            train_autoencoder(recipe)


def test_carrying_on_with_other_images_is_refused(tmp_path, pictures, monkeypatch):
    images = tmp_path / "images"
    shutil.copytree(pictures / "train", images)
    recipe = tiny_recipe(tmp_path / "run", data_source=str(images))
    stopped(recipe, monkeypatch)
    for path in images.rglob("*.png"):
        Image.open(path).rotate(180).save(path)
    with pytest.raises(ResumeError, match=r"step-00000004: what the recipe names in data\.source has changed since"):
        train_autoencoder(recipe)
    shutil.rmtree(images)
    shutil.copytree(pictures / "train", images)
    assert train_autoencoder(recipe).is_dir()


def test_what_does_not_change_the_result_may_change(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path)
    stopped(recipe, monkeypatch)
    training = recipe.training.model_copy(update={"log_every": 1, "checkpoint_every": 2})
    renamed = recipe.model_copy(update={"name": "renamed", "training": training})
    held_out = recipe.data.model_copy(update={"holdout": recipe.data.source})
    with pytest.raises(ResumeError, match=r"data\.holdout was .* and is now"):  # the PSNR would be another's
        train_autoencoder(renamed.model_copy(update={"data": held_out}))
    train_autoencoder(renamed)
    assert json.loads((tmp_path / "run.json").read_text())["name"] == "renamed"


def test_checkpoints_that_can_not_be_read_are_not_overwritten(tmp_path, monkeypatch):
    recipe = tiny_recipe(tmp_path)
    stopped(recipe, monkeypatch)
    (tmp_path / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the checkpoints there can be used"):
        train_autoencoder(recipe)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_run_that_another_process_trains_is_refused(tmp_path):
    with held(tmp_path), pytest.raises(ResumeError, match="another process is training this run"):
        train_autoencoder(tiny_recipe(tmp_path))


# --- recipes ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": {"block_chanels": [8, 16]}}, "did you mean architecture.block_channels"),
        ({"architecture": {"block_channels": [8, 12], "norm_groups": 8}}, "12 is not a multiple of norm_groups=8"),
        ({"architecture": {"block_channels": [32]}}, "architecture.block_channels: got"),
        ({"data": {"resolution": 60}}, "data.resolution=60 is not a multiple of 8"),
        ({"training": {"steps": 10, "warmup_steps": 10}}, "warmup_steps=10 is not before steps=10"),
        ({"crops": {"min_scale": 0}}, "crops.min_scale: got 0"),
        ({"reconstruction": {"discriminator_channels": 12}}, "reconstruction.discriminator_channels: got 12"),
        ({"denoiser": {"preset": "S"}}, "denoiser: no such key"),
        (
            {"data": {"crop": "random", "crops_per_image": 3}},
            r"data.crop=random has no use here: .*crops\.min_scale.*; data.crops_per_image=3 has no use",
        ),
        ({"data": {"cache": "latents"}}, "data.cache=latents has no use here: .* no latents are cached; leave it out"),
    ],
)
def test_mistakes_in_a_recipe_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        build_recipe(values, "mistaken.yaml", AutoencoderRecipe)


def test_no_is_a_word_on_the_command_line(request):
    """Messages say `training.precision=no`, and YAML reads that as false."""
    path = request.config.rootpath / "recipes" / "scenes-128-autoencoder.yaml"
    assert load_recipe(path, ["training.precision=no"], AutoencoderRecipe).training.precision == "no"


@pytest.mark.parametrize("name", ["demo-autoencoder", "scenes-64-autoencoder", "scenes-128-autoencoder"])
def test_the_recipes_of_the_repository_are_valid(name, request):
    recipe = load_recipe(request.config.rootpath / "recipes" / f"{name}.yaml", (), AutoencoderRecipe)
    assert recipe.name == name


# --- the terms of the loss ---


def test_laplacian_bands_and_the_coarse_rest_add_up_to_the_image():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bands = laplacian_pyramid(images, 2)
    assert [tuple(band.shape[-2:]) for band in bands] == [(32, 32), (16, 16)]
    rest = torch.nn.functional.avg_pool2d(images, 4)
    for band in reversed(bands):
        rest = torch.nn.functional.interpolate(rest, scale_factor=2, mode="bilinear") + band
    torch.testing.assert_close(rest, images)


def test_pyramid_distance_sees_edges_and_not_flat_colour():
    flat = torch.zeros(1, 3, 32, 32)
    edges = flat.clone()
    edges[..., ::2] = 0.5
    assert pyramid_distance(flat + 0.5, flat, 3).item() == pytest.approx(0, abs=1e-6)
    assert pyramid_distance(edges, flat, 1).item() == pytest.approx(0.25, abs=1e-6)  # ±0.25 about their mean
    with pytest.raises(ValueError, match="4×4 pixels have no band"):
        pyramid_distance(flat[..., :4, :4], flat[..., :4, :4], 3)


def test_psnr_of_a_known_error():
    images = torch.zeros(2, 3, 8, 8)
    values = psnr(torch.stack([images[0] + 0.2, images[1] + 0.02]), images)
    torch.testing.assert_close(values, torch.tensor([20.0, 40.0]))


def test_hinge_loss_is_zero_beyond_the_margins():
    assert hinge_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -3.0])).item() == 0
    assert hinge_loss(torch.tensor([0.0]), torch.tensor([0.5])).item() == pytest.approx((1 + 1.5) / 2)


def test_gradient_balance_is_the_ratio_of_the_gradients():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    balance = gradient_balance(weight.square().sum() / 2, 10 * weight.sum(), [weight])
    assert balance.item() == pytest.approx(5 / (10 * math.sqrt(2)))


def test_discriminator_scores_patches():
    assert PatchDiscriminator(8)(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 4, 6)


def test_adversarial_term_starts_when_told(tmp_path):
    recipe = tiny_recipe(
        tmp_path,
        reconstruction_adversarial_weight=0.1,
        reconstruction_adversarial_start=2,
        training_log_every=1,
        training_steps=4,
    )
    train_autoencoder(recipe)
    assert ["loss/discriminator" in row for row in rows_of(tmp_path)] == [False, False, True, True]


def test_learning_rate_warms_up_and_falls_to_zero():
    config = tiny_recipe("unused", training_steps=12).training
    rates = [learning_rate(step, config) / config.learning_rate for step in (1, 2, 3, 8, 13)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])


# --- crops ---


def gradient_image(width, height):
    """Red grows from left to right."""
    return Image.linear_gradient("L").rotate(90).resize((width, height)).convert("RGB")


def test_crops_are_random_squares_of_the_given_scales():
    memory = CropMemory([gradient_image(96, 96)], 32, min_scale=0.5, flip=False)
    crops = memory.crops(200, torch.Generator().manual_seed(0))
    assert crops.shape == (200, 3, 32, 32)
    assert crops.min() >= -1
    assert crops.max() <= 1
    spans = (crops[..., -1] - crops[..., 0]).mean((1, 2)) / 2  # share of the gradient that a crop covers
    assert 0.4 < spans.min() < 0.55
    assert 0.9 < spans.max() <= 1
    assert torch.equal(crops, memory.crops(200, torch.Generator().manual_seed(0)))


def test_half_of_the_crops_are_mirrored():
    crops = CropMemory([gradient_image(32, 32)], 32).crops(200, torch.Generator().manual_seed(0))
    rising = (crops[..., -1] > crops[..., 0]).all(-1).all(-1)
    assert 70 < rising.sum() < 130


def test_large_images_are_stored_small():
    memory = CropMemory([gradient_image(2000, 1000)], 32, min_scale=0.5)
    stored = memory.stored_bytes
    assert stored == 3 * 96 * 192


def test_a_memory_without_images_is_refused():
    with pytest.raises(ValueError, match="images: got none"):
        CropMemory([], 32)


# --- the demo's weights ---


def test_demo_weights_reconstruct_what_they_have_not_seen():
    codec = load_autoencoder("demo")
    source = open_images(DataConfig(source="photographs"), holdout=True)
    chosen = [source[index] for index in range(0, len(source), 5)]  # the classes take turns: 5 and 12 share no factor
    assert {label for _, label in chosen} == set(range(12))
    images = torch.stack([crop_and_resize(image, 64) for image, _ in chosen])
    mean, std = codec.encode(images)
    values = psnr(codec.decode(mean), images)
    assert values.mean().item() > 24
    assert mean.std().item() == pytest.approx(1, abs=0.15)
    assert 0 < std.mean().item() < 0.3


def test_demo_weights_are_small_and_have_a_block_a_level():
    from lpl.autoencoders.loading import DEMO

    assert sum(file.stat().st_size for file in DEMO.iterdir()) <= 4_000_000
    model = AutoencoderKL.from_pretrained(DEMO)
    assert len(model.decoder.up_blocks) >= 3
    assert model.decoder.mid_block.attentions[0] is not None
