"""Extractors against the models and image processors they wrap."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from lpl.evaluation import Extractor, ExtractorError, load_extractor

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {**TINY, "image_size": 32, "patch_size": 8}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


@pytest.fixture
def images() -> torch.Tensor:
    pixels = torch.randint(0, 256, (5, 3, 48, 48), generator=torch.Generator().manual_seed(0))
    return pixels.float() / 127.5 - 1


def save(folder: Path, model: transformers.PreTrainedModel, processor: str = "ViTImageProcessor", **settings) -> str:
    model.eval().save_pretrained(folder)
    defaults = {"size": {"height": 32, "width": 32}, "image_mean": MEAN, "image_std": STD}
    getattr(transformers, processor)(**{**defaults, **settings}).save_pretrained(folder)
    return str(folder)


def prepared(images: torch.Tensor) -> torch.Tensor:
    """Pillow's bilinear resize to 32×32 and the normalisation, by hand."""
    from PIL import Image

    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    small = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in pixels]
    return torch.from_numpy((np.stack(small) / 255 - MEAN) / STD).permute(0, 3, 1, 2).float()


@torch.no_grad()
def test_vit_takes_the_pooled_output_of_processed_images(tmp_path: Path, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**VISION))
    extractor = load_extractor(save(tmp_path, model))
    features = extractor(images)
    expected = model(prepared(images)).pooler_output
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    assert extractor.dimension == 16
    assert features.dtype == torch.float32
    assert extractor.name == f"ViTModel {tmp_path.name}"


@torch.no_grad()
def test_a_classifier_without_a_pooler_gives_its_class_token(tmp_path: Path, images: torch.Tensor) -> None:
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))
    spec = save(tmp_path, model)
    first, second = load_extractor(spec), load_extractor(spec)
    expected = model.vit(prepared(images)).last_hidden_state[:, 0]
    torch.testing.assert_close(first(images), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first(images), second(images))


@torch.no_grad()
def test_dinov2_gives_its_normalised_class_token(tmp_path: Path, images: torch.Tensor) -> None:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**{**VISION, "mlp_ratio": 1}))
    crop = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_convert_rgb": True}
    spec = save(tmp_path, model, "BitImageProcessor", size={"shortest_edge": 32}, resample=2, **crop)
    expected = model(prepared(images)).last_hidden_state[:, 0]
    torch.testing.assert_close(load_extractor(spec)(images), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["whole", "projected", "vision"])
def test_clip_gives_image_embeddings_where_it_has_them(tmp_path: Path, images: torch.Tensor, kind: str) -> None:
    vision = transformers.CLIPVisionConfig(**VISION, projection_dim=6)
    if kind == "whole":
        text = transformers.CLIPTextConfig(**TINY, vocab_size=20)
        config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=6)
        model = transformers.CLIPModel(config)
        tower, projection = model.vision_model, model.visual_projection
    elif kind == "projected":
        model = transformers.CLIPVisionModelWithProjection(vision)
        tower, projection = model.vision_model, model.visual_projection
    else:
        model = transformers.CLIPVisionModel(vision)
        tower, projection = model, nn.Identity()
    crop = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    spec = save(tmp_path, model, "CLIPImageProcessor", size={"shortest_edge": 32}, resample=2, **crop)
    expected = projection(tower(prepared(images)).pooler_output)
    features = load_extractor(spec)(images)
    assert features.shape == (5, 16 if kind == "vision" else 6)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_convolutional_features_are_flattened(tmp_path: Path, images: torch.Tensor) -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    model = transformers.ResNetModel(config).eval()
    spec = save(tmp_path, model)
    expected = model(prepared(images)).pooler_output.flatten(1)
    torch.testing.assert_close(load_extractor(spec)(images), expected, atol=1e-5, rtol=1e-4)


def test_a_model_that_draws_random_numbers_is_refused(tmp_path: Path, images: torch.Tensor) -> None:
    config = transformers.ViTMAEConfig(**VISION, decoder_hidden_size=16, decoder_num_attention_heads=2)
    extractor = load_extractor(save(tmp_path, transformers.ViTMAEModel(config)))
    with pytest.raises(ExtractorError, match="other features for the same images"):
        extractor(images)


