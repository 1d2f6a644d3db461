from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import LinearAutoencoder, write_class_folders

from lpl.config import DataConfig
from lpl.data.encoding import build_latent_cache
from lpl.data.images import ImageSource
from lpl.data.latents import CacheError, LatentCache
from lpl.data.sources import open_images
from lpl.data.transforms import crop_and_resize

HALF = 2.0**-11  # relative rounding error of float16


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write_class_folders(tmp_path / "images", {"a": 4, "b": 3})
    return DataConfig(source=str(tmp_path / "images"), resolution=16, cache=str(tmp_path / "cache"))


def exact(source: ImageSource, places: list[tuple[int, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std encoded directly, one image at a time."""
    images = [crop_and_resize(source[index][0], 16) for index, _ in places]
    flipped = [image.flip(-1) if flip else image for image, (_, flip) in zip(images, places, strict=True)]
    return LinearAutoencoder().encode(torch.stack(flipped))


def test_latents_are_mean_plus_std_times_noise_within_float16(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(), 3, progress=False)
    places = [(5, True), (0, False), (5, False), (2, True), (0, False)]
    mean, std = exact(open_images(config), places)
    indices, flips = torch.tensor([i for i, _ in places]), torch.tensor([f for _, f in places])
    found = cache.latents(indices, flips, torch.Generator().manual_seed(3))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    allowed = HALF * (mean.abs() + (std * noise).abs()) + 1e-7
    assert found.dtype == torch.float32
    assert ((found - (mean + std * noise)).abs() <= allowed).all()
    assert ((cache.latents(indices, flips) - mean).abs() <= HALF * mean.abs() + 1e-7).all()


def test_noise_has_the_posteriors_spread(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(), 8, progress=False)
    _, std = exact(open_images(config), [(1, False)])
    draws = cache.latents(torch.ones(4000, dtype=torch.int64), None, torch.Generator().manual_seed(0))
    assert (draws.std(0) / std[0] - 1).abs().max() < 0.06


def test_labels_classes_and_shape(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(), 2, progress=False)
    source = open_images(config)
    assert cache.labels.tolist() == [source[index][1] for index in range(7)] == [0, 1, 0, 1, 0, 1, 0]
    assert cache.classes == ["a", "b"]
    assert cache.latent_shape == (4, 4, 4)
    assert len(cache) == 7
    assert cache.info.class_counts == [4, 3]


def test_channel_statistics_are_those_of_posterior_samples(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(), 4, progress=False)
    mean, std = exact(open_images(config), [(index, flip) for index in range(7) for flip in (False, True)])
    generator = torch.Generator().manual_seed(0)
    samples = torch.cat([mean + std * torch.randn(mean.shape, generator=generator) for _ in range(400)])
    assert torch.allclose(cache.channel_mean, mean.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(cache.channel_std, samples.std((0, 2, 3)), rtol=5e-3)


def test_nothing_is_read_into_memory_until_asked_for(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(), 4, progress=False)
    assert isinstance(cache._mean, np.memmap)
    assert isinstance(cache._std, np.memmap)


def test_deterministic_encoder_stores_no_std(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(deterministic=True), 4, progress=False)
    assert cache.info.deterministic
    assert not (cache.folder / "std.npy").exists()
    indices = torch.tensor([3, 1])
    drawn = cache.latents(indices, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, cache.latents(indices))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.tensor([7]),), IndexError, "indices: from 7 to 7; takes 0 to 6"),
        ((torch.tensor([-1, 2]),), IndexError, "indices: from -1 to 2"),
        ((torch.tensor([[0]]),), ValueError, r"indices: got torch\.int64 of shape \(1, 1\)"),
        ((torch.tensor([0.0]),), ValueError, r"indices: got torch\.float32"),
        ((torch.tensor([0, 1]), torch.tensor([True])), ValueError, r"flips: .*shape \(1,\), takes bool \(2,\)"),
        ((torch.tensor([0]), torch.tensor([1])), ValueError, r"flips: got torch\.int64"),
    ],
)
def test_wrong_arguments_are_named(config: DataConfig, arguments: tuple, error: type[Exception], message: str):
    cache = build_latent_cache(config, LinearAutoencoder(), 4, progress=False)
    with pytest.raises(error, match=message):
        cache.latents(*arguments)


def test_mirror_images_that_were_not_cached_are_refused(config: DataConfig):
    cache = build_latent_cache(config.model_copy(update={"flip": False}), LinearAutoencoder(), 4, progress=False)
    assert cache.latents(torch.tensor([1]), torch.tensor([False])).shape == (1, 4, 4, 4)
    with pytest.raises(ValueError, match=r"flips: .*no mirror images; build it with data\.flip=true"):
        cache.latents(torch.tensor([1]), torch.tensor([True]))


def test_empty_batch_is_an_ordinary_one(config: DataConfig):
    cache = build_latent_cache(config, LinearAutoencoder(), 4, progress=False)
    assert cache.latents(torch.zeros(0, dtype=torch.int64)).shape == (0, 4, 4, 4)


def test_missing_and_damaged_caches_are_refused(config: DataConfig, tmp_path: Path):
    with pytest.raises(CacheError, match=r"nothing is not a latent cache: it has no cache\.json"):
        LatentCache.open(tmp_path / "nothing")
    folder = build_latent_cache(config, LinearAutoencoder(), 4, progress=False).folder
    mean = (folder / "mean.npy").read_bytes()
    (folder / "mean.npy").write_bytes(mean[:-10])
    with pytest.raises(CacheError, match=r"mean\.npy is missing or damaged .*delete the folder"):
        LatentCache.open(folder)
    (folder / "mean.npy").write_bytes(mean)
    np.save(folder / "labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(CacheError, match=r"labels\.npy holds int64 \(3,\), where cache\.json announces int64 \(7,\)"):
        LatentCache.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["key"].update(format=99), "of format 99, and this version reads 1"),
        (lambda info: info.pop("count"), "is damaged"),
        (lambda info: info.update(key=None), "is damaged"),
    ],
)
def test_description_of_another_format_or_with_gaps_is_refused(config: DataConfig, change, message: str):
    folder = build_latent_cache(config, LinearAutoencoder(), 4, progress=False).folder
    info = json.loads((folder / "cache.json").read_text())
    change(info)
    (folder / "cache.json").write_text(json.dumps(info))
    with pytest.raises(CacheError, match=message):
        LatentCache.open(folder)
