"""Finding an autoencoder by name: bundled, in a folder, or on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
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
        ValueError: an autoencoder of a kind that is not known.
    """
    folder = DEMO if str(path) == "demo" else Path(path)
    inside = folder / subfolder if subfolder else folder
    if (inside / "decoder.safetensors").is_file():
        model: nn.Module = TAEF2.from_folder(inside)
    elif (inside / "config.json").is_file():
        model = _from_diffusers(str(folder), subfolder, _class_name(inside / "config.json"))
    elif folder.exists():
        raise FileNotFoundError(f"{inside}: holds neither config.json (diffusers) nor decoder.safetensors (TAEF2)")
    else:
        model = _from_hub(str(path), subfolder)
    # nn.Module's own `to`: diffusers' warns that it casts, which is what is asked for.
    nn.Module.to(model, device=device, dtype=dtype)
    lay_channels_last(model)
    return Autoencoder(model)


def _class_name(config: Path) -> str:
    return str(json.loads(config.read_text(encoding="utf-8")).get("_class_name", "AutoencoderKL"))


def _from_diffusers(path: str, subfolder: str | None, class_name: str) -> nn.Module:
    import diffusers

    if class_name not in known_autoencoders() or not hasattr(diffusers, class_name):
        allowed = ", ".join(name for name in known_autoencoders() if hasattr(diffusers, name))
        raise ValueError(f"{path}: its config.json names the class {class_name}, takes {allowed}")
    return getattr(diffusers, class_name).from_pretrained(path, subfolder=subfolder)


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
