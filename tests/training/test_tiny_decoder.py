"""Distilling a tiny decoder: what it learns, in which latents, and what it saves."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny

import zoo
from lpl.autoencoders import Autoencoder, load_autoencoder
from lpl.config import DataConfig, RecipeError, build_recipe, load_recipe
from lpl.data import crop_and_resize, open_images
from lpl.training import ResumeError
from lpl.training.reconstruction import psnr
from lpl.training.tiny_decoder import train_tiny_decoder
from lpl.training.tiny_decoder_recipe import TinyArchitectureConfig, TinyDecoderRecipe
from lpl.training.tiny_decoder_run import FeatureRegression, TinyDecoderRun, build_tiny, decode_with_features


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A few small pictures: photographs take seconds to decode."""
    root = tmp_path_factory.mktemp("pictures")
    source = open_images(DataConfig(split="test"))
    for split, indices in (("train", range(0, 60, 5)), ("test", range(62, 92, 5))):
        (root / split / "any").mkdir(parents=True)
        for index in indices:
            source[index][0].resize((48, 48)).save(root / split / "any" / f"{index:03d}.png")
    return root


def recipe_of(pictures, folder, **sections):
    values = {
        "output": str(folder),
        "data": {"source": str(pictures / "train"), "holdout": str(pictures / "test"), "resolution": 32},
        "architecture": {"channels": 8, "blocks": 1},
        "training": {"steps": 6, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 2, "checkpoint_every": 3},
    }
    for name, settings in sections.items():
        values[name] = values.get(name, {}) | settings
    return build_recipe(values, "tiny", TinyDecoderRecipe)


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    training = {"steps": 150, "warmup_steps": 10, "ema_decay": 0.9, "learning_rate": 6e-3, "checkpoint_every": 150}
    recipe = recipe_of(
        pictures, tmp_path_factory.mktemp("finished"), training=training, distillation={"latent_noise": 0.1}
    )
    return recipe, train_tiny_decoder(recipe)


def latents_of(full, pictures):
    source = open_images(DataConfig(source=str(pictures / "test")))
    return full.encode(torch.stack([crop_and_resize(source[index][0], 32) for index in range(len(source))]))[0]


def test_decodes_the_diffusion_models_latents_as_the_full_one_does(finished, pictures):
    """Nearer to the full decoder's images than the best constant image of each is, and as near as metrics.json says."""
    recipe, result = finished
    full, tiny = load_autoencoder("demo"), load_autoencoder(result)
    latents = latents_of(full, pictures)
    expected = full.decode(latents)
    constant = expected.mean(dim=(-2, -1), keepdim=True).expand_as(expected)
    own = psnr(tiny.decode(latents), expected).mean().item()
    assert own > psnr(constant, expected).mean().item() + 0.7
    metrics = json.loads((recipe.folder / "metrics.json").read_text())["results"]
    assert metrics["psnr"] == pytest.approx(own, abs=0.01)


def test_encodes_into_the_diffusion_models_latents(finished, pictures):
    recipe, result = finished
    full, tiny = load_autoencoder("demo"), load_autoencoder(result)
    latents = latents_of(full, pictures)
    missed = (tiny.encode(full.decode(latents))[0] - latents).square().mean() / latents.var(correction=0)
    assert missed < 0.9
    metrics = json.loads((recipe.folder / "metrics.json").read_text())["results"]
    assert metrics["latent_error"] == pytest.approx(missed.item(), rel=1e-3)


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3", "flux2", "vq"])
def test_shape_follows_the_full_autoencoder(name):
    """FLUX.2's latents are packed two by two: the tiny decoder doubles once more instead."""
    full = Autoencoder(zoo.make(name))
    tiny = Autoencoder(build_tiny(TinyArchitectureConfig(channels=4, blocks=1), full))
    assert tiny.downsampling == full.downsampling
    assert tiny.latent_channels == full.latent_channels
    assert torch.equal(tiny.scaling.to_autoencoder(torch.ones(1, 1, 1, 1)), torch.ones(1, 1, 1, 1))
    latents = torch.randn(1, full.latent_channels, 2, 3)
    assert tiny.decode(latents).shape == full.decode(latents).shape


