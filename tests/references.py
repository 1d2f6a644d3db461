"""Independent evaluations that several tests compare with."""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy import ndimage


def appendix_listing(features: np.ndarray, down_f: float) -> np.ndarray:
    """Algorithm 1 in NumPy and SciPy, step by step as printed; (H, W) → mask."""
    opening, closing = ceil(5 / down_f), ceil(3 / down_f)
    opening = 3 if opening == 2 else opening
    closing = 1 if closing == 2 else closing
    ordered = np.sort(features, axis=None)
    k1, k2 = int(features.size * 0.02), int(features.size * (1 - 0.02))
    q1, q2 = ordered[k1 - 1], ordered[k2 - 1]
    margin = 2 * features.std(ddof=1)
    mask = ((q1 - margin < features) & (features < q2 + margin)).astype(float)
    mask = ndimage.maximum_filter(mask, closing, mode="constant", cval=-np.inf)
    mask = ndimage.minimum_filter(mask, opening, mode="constant", cval=np.inf)
    return mask.astype(bool)
