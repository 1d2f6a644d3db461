"""A trained classifier of latents in a folder, in whose features `LatentLPIPS` compares.

The folder holds model.safetensors and classifier.json: the architecture, the settings, what the latents were, and the
accuracy on held-out images. A classifier knows one latent space and is refused for another autoencoder's latents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import LplError
from ..losses.latent_vgg import LatentVGG

FORMAT = 1  # of classifier.json
DESCRIPTION = "classifier.json"
WEIGHTS = "model.safetensors"


class ClassifierError(LplError, ValueError):
    """A classifier that is missing, damaged, or of other latents; the message names the folder."""


def load_latent_classifier(folder: str | Path, autoencoder: str | None = None) -> tuple[LatentVGG, dict[str, Any]]:
    """A trained classifier, and what its classifier.json says.

    Args:
        folder: as `lpl train-latent-classifier` wrote it.
        autoencoder: fingerprint of the autoencoder whose latents it is meant for; None does not compare.

    Raises:
        ClassifierError: there is none in the folder, it is damaged, or it was trained on another one's latents.
    """
    folder = Path(folder).expanduser()
    about = read_description(folder)
    trained_on = about["latents"]["autoencoder"]
    if autoencoder is not None and trained_on != autoencoder:
        raise ClassifierError(
            f"{folder}: was trained on the latents of another autoencoder (fingerprint {trained_on}, in "
            f"{about['latents']['precision']}) than the recipe's ({autoencoder}); distances in its features would mean "
            "nothing. Train one with `lpl train-latent-classifier`, or set classifier=null"
        )
    model = LatentVGG(**about["architecture"])
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ClassifierError(f"{folder / WEIGHTS}: is missing or damaged ({error})") from error
    return model.requires_grad_(False).eval(), about


def read_description(folder: Path) -> dict[str, Any]:
    """A folder's classifier.json.

    Raises:
        ClassifierError: there is none, or it is not what this version writes.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise ClassifierError(f"{folder}: holds no classifier of latents; `lpl train-latent-classifier` writes one")
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ClassifierError(f"{file}: is damaged ({error})") from None
    if about.get("format") != FORMAT:
        raise ClassifierError(f"{file}: is of format {about.get('format')}, and this version reads {FORMAT}")
    return about
