"""Denoisers: the class-conditional MMDiT that is trained here, and adapters to published diffusers models."""

from lpl.denoisers.adapters import Adapter, adapt, register, supported_models
from lpl.denoisers.mmdit import PRESETS, ClassConditionalMMDiT, Preset, count_parameters

__all__ = [
    "PRESETS",
    "Adapter",
    "ClassConditionalMMDiT",
    "Preset",
    "adapt",
    "count_parameters",
    "register",
    "supported_models",
]
