"""Functions by the hardware's own approximations, good to a few units of float32's last place.

Triton's functions add instructions for subnormal numbers, several for each that computes. What comes of those is zero
here.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

INLINE = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # the interpreter knows no assembly
# 1/(1 + 2^(−x·log₂e))
_SIGMOID = tl.constexpr("""{
    .reg .f32 power;
    mul.f32 power, $1, 0fBFB8AA3B;
    ex2.approx.ftz.f32 power, power;
    add.f32 power, power, 0f3F800000;
    rcp.approx.ftz.f32 $0, power;
}""")


@triton.jit
def sigmoid(x):
    """1/(1 + e^(−x)) of float32."""
    if INLINE:
        return tl.inline_asm_elementwise(_SIGMOID, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.sigmoid(x)
