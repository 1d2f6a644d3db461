"""Autoencoders: which blocks their decoders have, the features inside, latent scaling, and loading."""

from .blocks import DecoderLayout, known_autoencoders, register_layout
from .codec import Autoencoder
from .features import DecoderFeatures
from .frozen import frozen_copy
from .loading import load_autoencoder
from .scaling import LatentScaling, scaling_of
from .taef2 import TAEF2

__all__ = [
    "TAEF2",
    "Autoencoder",
    "DecoderFeatures",
    "DecoderLayout",
    "LatentScaling",
    "frozen_copy",
    "known_autoencoders",
    "load_autoencoder",
    "register_layout",
    "scaling_of",
]
