"""`kind: latent_lpips`, a distance between the features of a classifier of latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...autoencoders import Autoencoder
from ...config import LatentLPIPSConfig
from ...losses.latent_lpips import PUBLISHED, LatentLPIPS
from ..latent_classifier import load_latent_classifier
from .base import LatentPrediction, TermError, TermParts, Terms, TermValues

PUBLISHED_NAME = "elatentlpips"
SCALINGS = {  # (latent channels, scaling_factor) → encoder of the published weights
    (4, 0.18215): "sd15",
    (4, 0.13025): "sdxl",
    (16, 1.5305): "sd3",
    (16, 0.3611): "flux",
}


class LatentLPIPSTerm:
    """With a classifier of one's own, or with the published weights."""

    def __init__(self, config: LatentLPIPSConfig, parts: TermParts) -> None:
        dtype = getattr(torch, config.precision)
        if config.classifier == PUBLISHED_NAME:
            encoder = config.encoder or _encoder_of(parts.autoencoder)
            try:
                loss = LatentLPIPS.published(encoder, config.sigma_threshold, dtype)
            except ImportError as error:
                raise TermError(f"classifier={PUBLISHED_NAME}: {error}") from None
            _check_channels(PUBLISHED[encoder], parts.autoencoder, encoder)
            self.facts: Mapping[str, Any] = {"published_encoder": encoder}
        else:
            folder = config.classifier
            if folder is None:
                if parts.classifier is None:
                    raise ValueError("classifier: got None; LatentLPIPS needs the classifier it compares in")
                folder = str(parts.classifier(config.classifier_training))
            fingerprint = parts.autoencoder.fingerprint() if parts.autoencoder is not None else None
            classifier, about = load_latent_classifier(folder, fingerprint)
            loss = LatentLPIPS(classifier, config.sigma_threshold, dtype=dtype)
            self.facts = {"classifier": about["weights_sha256"], "classifier_accuracy": about["accuracy"]}
        self.loss = loss.to(parts.device)

    def __call__(self, prediction: LatentPrediction) -> TermValues:
        """See `PerceptualTerm`."""
        terms = self.loss(prediction.predicted, prediction.clean, prediction.sigma, return_terms=True)
        details: Terms = {f"loss/perceptual/{name}": value for name, value in terms.layers.items()}
        if self.loss.sigma_threshold is not None:
            details["passed"] = terms.passed / len(prediction.sigma)
        return TermValues(terms.loss, terms.per_sample, details)


def _encoder_of(autoencoder: Autoencoder | None) -> str:
    """Whose published weights suit an autoencoder's latents, by its scaling."""
    if autoencoder is None:
        raise ValueError("encoder: got None; name it where there is no autoencoder to tell it from")
    factor = round(1 / autoencoder.scaling.std.flatten()[0].item(), 5)
    encoder = SCALINGS.get((autoencoder.latent_channels, factor)) if autoencoder.scaling.std.numel() == 1 else None
    if encoder is None:
        raise TermError(
            f"classifier={PUBLISHED_NAME}: the published weights are for the latents of "
            f"{', '.join(PUBLISHED)}, and the autoencoder's ({autoencoder.latent_channels} channels, scaled by "
            f"{factor:g}) are none of those; set encoder where it is one of them nevertheless, or "
            "classifier=null to train one"
        )
    return encoder


def _check_channels(channels: int, autoencoder: Autoencoder | None, encoder: str) -> None:
    if autoencoder is not None and autoencoder.latent_channels != channels:
        raise TermError(
            f"encoder={encoder}: its latents have {channels} channels, and the autoencoder's have "
            f"{autoencoder.latent_channels}"
        )
