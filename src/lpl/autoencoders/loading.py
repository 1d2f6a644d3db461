"""Finding an autoencoder by name: bundled, in a folder, or on the hub."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from .blocks import known_autoencoders
from .codec import Autoencoder
from .features import lay_channels_last
from .taef2 import TAEF2

DEMO = Path(__file__).parent / "weights" / "demo"


def load_autoencoder(
    path: str | Path,
    subfolder: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Autoencoder:
    """Loads an autoencoder with the scaling its configuration asks for.

    Args:
        path: "demo" (bundled, for 64² images), a folder in diffusers' layout, a folder with TAEF2's
            `encoder.safetensors` and `decoder.safetensors`, or a model's name on the hub.
        subfolder: where the autoencoder lies within a pipeline's folder, often "vae".
        dtype: floating-point type of the weights.
        device: where to put them.

    Raises:
        FileNotFoundError: a folder without an autoencoder in it, or a name that is neither a folder nor reachable.
        ValueError: an autoencoder of a kind that is not known, or files that can't be read.
    """
    folder = DEMO if str(path) == "demo" else Path(path)
    inside = folder / subfolder if subfolder else folder
    if (inside / "decoder.safetensors").is_file():
        model: nn.Module = TAEF2.from_folder(inside)
    elif (inside / "config.json").is_file():
        model = _from_diffusers(str(folder), subfolder, _class_name(inside / "config.json"))
    elif folder.exists():
        raise FileNotFoundError(_without_autoencoder(inside, folder))
    else:
        model = _from_hub(str(path), subfolder)
    # nn.Module's own `to`: diffusers' warns that it casts, which is what is asked for.
    nn.Module.to(model, device=device, dtype=dtype)
    lay_channels_last(model)
    return Autoencoder(model)


def _without_autoencoder(folder: Path, pipeline: Path) -> str:
    """What a folder lacks, and where the autoencoder is if this is a pipeline's folder or within one."""
    lacks = f"{folder}: holds neither config.json (diffusers) nor decoder.safetensors (TAEF2)"
    for config in sorted(pipeline.glob("*/config.json")):
        with suppress(ValueError):
            if _settings(config).get("_class_name") in known_autoencoders():
                return f"{lacks}; there is an autoencoder in {config.parent}: give subfolder: {config.parent.name}"
    return lacks


def _class_name(config: Path) -> str:
    return str(_settings(config).get("_class_name", "AutoencoderKL"))


def _settings(config: Path) -> dict[str, Any]:
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config}: is not JSON ({error}); download or save the autoencoder again") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{config}: holds a {type(settings).__name__}, takes an autoencoder's settings by name")
    return settings


def _from_diffusers(path: str, subfolder: str | None, class_name: str) -> nn.Module:
    import diffusers

    if class_name not in known_autoencoders() or not hasattr(diffusers, class_name):
        allowed = ", ".join(name for name in known_autoencoders() if hasattr(diffusers, name))
        raise ValueError(f"{path}: its config.json names the class {class_name}, takes {allowed}")
    place = f"{path}/{subfolder}" if subfolder else path
    try:
        return getattr(diffusers, class_name).from_pretrained(path, subfolder=subfolder)
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{place}: holds no {class_name} that can be loaded ({error}); its weights may be missing or cut short: "
            "download or save the autoencoder again"
        ) from error


def _from_hub(name: str, subfolder: str | None) -> nn.Module:
    from huggingface_hub import hf_hub_download

    config = f"{subfolder}/config.json" if subfolder else "config.json"
    try:
        class_name = _class_name(Path(hf_hub_download(name, config)))
    except Exception as error:
        raise FileNotFoundError(
            f"autoencoder {name!r}: not a folder here, and not fetched from the hub as {config} ({error})"
        ) from error
    return _from_diffusers(name, subfolder, class_name)
