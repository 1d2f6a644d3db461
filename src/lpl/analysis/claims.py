"""The sentences of appendix A.2 about Figure 11, counted.

The appendix compares pairs of pictures: "nearest interpolation results in the highest MSE", yet looks better than
bilinear; bicubic at s = 1.3 has a higher MSE than bilinear at s = 2 and still looks better. Each is a count over
images: how often the latent MSE ranks the pair as said, how often a measure of damage does, and how often both at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .statistics import Interval, share_interval
from .variants import Method, Variant

Floats = npt.NDArray[np.float64]

BICUBIC, BILINEAR = 1.3, 2.0  # the scales of the appendix's second example


@dataclass(frozen=True)
class Claim:
    """One pair of pictures of which the appendix says that the first looks better in spite of its higher latent MSE.

    Attributes:
        better: said to look better.
        worse: said to look worse.
        higher_mse: share of images in which `better` has the higher latent MSE.
        less_damage: damage → share of images in which `better` has less of it.
        contradicted: damage → share of images in which both hold, so that the latent MSE ranks the pair wrongly.
        by_features: damage → share of images in which the decoder's features rank the pair as the damage does.
    """

    better: Variant
    worse: Variant
    higher_mse: Interval
    less_damage: dict[str, Interval]
    contradicted: dict[str, Interval]
    by_features: dict[str, Interval]


def claimed_pairs(variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """The appendix's pairs (better, worse) among some variants: nearest and bilinear at each s; its second example.

    Pairs of which one is missing are left out.
    """
    by_key: dict[tuple[Method, float], Variant] = {(entry.method, entry.scale): entry for entry in variants}
    scales = sorted({entry.scale for entry in variants})
    keys: list[tuple[tuple[Method, float], tuple[Method, float]]] = [
        *((("latent-nearest", scale), ("latent-bilinear", scale)) for scale in scales),
        (("latent-bicubic", BICUBIC), ("latent-bilinear", BILINEAR)),
    ]
    return [(by_key[first], by_key[second]) for first, second in keys if first in by_key and second in by_key]


def check_claims(
    variants: Sequence[Variant], latent_mse: Floats, features: Floats, damages: Mapping[str, Floats]
) -> tuple[Claim, ...]:
    """Counts over images how often each of the appendix's sentences holds.

    Args:
        variants: V of them, naming the columns of what follows.
        latent_mse: (N, V).
        features: distance of the decoder's features, (N, V).
        damages: name → (N, V), higher is worse.
    """
    column = {variant: index for index, variant in enumerate(variants)}
    return tuple(
        _check(better, worse, column[better], column[worse], latent_mse, features, damages)
        for better, worse in claimed_pairs(variants)
    )


def _check(
    better: Variant,
    worse: Variant,
    first: int,
    second: int,
    latent_mse: Floats,
    features: Floats,
    damages: Mapping[str, Floats],
) -> Claim:
    higher = latent_mse[:, first] > latent_mse[:, second]
    nearer = features[:, first] < features[:, second]
    less = {name: values[:, first] < values[:, second] for name, values in damages.items()}
    return Claim(
        better=better,
        worse=worse,
        higher_mse=share_interval(higher),
        less_damage={name: share_interval(found) for name, found in less.items()},
        contradicted={name: share_interval(higher & found) for name, found in less.items()},
        by_features={name: share_interval(nearer == found) for name, found in less.items()},
    )