def test_published_tiny_autoencoders_decode_the_diffusion_models_latents(tmp_path):
    """As the configurations of the TAESD family say: scaling 1, no shift, whatever the full model's are."""
    AutoencoderTiny(
        latent_channels=16, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    ).save_pretrained(tmp_path)
    tiny = load_autoencoder(tmp_path)
    latents = torch.randn(1, 16, 2, 2)
    with torch.no_grad():
        assert torch.equal(tiny.decode(latents), tiny.model.decode(latents).sample.clamp(-1, 1))


def test_features_on_the_way_are_those_of_the_plain_decode():
    model = zoo.make("tiny")
    latents = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    seen = {}
    for name in ("layers.3", "layers.14"):
        model.decoder.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, key=name: seen.update({key: output})
        )
    with torch.no_grad():
        expected = model.decode(latents).sample
        image, features = decode_with_features(model, latents)
    assert torch.equal(image, expected)
    assert all(torch.equal(features[name], value) for name, value in seen.items())


def test_feature_regression_can_explain_itself_away():
    """A full decoder that is the tiny one: the regression's least squares solution leaves next to nothing."""
    model = zoo.make("tiny")
    full = Autoencoder(model)
    regression = FeatureRegression(full, model)
    assert len(regression.pairs) == 4
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    _, features = decode_with_features(model, latents)
    assert 0.5 < regression(latents, features).item() < 5
    for convolution, (name, _) in zip(regression.maps, regression.pairs.items(), strict=True):
        variance, mean = torch.var_mean(features[name], dim=(0, 2, 3), correction=0)
        scale = (variance + 1e-3 * variance.mean()).rsqrt()
        convolution.weight.data = torch.diag(scale)[..., None, None]
        convolution.bias.data = -mean * scale
    assert regression(latents, features).item() < 1e-8


def test_a_stopped_run_resumes_to_the_same_weights(pictures, tmp_path, monkeypatch):
    distillation = {"distillation": {"feature_weight": 0.1}}
    whole = train_tiny_decoder(recipe_of(pictures, tmp_path / "whole", **distillation))
    recipe = recipe_of(pictures, tmp_path / "stopped", **distillation)
    advance = TinyDecoderRun.advance

    def killed(run):
        if run.step == 4:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(TinyDecoderRun, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tiny_decoder(recipe)
    monkeypatch.setattr(TinyDecoderRun, "advance", advance)
    resumed = train_tiny_decoder(recipe)
    expected, found = (AutoencoderTiny.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_carrying_on_with_another_full_autoencoder_is_refused(pictures, tmp_path, monkeypatch):
    full = tmp_path / "full"
    zoo.make("stable_diffusion").save_pretrained(full)
    recipe = recipe_of(pictures, tmp_path / "run", autoencoder={"path": str(full)})
    advance = TinyDecoderRun.advance

    def killed(run):
        if run.step == 4:
            raise KeyboardInterrupt
        advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(TinyDecoderRun, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_decoder(recipe)
    shutil.copytree(full, tmp_path / "first")
    other = zoo.make("stable_diffusion")
    with torch.no_grad():
        other.decoder.conv_out.bias += 1
    other.save_pretrained(full)
    with pytest.raises(ResumeError, match=r"what the recipe names in autoencoder\.path has changed since"):
        train_tiny_decoder(recipe)
    shutil.rmtree(full)
    (tmp_path / "first").rename(full)
    assert train_tiny_decoder(recipe).is_dir()


def test_another_recipe_in_the_same_folder_is_refused(finished):
    recipe, result = finished
    assert train_tiny_decoder(recipe) == result
    with pytest.raises(ResumeError, match="seed was 0 and is now 7"):
        train_tiny_decoder(recipe.model_copy(update={"seed": 7}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distillation": {"encoder_weight": 0}}, "distillation.encoder_weight: got 0"),
        ({"distillation": {"pixels": "l1"}}, "did you mean distillation.pixel"),
        ({"training": {"statistics_images": 8}}, "training.statistics_images: no such key"),
        ({"autoencoder": {"batch_size": 8}}, r"autoencoder.batch_size=8 has no use here: training\.batch_size says"),
        ({"data": {"crop": "random"}}, "data.crop=random has no use here"),
    ],
)
def test_mistakes_in_a_recipe_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        build_recipe(values, "mistaken.yaml", TinyDecoderRecipe)


def test_the_recipe_of_the_repository_is_valid(request):
    path = request.config.rootpath / "recipes" / "demo-tiny-decoder.yaml"
    assert load_recipe(path, (), TinyDecoderRecipe).name == "demo-tiny-decoder"
