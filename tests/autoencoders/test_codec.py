from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from lpl.autoencoders import TAEF2, Autoencoder, LatentScaling, load_autoencoder, scaling_of

DIFFUSERS = [name for name in zoo.ZOO if name != "taef2"]


def images(batch: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", zoo.ZOO)
def test_shapes_and_ranges(name: str) -> None:
    autoencoder = Autoencoder(zoo.make(name))
    mean, std = autoencoder.encode(images())
    assert mean.shape == std.shape == (2, *autoencoder.latent_shape(32))
    assert mean.dtype == torch.float32
    assert (std >= 0).all()
    decoded = autoencoder.decode(mean)
    assert decoded.shape == (2, 3, 32, 32)
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize("name", [n for n in DIFFUSERS if not n.startswith(("vq", "flux2"))])
def test_equals_the_models_own_encode_and_decode(name: str) -> None:
    model = zoo.make(name)
    autoencoder = Autoencoder(model)
    mean, _ = autoencoder.encode(images())
    with torch.no_grad():
        encoded = model.encode(images())
        own = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else next(iter(encoded.values()))
        expected = model.decode(own).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.scaling.to_autoencoder(mean), own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(autoencoder.decode(mean), expected, rtol=1e-3, atol=1e-4)


def test_posterior_std_is_scaled_and_not_shifted() -> None:
    model = zoo.make("sd3")
    _, std = Autoencoder(model).encode(images())
    with torch.no_grad():
        own = model.encode(images()).latent_dist.std
    torch.testing.assert_close(std, own * 1.5305, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_scaling_and_back(name: str) -> None:
    scaling = scaling_of(zoo.make(name))
    channels = scaling.channels or 32
    latents = torch.randn(2, channels, 4, 6)
    torch.testing.assert_close(scaling.to_diffusion(scaling.to_autoencoder(latents)), latents, rtol=1e-4, atol=1e-5)


def test_scaling_refuses_impossible_numbers() -> None:
    with pytest.raises(ValueError, match="std: got"):
        LatentScaling(std=torch.tensor([1.0, 0.0]))


def test_resolution_must_fit() -> None:
    with pytest.raises(ValueError, match="resolution: got 30, takes a multiple of 8 pixels"):
        Autoencoder(zoo.make("stable_diffusion")).latent_shape(30)


def test_fingerprint_follows_weights_configuration_and_precision() -> None:
    prints = {
        Autoencoder(zoo.make("stable_diffusion")).fingerprint(),
        Autoencoder(zoo.make("stable_diffusion", seed=1)).fingerprint(),
        Autoencoder(zoo.make("sdxl")).fingerprint(),
        Autoencoder(zoo.make("stable_diffusion").bfloat16()).fingerprint(),
    }
    assert len(prints) == 4
    assert Autoencoder(zoo.make("stable_diffusion")).fingerprint() in prints


@pytest.mark.parametrize("name", DIFFUSERS)
def test_loads_a_diffusers_folder(name: str, tmp_path: Path) -> None:
    model = zoo.make(name)
    model.save_pretrained(tmp_path / "vae")
    loaded = load_autoencoder(tmp_path, subfolder="vae")
    assert type(loaded.model) is type(model)
    assert loaded.fingerprint() == Autoencoder(model).fingerprint()
    assert load_autoencoder(tmp_path / "vae", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_says_what_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds neither config.json .* nor decoder.safetensors"):
        load_autoencoder(tmp_path)
    (tmp_path / "decoder.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"encoder.safetensors: no such file"):
        load_autoencoder(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="names the class UNet2DModel, takes AsymmetricAutoencoderKL"):
        load_autoencoder(tmp_path / "other")


def test_a_pipelines_folder_says_where_its_autoencoder_is(tmp_path: Path) -> None:
    for part, config in {"a_text_encoder": "{}", "scheduler": "{", "unet": '{"_class_name": "UNet2DModel"}'}.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(config)
    with pytest.raises(FileNotFoundError, match=r"decoder.safetensors \(TAEF2\)$"):
        load_autoencoder(tmp_path)
    zoo.make("tiny").save_pretrained(tmp_path / "vae")
    for subfolder in (None, "vea"):
        with pytest.raises(FileNotFoundError, match="there is an autoencoder in .*vae: give subfolder: vae"):
            load_autoencoder(tmp_path, subfolder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"_class_name": "Auto', r"vae/config.json: is not JSON \(Unterminated string.*\); download or save"),
        ('["AutoencoderKL"]', "vae/config.json: holds a list, takes an autoencoder's settings by name"),
    ],
)
def test_names_a_configuration_that_cant_be_read(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_autoencoder(tmp_path / "vae")


@pytest.mark.parametrize("kept", [None, 0, 4, 1000])
def test_names_a_folder_whose_weights_cant_be_read(kept: int | None, tmp_path: Path) -> None:
    """Missing, empty, or cut short within the header or the numbers."""
    zoo.make("tiny").save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if kept is not None:
        weights.write_bytes(whole[:kept])
    with pytest.raises(ValueError, match="vae: holds no AutoencoderTiny that can be loaded .* may be missing or cut"):
        load_autoencoder(tmp_path, "vae")


def test_names_a_file_that_is_not_taef2s(tmp_path: Path) -> None:
    for name in ("encoder", "decoder"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="encoder.safetensors: does not hold TAEF2's encoder"):
        load_autoencoder(tmp_path)
    save_file(TAEF2().decoder.state_dict(), tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match="encoder.safetensors: does not hold TAEF2's encoder"):
        load_autoencoder(tmp_path)


def test_an_unknown_name_is_no_folder_and_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'nobody/nothing': not a folder here, and not fetched from the hub"):
        load_autoencoder("nobody/nothing", subfolder="vae")


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model: Linear is not an autoencoder"):
        Autoencoder(torch.nn.Linear(2, 2))


def test_taef2_reconstructs_photographs(shared) -> None:
    """About 25 dB on these detailed scenes at 128², 29 to 32 dB on photographs at 256²."""
    import io

    import numpy as np
    import pyarrow.parquet as parquet
    from PIL import Image

    table = parquet.read_table(shared / "data" / "scenes-128" / "test.parquet").slice(0, 16)
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    autoencoder = load_autoencoder(shared / "weights" / "taef2")
    assert isinstance(autoencoder.model, TAEF2)
    mean, std = autoencoder.encode(batch)
    assert autoencoder.latent_shape(128) == (32, 16, 16)
    assert std.abs().max() == 0
    assert mean.std().item() == pytest.approx(0.9, abs=0.15)
    error = (autoencoder.decode(mean) - batch).square().mean(dim=(1, 2, 3)) / 4
    assert (-10 * error.log10()).mean() > 24


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name != "flux2"])  # whose statistics are looked at
def test_works_where_a_model_was_moved_before(name: str) -> None:
    """On a device without memory, which like a GPU refuses to compute with the CPU's tensors."""
    autoencoder = Autoencoder(zoo.make(name).to("meta"))
    mean, std = autoencoder.encode(images())
    assert mean.device.type == std.device.type == "meta"
    assert autoencoder.decode(mean).shape == (2, 3, 32, 32)
