"""Feature extractors: what turns images into the points that Fréchet distance and its kin compare.

Three kinds are known, each one function below and one line in `load_extractor`: Inception (what FID is quoted with),
any vision model of transformers, and a user's own module.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..errors import LplError
from .checks import check_images, to_bytes

INCEPTION_HELP = (
    "extractor=inception needs the package torch-fidelity, an optional extra: "
    'pip install "latent-perceptual-loss[inception]"'
)


class ExtractorError(LplError):
    """An extractor that can't be loaded or that doesn't return features; the message says what to change."""


class Extractor:
    """A frozen network that gives every image a point in feature space.

    Args:
        network: holds the weights; put into evaluation mode and moved to `device`.
        compute: maps images (B, 3, H, W) float32 in [-1, 1] on `device` to features (B, D).
        name: for people.
        identity: everything besides the weights that the features depend on; part of the fingerprint.
        device: where it runs.
    """

    def __init__(
        self, network: nn.Module, compute: Callable[[Tensor], Tensor], name: str, identity: str, device: str = "cpu"
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.name, self.device = name, torch.device(device)
        self.dimension: int | None = None  # D, known after the first images
        self._compute, self._identity = compute, identity
        self._fingerprint: str | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: (B, 3, R, R) float in [-1, 1].

        Returns:
            (B, D) float32 on the CPU.

        Raises:
            ExtractorError: the network returned something else, NaN, or not the same twice.
        """
        check_images(images)
        features = self._features(images)
        if self.dimension is None:
            self._check_repeatable(images, features)
            self.dimension = features.shape[1]
        return features

    def fingerprint(self) -> str:
        """Hash of the weights and of how images are prepared; equal fingerprints give comparable features."""
        if self._fingerprint is None:
            self._fingerprint = _fingerprint(self.network, self._identity)
        return self._fingerprint

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        features = self._compute(images.float().to(self.device))
        expected = f"extractor {self.name}: expected features (B, D) of {len(images)} images"
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise ExtractorError(f"{expected} as a float tensor, got {kind}")
        if features.ndim != 2 or len(features) != len(images) or features.shape[1] == 0:
            raise ExtractorError(f"{expected}, got shape {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ExtractorError(f"extractor {self.name}: some features are NaN or infinite")
        return features.float().cpu()

    def _check_repeatable(self, images: Tensor, features: Tensor) -> None:
        """Some networks, such as masked autoencoders, draw random numbers even in evaluation mode."""
        if not torch.allclose(self._features(images), features, rtol=1e-3, atol=1e-5):
            raise ExtractorError(
                f"extractor {self.name}: gives other features for the same images when asked again; "
                "it must not draw random numbers in evaluation mode"
            )


def load_extractor(spec: str, device: str = "cpu") -> Extractor:
    """Loads a feature extractor.

    Args:
        spec: "inception"; a folder or hub name of a transformers vision model (DINOv2, CLIP, ViT, ConvNeXt …); or
            "FILE.py:FUNCTION", where FUNCTION() returns an nn.Module: (B, 3, R, R) float32 in [-1, 1] to (B, D).
        device: where it runs.

    Returns:
        The extractor, frozen.

    Raises:
        ExtractorError: it can't be loaded; the message says why and what would do.
    """
    file, separator, function = spec.rpartition(":")
    if separator and file.endswith(".py"):
        return _user_extractor(Path(file), function, device)
    if spec == "inception":
        return _inception_extractor(device)
    return _transformers_extractor(spec, device)


def _inception_extractor(device: str) -> Extractor:
    """Inception-v3 with the weights and the resizing that published FIDs use; its 2048 pooled features."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that doesn't match torch
        raise ExtractorError(f"{INCEPTION_HELP} (importing it failed: {error})") from error
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except OSError as error:
        raise ExtractorError(
            f"extractor=inception: its weights could not be downloaded ({error}); without a network, put the file "
            "weights-inception-2015-12-05-6726825d.pth into the folder hub/checkpoints below torch.hub.get_dir()"
        ) from error
    return Extractor(network, lambda images: network(to_bytes(images))[0], "Inception-v3 (FID)", "2048", device)


def _user_extractor(file: Path, function: str, device: str) -> Extractor:
    """The module that FUNCTION of FILE.py builds."""
    spec = f"extractor={file}:{function}"
    if not file.is_file():
        raise ExtractorError(f"{spec}: no such file; the path is relative to {Path.cwd()}")
    try:
        build = getattr(_import_file(file), function, None)
        network = build() if callable(build) else None
    except Exception as error:  # somebody else's code may raise anything
        raise ExtractorError(f"{spec}: {type(error).__name__}: {error}") from error
    if not callable(build):
        raise ExtractorError(f"{spec}: the file has no function of that name")
    if not isinstance(network, nn.Module):
        raise ExtractorError(f"{spec}: the function must return an nn.Module, got {type(network).__name__}")
    identity = file.read_text(encoding="utf-8") + repr(network)
    return Extractor(network, network, f"{file.stem}:{function}", identity, device)


def _import_file(file: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"lpl_extractor_{file.stem}", file)
    if found is None or found.loader is None:
        raise ImportError("Python can't import this file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _transformers_extractor(spec: str, device: str) -> Extractor:
    """A vision model of transformers behind its own image processor, which resizes and normalises as in training."""
    try:
        config = transformers.AutoConfig.from_pretrained(spec)
        processor = transformers.AutoImageProcessor.from_pretrained(spec)
        network, loading = _model_class(config).from_pretrained(spec, output_loading_info=True)
    except (OSError, ValueError, ImportError) as error:
        raise ExtractorError(
            f"extractor={spec}: can't be loaded; takes none, inception, FILE.py:FUNCTION, or a vision model of "
            f"transformers: a folder with config.json, preprocessor_config.json and model.safetensors, or a hub name. "
            f"{error}"
        ) from error
    missing = sorted(loading["missing_keys"])
    untrained = [key for key in missing if "pooler" not in key]
    if untrained:
        names = ", ".join(untrained[:3])
        raise ExtractorError(f"extractor={spec}: the weights lack {len(untrained)} tensors, {names} among them")
    pool = _pooling(spec, network, trust_pooler=not missing)
    network.float()  # whatever precision it was stored in

    def compute(images: Tensor) -> Tensor:
        pixels = [image.permute(1, 2, 0).numpy() for image in to_bytes(images).cpu()]
        inputs = processor(images=pixels, input_data_format="channels_last", return_tensors="pt")
        return pool(inputs["pixel_values"].to(images.device))

    identity = config.to_json_string() + processor.to_json_string() + str(missing)
    return Extractor(network, compute, f"{type(network).__name__} {Path(spec).name}", identity, device)


def _model_class(config: Any) -> Any:
    """AutoModel, except where it would drop the projection into CLIP's joint space."""
    architecture = (config.architectures or [""])[0]
    return getattr(transformers, architecture) if architecture.endswith("WithProjection") else transformers.AutoModel


def _pooling(spec: str, network: Any, trust_pooler: bool) -> Callable[[Tensor], Tensor]:
    """How one vector is read from a vision model.

    In this order: the image embedding of a model with a text side; the pooled output, unless the weights lack the
    pooler, which transformers would fill at random; the class token; the mean over positions.
    """
    if hasattr(network, "get_image_features"):
        return lambda pixels: _pooled(network.get_image_features(pixel_values=pixels))
    if "pixel_values" not in inspect.signature(network.forward).parameters:
        raise ExtractorError(f"extractor={spec}: {type(network).__name__} takes no images; choose a vision model")
    return lambda pixels: _pooled(network(pixel_values=pixels), trust_pooler)


def _pooled(output: Any, trust_pooler: bool = True) -> Any:
    if isinstance(output, Tensor):  # get_image_features of transformers 4
        return output
    embedding = getattr(output, "image_embeds", None)
    if embedding is None and trust_pooler:
        embedding = getattr(output, "pooler_output", None)
    if embedding is not None:
        return embedding.flatten(1)  # convolutional networks pool to (B, D, 1, 1)
    hidden = output.last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else hidden.flatten(2).mean(dim=2)


def _fingerprint(network: nn.Module, identity: str) -> str:
    digest = hashlib.sha256(identity.encode())
    for name, values in sorted(network.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
