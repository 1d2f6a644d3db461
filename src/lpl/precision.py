"""Whether bfloat16 is the fast type on this machine: what `precision: auto` in recipes depends on.

PyTorch computes with bfloat16 everywhere, but by way of float32 where the processor has no instructions for it. On two
cores with AVX2 alone, training the demo's denoiser takes ten times as long in bfloat16 as in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

# Of x86 (AVX-512 BF16, AMX) and ARM, as PyTorch names them.
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def resolved(value: str, half: str, full: str) -> str:
    """What a recipe's precision stands for: "auto" for `half`, its word for bfloat16, or for `full`, float32's."""
    if value != "auto":
        return value
    return half if bfloat16_is_fast() else full


def slow_precisions(settings: Mapping[str, str]) -> list[str]:
    """What to tell someone who is about to compute: a sentence for each setting that this machine is slow at.

    Args:
        settings: precisions, by the keys that a recipe has for them.
    """
    return [
        f"{key}={value}: this machine has no instructions for bfloat16, and takes several times as long with it as "
        f"with float32; {key}=auto chooses what a machine is fast at"
        for key, value in settings.items()
        if value in ("bf16", "bfloat16") and not bfloat16_is_fast()
    ]


@functools.cache
def bfloat16_is_fast() -> bool:
    """Whether what this machine computes on has instructions for bfloat16: its GPU where there is one, else its CPU."""
    import torch  # here, because recipes are read by commands that compute nothing

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():  # of others it is not known
        return False
    capabilities = _processor_capabilities()
    return any(capabilities.get(name, False) for name in INSTRUCTIONS)


def _processor_capabilities() -> Mapping[str, Any]:
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    told = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # all that PyTorch told before
    return {"avx512_bf16": told is not None and told()}
