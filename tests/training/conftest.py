"""Recipes that train in a second: photographs of 16² pixels, an autoencoder of random weights, the smallest MMDiT."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from run_files import train_in_child

from lpl.config import Recipe, build_recipe, set_dotted
from lpl.denoisers.mmdit import PRESETS, Preset


@pytest.fixture(autouse=True)
def tiny_denoiser(monkeypatch):
    """Preset T with 60 thousand weights instead of 8 million."""
    monkeypatch.setitem(PRESETS, "T", Preset(width=32, depth=2, heads=2))


@pytest.fixture(scope="session")
def forks():
    """Children start from a server that has imported everything once, so that many can be killed in little time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lpl.training"])
    return context


@pytest.fixture(scope="session")
def tiny_autoencoder(tmp_path_factory):
    """A folder with a two-level AutoencoderKL of random weights: 16² pixels, latents of 4×8×8."""
    folder = tmp_path_factory.mktemp("autoencoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=16,
            scaling_factor=2.0,
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory):
    """A folder of two classes of six noisy images each."""
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for label, colour in (("blue", (0, 0, 160)), ("red", (160, 0, 0))):
        (folder / label).mkdir()
        for index in range(6):
            noise = torch.randint(0, 90, (32, 32, 3), generator=generator)
            pixels = (noise + torch.tensor(colour)).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def latent_caches(tmp_path_factory):
    """Where latent caches go, so that tests share them and leave the home folder alone."""
    folder = tmp_path_factory.mktemp("caches")
    before = os.environ.get("LPL_CACHE")
    os.environ["LPL_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LPL_CACHE"]
    else:
        os.environ["LPL_CACHE"] = before


@pytest.fixture
def tiny_recipe(tiny_autoencoder, tiny_images, latent_caches, tmp_path):
    """Makes recipes from dotted keys; each goes to a folder of its own, named by `name`."""

    def make(name="run", **settings) -> Recipe:
        values = {
            "name": name,
            "output": str(tmp_path / name),
            "data": {"source": str(tiny_images), "resolution": 16},
            "autoencoder": {"path": str(tiny_autoencoder)},
            "denoiser": {"preset": "T", "patch_size": 4, "max_tokens_per_side": 8},
            "training": {"steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "learning_rate": 1e-3},
        }
        for key, value in settings.items():
            set_dotted(values, key.replace("__", "."), value)
        return build_recipe(values)

    return make


@pytest.fixture
def start(forks, latent_caches):
    """Starts a child that trains a recipe, with more environment variables."""

    def start_child(recipe, **environment):
        environment["LPL_CACHE"] = str(latent_caches)
        child = forks.Process(target=train_in_child, args=(recipe.model_dump(), environment))
        child.start()
        return child

    return start_child


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
