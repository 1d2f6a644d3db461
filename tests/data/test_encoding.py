from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import LinearAutoencoder, picture, write_class_folders
from PIL import Image

from lpl.autoencoders import Autoencoder
from lpl.config import DataConfig
from lpl.data.encoding import build_latent_cache, read_crops
from lpl.data.images import DataError, ImageSource, UnreadableImage
from lpl.data.latents import CacheError, LatentCache
from lpl.data.sources import open_images


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write_class_folders(tmp_path / "images", {"a": 4, "b": 3})
    return DataConfig(source=str(tmp_path / "images"), resolution=16)


def build(config: DataConfig, autoencoder: LinearAutoencoder | None = None, **options: object) -> LatentCache:
    return build_latent_cache(config, autoencoder or LinearAutoencoder(), 3, progress=False, **options)


class Explodes(LinearAutoencoder):
    """Stops in the middle, as an interrupted run does."""

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.batches) >= 3:
            raise KeyboardInterrupt
        return super().encode(images)


def test_batches_are_full_and_hold_images_and_their_mirrors(config: DataConfig):
    autoencoder = LinearAutoencoder()
    cache = build(config, autoencoder)
    assert autoencoder.batches == [3, 3, 3, 3, 1, 1]
    assert np.load(cache.folder / "mean.npy").shape == (7, 2, 4, 4, 4)


def test_mean_does_not_depend_on_the_batch_size(config: DataConfig):
    first = build(config)
    second = build_latent_cache(
        config.model_copy(update={"cache": str(first.folder) + "-2"}), LinearAutoencoder(), 100, progress=False
    )
    for name in ("mean", "std", "labels"):
        np.testing.assert_array_equal(np.load(first.folder / f"{name}.npy"), np.load(second.folder / f"{name}.npy"))


def test_complete_cache_is_reused(config: DataConfig, tmp_path: Path):
    first = build(config)
    autoencoder = LinearAutoencoder()
    again = build(config, autoencoder)
    assert autoencoder.batches == []
    assert again.folder == first.folder
    assert again.folder.parent == tmp_path / "latent-caches"


