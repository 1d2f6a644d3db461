"""Denoisers: the class-conditional MMDiT that is trained here, and adapters to published diffusers models.

The adapters are imported from `lpl.denoisers.adapters`: they load many of diffusers' models, which takes seconds.
"""

from lpl.denoisers.mmdit import PRESETS, ClassConditionalMMDiT, Preset, count_parameters

__all__ = ["PRESETS", "ClassConditionalMMDiT", "Preset", "count_parameters"]