def test_a_model_of_text_and_lost_weights_are_refused(tmp_path: Path) -> None:
    text = transformers.BertModel(transformers.BertConfig(**TINY, vocab_size=20))
    with pytest.raises(ExtractorError, match="BertModel takes no images; choose a vision model"):
        load_extractor(save(tmp_path / "text", text))
    deeper = transformers.ViTConfig(**{**VISION, "num_hidden_layers": 2})
    spec = save(tmp_path / "lost", transformers.ViTModel(transformers.ViTConfig(**VISION)))
    deeper.save_pretrained(spec)
    with pytest.raises(ExtractorError, match=r"the weights lack \d+ tensors"):
        load_extractor(spec)


def test_folders_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError, match=r"can't be loaded; takes none, inception, FILE.py:FUNCTION"):
        load_extractor(str(tmp_path))
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(ExtractorError, match=r"preprocessor_config.json"):
        load_extractor(str(tmp_path))


def test_fingerprint_follows_weights_and_preparation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**VISION))
    prints = [load_extractor(save(tmp_path / "a", model)).fingerprint()]
    prints.append(load_extractor(save(tmp_path / "b", model)).fingerprint())
    prints.append(load_extractor(save(tmp_path / "c", model, image_mean=[0.1, 0.1, 0.1])).fingerprint())
    next(model.parameters()).data[..., 0] += 1
    prints.append(load_extractor(save(tmp_path / "d", model)).fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_user_module(user_module: str, images: torch.Tensor) -> None:
    extractor = load_extractor(user_module)
    expected = 2 * torch.stack(
        [images[:, :, r : r + 24, c : c + 24].mean((2, 3)) for r in (0, 24) for c in (0, 24)], -1
    )
    torch.testing.assert_close(extractor(images), expected.flatten(1))
    assert extractor.name == "colours:colours"
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "the file has no function of that name"),
        ("def build():\n    return 3", "the function must return an nn.Module, got int"),
        ("def build():\n    raise KeyError('weights')", "KeyError: 'weights'"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_user_files_that_fail_are_named(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(ExtractorError, match=re.escape(f"extractor={file}:build: {message}")):
        load_extractor(f"{file}:build")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ExtractorError, match=r"extractor=nowhere.py:build: no such file; the path is relative to"):
        load_extractor("nowhere.py:build")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 2, 3), r"expected features \(B, D\) of 5 images, got shape \(5, 2, 46, 46\)"),
        (nn.Flatten(0), r"got shape \(34560,\)"),
        (nn.Identity(), r"got shape \(5, 3, 48, 48\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(6912, 2), nn.Threshold(1e9, torch.nan)), "NaN"),
    ],
)
def test_modules_that_give_no_features_are_refused(network: nn.Module, message: str, images: torch.Tensor) -> None:
    with pytest.raises(ExtractorError, match=message):
        Extractor(network, network, "mine", "")(images)


def test_inception_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ExtractorError, match=r'pip install "latent-perceptual-loss\[inception\]"'):
        load_extractor("inception")


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for torch-fidelity: the real one's interface, without its 90 MB of weights."""

    class Stub(nn.Module):
        def __init__(self, name: str, features: list[str]) -> None:
            super().__init__()
            assert (name, features) == ("inception-v3-compat", ["2048"])

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
            assert pixels.dtype == torch.uint8
            return (pixels.flatten(1)[:, :2048].float(),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Stub
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_inception_is_given_bytes(fidelity: types.ModuleType, images: torch.Tensor) -> None:
    features = load_extractor("inception")(images)
    torch.testing.assert_close(features, ((images + 1) * 127.5).flatten(1)[:, :2048], atol=1e-3, rtol=0)


def test_inception_without_a_network_says_where_its_weights_go(
    fidelity: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(fidelity, "FeatureExtractorInceptionV3", unreachable)
    with pytest.raises(ExtractorError, match=r"no route to host.*weights-inception-2015-12-05-6726825d.pth"):
        load_extractor("inception")