@pytest.mark.parametrize(
    "change",
    [{"resolution": 8}, {"crop": "random"}, {"flip": False}, {"limit": 6}, {"label_column": None}],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_has_a_cache_of_its_own(config: DataConfig, change: dict[str, object]):
    assert build(config).folder != build(config.model_copy(update=change)).folder


def test_another_autoencoder_or_changed_images_have_a_cache_of_their_own(config: DataConfig):
    folders = [build(config).folder, build(config, LinearAutoencoder(scale=2.0)).folder]
    picture(9).save(Path(config.source) / "a" / "000.png")
    folders.append(build(config).folder)
    assert len(set(folders)) == 3


def test_named_folder_holding_other_latents_is_refused_with_the_difference(config: DataConfig, tmp_path: Path):
    named = config.model_copy(update={"cache": str(tmp_path / "mine")})
    assert build(named).folder == tmp_path / "mine"
    message = r"data\.cache: .*mine holds other latents \(resolution 16 instead of 8; flips True instead of False\)"
    with pytest.raises(CacheError, match=message):
        build(named.model_copy(update={"resolution": 8, "flip": False}))


def test_folder_of_something_else_is_left_alone(config: DataConfig, tmp_path: Path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(CacheError, match="is not a latent cache"):
        build(config.model_copy(update={"cache": str(tmp_path / "thesis")}))
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_held_out_images_have_a_cache_of_their_own(config: DataConfig, tmp_path: Path):
    write_class_folders(tmp_path / "held-out", {"b": 2})
    config = config.model_copy(update={"holdout": str(tmp_path / "held-out"), "cache": str(tmp_path / "mine")})
    held_out = build(config, holdout=True)
    assert held_out.folder == tmp_path / "mine-holdout"
    assert held_out.classes == ["a", "b"]
    assert held_out.labels.tolist() == [1, 1]


def test_corrupt_images_are_counted_named_and_skipped(config: DataConfig, caplog: pytest.LogCaptureFixture):
    for name in ("a/001.png", "b/000.png"):
        (Path(config.source) / name).write_bytes(b"broken")
    cache = build(config)
    assert (cache.info.images, cache.info.skipped, len(cache)) == (5, 2, 5)
    assert cache.labels.tolist() == [0, 1, 0, 1, 0]
    log = (cache.folder / "skipped.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in log} == {f"{config.source}/{name}" for name in ("a/001.png", "b/000.png")}
    assert "skipped 2 of 7 images" in caplog.text
    caplog.clear()
    build(config)
    assert "2 unreadable images were left out; see" in caplog.text


def test_data_set_of_corrupt_images_is_refused(config: DataConfig, tmp_path: Path):
    for file in Path(config.source).rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the 7 images can be read; the first: .*000\.png"):
        build(config)
    assert list((tmp_path / "latent-caches").iterdir()) == []


def test_classes_left_without_images_are_named(config: DataConfig, caplog: pytest.LogCaptureFixture):
    for file in (Path(config.source) / "b").iterdir():
        file.write_bytes(b"broken")
    build(config)
    assert "no images of 1 of 2 classes: b" in caplog.text


def test_interrupted_cache_leaves_nothing_and_is_built_next_time(config: DataConfig, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        build(config, Explodes())
    assert list((tmp_path / "latent-caches").iterdir()) == []
    assert len(build(config)) == 7


def test_leftovers_of_a_killed_run_are_named(config: DataConfig, caplog: pytest.LogCaptureFixture):
    folder = build(config).folder
    partial = folder.rename(folder.with_name(f"{folder.name}.partial-x"))
    build(config)
    assert f"left by a run that was killed, or in use by one that is encoding: {partial}" in caplog.text


def test_cache_that_another_process_finished_first_is_used(config: DataConfig):
    class Slow(LinearAutoencoder):
        def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.batches:
                self.batches.append(0)
                build(config)
            return super().encode(images)

    cache = build(config, Slow())
    assert len(cache) == 7
    assert [path.name for path in cache.folder.parent.iterdir()] == [cache.folder.name]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 7e4])
def test_latents_that_do_not_fit_float16_are_refused_naming_the_autoencoder(config: DataConfig, bad: float):
    class Bad(LinearAutoencoder):
        def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, std = super().encode(images)
            mean[0, 0, 0, 0] = bad
            return mean, std

    with pytest.raises(CacheError, match=r"the autoencoder Bad \(linear-1\.0-F\) gave a mean with magnitudes up to"):
        build(config, Bad())


def test_latents_of_another_shape_than_announced_are_refused(config: DataConfig):
    class Bad(LinearAutoencoder):
        def latent_shape(self, resolution: int) -> tuple[int, int, int]:
            return 4, 2, 2

    with pytest.raises(CacheError, match=r"of shape \(4, 4, 4\) an image, where \(4, 2, 2\) was announced"):
        build(config, Bad())


def test_resolution_and_batch_size_are_checked_before_any_work(config: DataConfig):
    with pytest.raises(DataError, match=r"data\.resolution: got 18, takes a multiple of 4 pixels"):
        build(config.model_copy(update={"resolution": 18, "source": "/no/where"}))
    with pytest.raises(ValueError, match="batch_size: got 0"):
        build_latent_cache(config, LinearAutoencoder(), 0)


def test_several_random_crops_of_each_image(config: DataConfig):
    config = config.model_copy(update={"crop": "random", "crops_per_image": 3})
    cache = build(config)
    assert len(cache) == 21
    assert cache.labels.tolist() == [label for label in (0, 1, 0, 1, 0, 1, 0) for _ in range(3)]
    latents = cache.latents(torch.arange(21))
    assert len({tuple(latent.flatten().tolist()) for latent in latents}) == 21
    second = build(config.model_copy(update={"cache": str(cache.folder) + "-2"}))
    assert torch.equal(second.latents(torch.arange(21)), latents)  # the crops depend on nothing but the settings


def test_images_are_read_ahead_while_the_caller_works():
    class Slow(ImageSource):
        classes = ("one",)

        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            self.read.append(index)
            return picture(index), 0

        def name(self, index: int) -> str:
            return str(index)

        def fingerprint(self) -> str:
            return ""

    source, skipped = Slow(), []
    crops = read_crops(source, DataConfig(resolution=8), skipped, ahead=5)
    next(crops)
    deadline = time.monotonic() + 20
    while len(source.read) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(source.read) == list(range(6))  # the one taken and five ahead of it
    crops.close()


def test_reading_keeps_the_order_and_lists_the_unreadable(config: DataConfig):
    (Path(config.source) / "a" / "002.png").write_bytes(b"broken")
    source, skipped = open_images(config), []
    labels = [label for _, label in read_crops(source, config, skipped)]
    assert labels == [0, 1, 0, 1, 1, 0]
    assert [type(error) for error in skipped] == [UnreadableImage]


def test_progress_goes_to_standard_error_alone(config: DataConfig, capfd: pytest.CaptureFixture[str]):
    build_latent_cache(config, LinearAutoencoder(), 3)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "Encoding images" in shown.err
    assert "7/7" in shown.err


def test_real_autoencoder_of_two_kinds(config: DataConfig):
    import diffusers

    torch.manual_seed(0)
    kl = diffusers.AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                                 up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4)  # fmt: skip
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), upsampling_scaling_factor=2,
    )  # fmt: skip
    for model, deterministic in ((kl, False), (tiny, True)):
        autoencoder = Autoencoder(model)
        cache = build_latent_cache(config, autoencoder, 4, progress=False)
        assert cache.info.deterministic is deterministic
        images = torch.stack([crops[0] for crops, _ in read_crops(open_images(config), config, [])])
        mean, _ = autoencoder.encode(images)
        assert torch.allclose(cache.latents(torch.arange(7)), mean, atol=1e-3, rtol=1e-3)


def test_real_photographs(shared: Path):
    source = str(shared / "data" / "scenes-128" / "test.parquet")
    cache = build_latent_cache(
        DataConfig(source=source, resolution=32, limit=40), LinearAutoencoder(), 16, progress=False
    )
    assert (len(cache), cache.info.skipped, cache.latent_shape) == (40, 0, (4, 8, 8))
    assert 0.2 < float(cache.channel_std.mean()) < 0.9
    mirrored = cache.latents(torch.arange(40), torch.ones(40, dtype=torch.bool))
    # averaging 4×4 pixels commutes with mirroring
    assert torch.allclose(mirrored.flip(-1), cache.latents(torch.arange(40)), atol=1e-3)
