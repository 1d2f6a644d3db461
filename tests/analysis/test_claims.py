from __future__ import annotations

import numpy as np
import pytest

from lpl.analysis.claims import check_claims, claimed_pairs
from lpl.analysis.variants import METHODS, plan_variants

VARIANTS = plan_variants(16, 128, (1.3, 2.0))


def column(name: str) -> int:
    return next(index for index, variant in enumerate(VARIANTS) if variant.name == name)


def test_pairs_are_the_appendixs() -> None:
    assert [(better.name, worse.name) for better, worse in claimed_pairs(VARIANTS)] == [
        ("latent-nearest-1.3", "latent-bilinear-1.3"),
        ("latent-nearest-2", "latent-bilinear-2"),
        ("latent-bicubic-1.3", "latent-bilinear-2"),
    ]
    without = plan_variants(16, 128, (1.5,))
    assert [better.name for better, _ in claimed_pairs(without)] == ["latent-nearest-1.5"]


def test_shares_are_counts_over_images() -> None:
    """Four images: nearest's latent MSE is higher in three, its damage less in two, of which one is among the three."""
    latent_mse, features, harm = (np.ones((4, len(VARIANTS))) for _ in range(3))
    nearest = column("latent-nearest-2")
    latent_mse[:, nearest] = [2, 2, 2, 0.5]
    harm[:, nearest] = [0.5, 2, 2, 0.5]
    features[:, nearest] = [0.5, 2, 0.5, 0.5]
    claim = check_claims(VARIANTS, latent_mse, features, {"gmsd": harm})[1]
    assert (claim.better.name, claim.worse.name) == ("latent-nearest-2", "latent-bilinear-2")
    assert claim.higher_mse.mean == 0.75
    assert claim.less_damage["gmsd"].mean == 0.5
    assert claim.contradicted["gmsd"].mean == 0.25
    assert claim.by_features["gmsd"].mean == 0.75
    assert claim.less_damage["gmsd"].low < 0.5 < claim.less_damage["gmsd"].high


@pytest.mark.parametrize("higher", [True, False])
def test_a_claim_that_always_or_never_holds_is_not_certain(higher: bool) -> None:
    """Wilson's interval for 0 of 5 ends at z²/(n + z²), that for 5 of 5 begins at n/(n + z²)."""
    latent_mse = np.ones((5, len(VARIANTS)))
    latent_mse[:, [VARIANTS.index(v) for v in VARIANTS if v.method == METHODS[1]]] = 2.0 if higher else 0.5
    claim = check_claims(VARIANTS, latent_mse, latent_mse, {"gmsd": latent_mse})[0]
    square = 1.959964**2
    expected = (5 / (5 + square), 1.0) if higher else (0.0, square / (5 + square))
    assert (claim.higher_mse.low, claim.higher_mse.high) == pytest.approx(expected, abs=1e-5)
    assert claim.contradicted["gmsd"].mean == 0
