"""The rules of `lpl calibrate`, on measurements made up so that the right answer is known."""

from __future__ import annotations

import pytest
import torch

from lpl.analysis.advice import (
    advise_blocks,
    advise_comparison,
    advise_depth_weights,
    advise_mask,
    advise_threshold,
    advise_weight,
    choose_comparison,
    paper_weight_warning,
    zero_crossing,
)
from lpl.analysis.costs import BlockCost
from lpl.analysis.distances import Comparison
from lpl.analysis.features import BlockFeatures, ChannelFeatures, FeatureStudy
from lpl.analysis.gradients import COMPARISONS, PRINTED, GradientStudy
from lpl.analysis.mixture import NoiseMixture, gradient_ratio, matched_weight, weights_of

SIGMAS = torch.tensor([0.1, 1.0, 3.0, 9.0], dtype=torch.float64)
BLOCKS = ("a", "b", "c")
OPEN = NoiseMixture(torch.tensor([[0.0, 0.25]] * 4, dtype=torch.float64))


def study(
    strengths: tuple[float, ...] = (1.0, 1.0, 1.0),
    concentrated: dict[str, float] | None = None,
    features: tuple[float, ...] = (0.9, 0.7, 0.3, -0.2),
    omega: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> GradientStudy:
    """Orthogonal gradients of the given lengths, the same at every noise; 5 images."""
    gram = torch.zeros(4, 5, 5, 5, dtype=torch.float64)
    gram[..., :3, :3] = torch.diag(torch.tensor(strengths, dtype=torch.float64).square())
    gram[..., 3, 3] = gram[..., 4, 4] = 64.0
    loss = torch.linspace(1, 2, 5, dtype=torch.float64)[None, :, None].expand(4, 5, 3).clone()
    loss = loss * torch.arange(1, 5, dtype=torch.float64)[:, None, None]
    names = [entry.name for entry in (PRINTED, *COMPARISONS)]
    shares = {name: (concentrated or {}).get(name, 0.2) for name in names}
    return GradientStudy(
        blocks=BLOCKS,
        omega=torch.tensor(omega, dtype=torch.float64),
        sigmas=SIGMAS,
        slope=torch.ones(4, dtype=torch.float64),
        values=64,
        latent_variance=2.0,
        loss=loss,
        gram=gram,
        feature_reliability=torch.tensor(features, dtype=torch.float64)[:, None].expand(4, 3),
        by_comparison={name: torch.ones(4, 3) for name in names},
        concentration={
            name: torch.tensor([0.1, share, share, share])[:, None].expand(4, 3) for name, share in shares.items()
        },
        predictor="made up",
    )


def block(masked_energy: list[float], kept_kurtosis: list[float], down_f: float) -> BlockFeatures:
    count = len(masked_energy)
    values = {name: torch.zeros(count) for name in ChannelFeatures.__dataclass_fields__}
    values |= {"masked_energy": torch.tensor(masked_energy), "kept_kurtosis": torch.tensor(kept_kurtosis)}
    values["masked_share"] = torch.full((count,), 0.01)
    return BlockFeatures(
        ChannelFeatures(**values), (8, 8), down_f, down_f <= 2, torch.ones(3), torch.ones(3), 1.0, torch.arange(count)
    )


@pytest.mark.parametrize(
    ("shallow", "deep", "expected"),
    [
        (([0.0, 0.0], [0.1, 0.2]), ([0.5, 0.0], [0.1, 0.3]), "deep"),  # outliers in a deep block: the paper's
        (([0.0, 0.0], [0.1, 0.2]), ([0.0, 0.0], [0.1, 0.3]), "deep"),  # nothing masked anywhere: the paper's
        (([0.4, 0.0], [0.1, 0.2]), ([0.5, 0.0], [0.1, 0.3]), "all"),  # outliers everywhere
        (([0.0, 0.0], [0.1, 0.2]), ([0.3, 0.4], [8.0, 9.0]), "none"),  # sparse features: their tail is no outlier
    ],
)
def test_the_mask_goes_where_outliers_are(shallow, deep, expected: str) -> None:
    advice = advise_mask(FeatureStudy({"mid": block(*shallow, 8.0), "up": block(*deep, 1.0)}, ()))
    assert advice.value == expected
    assert bool(advice.warning) == (expected != "deep")
    if expected == "none":
        assert "masking the deep blocks would hide 35% of a block's energy" in advice.warning


def test_healthy_features_keep_the_papers_normalisation() -> None:
    measured = study()
    chosen = choose_comparison(measured)
    assert chosen == Comparison("prediction", 1e-3)
    normalization, floor = advise_comparison(measured, chosen)
    assert (normalization.value, normalization.warning) == ("prediction", "")
    assert (floor.value, floor.warning) == (1e-3, "")


def test_magnified_channels_raise_the_floor_first() -> None:
    measured = study(concentrated={PRINTED.name: 0.99, "prediction, floor 0.001": 0.8})
    chosen = choose_comparison(measured)
    assert chosen == Comparison("prediction", 1e-2)
    normalization, floor = advise_comparison(measured, chosen)
    assert normalization.warning == ""
    assert "a tenth of the channels hold 99% of block a's distance at σ = 1" in floor.warning


def test_then_another_normalisation() -> None:
    bad = {entry.name: 0.8 for entry in (PRINTED, *COMPARISONS) if entry.normalization in ("prediction", "target")}
    measured = study(concentrated=bad)
    chosen = choose_comparison(measured)
    assert chosen.normalization == "unit"
    warning = advise_comparison(measured, chosen)[0].warning
    assert "whatever the floor (floor 0.001: 80%; floor 0.01: 80%; floor 0.1: 80%)" in warning


def test_the_least_bad_where_none_is_good() -> None:
    measured = study(concentrated={entry.name: 0.9 for entry in COMPARISONS})
    assert "too much, but nothing else tried" in advise_comparison(measured, choose_comparison(measured))[0].reason


def test_the_threshold_is_the_papers_where_features_last() -> None:
    advice = advise_threshold(study(), COMPARISONS[0])
    assert advice.value == 3.0
    assert advice.warning == ""
    assert "explains at least 50% of the latents' variance and its features 30%" in advice.reason  # 1 − (64/64)/2


def test_the_threshold_is_where_features_fail() -> None:
    advice = advise_threshold(study(features=(0.9, 0.5, -0.5, -0.9)), COMPARISONS[0])
    assert advice.value == pytest.approx(3**0.5, rel=0.02)  # halfway from 1 to 3 on a logarithmic scale
    assert "its features 0% of the features'" in advice.warning


def test_the_threshold_ends_where_the_normalisation_does() -> None:
    advice = advise_threshold(study(concentrated={COMPARISONS[0].name: 0.9}), COMPARISONS[0])
    assert advice.value == 0.1
    assert "hold over 60% of a block's distance" in advice.reason


COSTS = {name: BlockCost(0, 0, 0.1, flops) for name, flops in zip(BLOCKS, (1.0, 2.0, 7.0), strict=True)}


def test_every_block_stays_that_earns_its_cost() -> None:
    advice = advise_blocks(study(), OPEN, COSTS)
    assert advice.value is None
    assert "no last block costs much" in advice.reason
    assert "c: 33% of the gradient for 70% of the cost" in advice.reason


def test_a_last_block_that_costs_much_and_adds_nothing_goes() -> None:
    advice = advise_blocks(study(strengths=(1.0, 1.0, 0.1)), OPEN, COSTS)
    assert advice.value == ["a", "b"]
    assert "c would take 70% of the loss's cost" in advice.warning


def test_a_weak_block_in_between_stays_for_it_costs_nothing_more() -> None:
    assert advise_blocks(study(strengths=(1.0, 0.1, 1.0)), OPEN, COSTS).value is None


def test_depth_weights_go_where_they_silence_blocks() -> None:
    assert advise_depth_weights(study(), OPEN, BLOCKS).value is True
    tapered = study(omega=(1.0, 0.1, 0.01))
    advice = advise_depth_weights(tapered, OPEN, BLOCKS)
    assert advice.value is False
    assert "1.1 of 3 blocks in effect with ω_l = r_1/r_l, from 3.0 with ω_l = 1" in advice.reason


def test_the_weight_is_at_gradient_parity() -> None:
    measured = study(strengths=(0.5, 0.0, 0.0))
    advice = advise_weight(measured, OPEN, BLOCKS, True)
    weights = weights_of(measured, BLOCKS)
    parity = 2 * 8 / 64 / 0.5  # ‖∇ℓ2‖ = 2/d·‖e‖ with ‖e‖ = 8, d = 64
    assert gradient_ratio(measured, weights, OPEN) == pytest.approx(1 / parity)
    assert advice.value == parity
    matched = matched_weight(measured, weights, OPEN)
    assert f"already at w = {matched:.2g}" in advice.reason


def test_the_papers_weight_is_judged_by_its_gradient() -> None:
    assert paper_weight_warning(study(strengths=(1 / 12, 0, 0)), OPEN) == ""  # a ratio of 1 at w = 3
    assert "in means over positions, swamps the diffusion loss: gradient ratio 1e+02" in paper_weight_warning(
        study(strengths=(25 / 3, 0, 0)), OPEN
    )
    assert "hardly adds to the diffusion loss" in paper_weight_warning(study(strengths=(1e-3, 0, 0)), OPEN)


def test_zero_crossings() -> None:
    sigmas = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    assert zero_crossing(sigmas, torch.tensor([1.0, 1.0, -1.0])) == pytest.approx(10**1.5)
    assert zero_crossing(sigmas, torch.tensor([1.0, 0.5, 0.1])) == 100.0
    assert zero_crossing(sigmas, torch.tensor([-1.0, 0.5, 0.1])) == 1.0
