"""From measurements to settings of the latent perceptual loss, each with its reason.

Every rule is one function that returns one `Advice`; what it takes for granted is a constant below, with why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .costs import BlockCost
from .distances import Comparison, Masked
from .features import BlockFeatures, FeatureStudy
from .gradients import COMPARISONS, PRINTED, GradientStudy
from .mixture import (
    NoiseMixture,
    block_shares,
    gradient_ratio,
    gradient_ratios,
    matched_weight,
    typical_ratio,
    weights_of,
)

PAPER: dict[str, Any] = {
    "outliers": "deep",
    "normalization": "prediction",
    "variance_floor": 0.0,
    "sigma_threshold": 3.0,
    "blocks": None,
    "depth_weights": True,
    "weight": 3.0,
}
LAPLACE = 3.0  # excess kurtosis of a Laplace distribution: kept activations with more have no outliers but a heavy tail
CONCENTRATED = 0.6  # a tenth of the channels with more of a block's loss than this are magnified, not compared
CHEAP_SHARE, DEAR_SHARE = 0.02, 0.25  # a last block with less of the gradient and more of the cost is not worth it
LONELY = 1.5  # effective number of blocks below which ω_l = r_1/r_l leaves the loss to one of them
NOTABLE = 0.01  # share of a block's energy on masked positions from which on it is worth a word
MARGIN = 0.05  # energy, summed over blocks, that another mask must gain over the paper's
FRACTION = 0.1  # of Var(ℓ2), the appendix's (A.4)
PARITY = 1.0  # ‖∇ w·L_LPL‖ over ‖∇ L_diff‖ at the denoiser's output; beyond, the diffusion loss no longer leads


@dataclass(frozen=True)
class Advice:
    """One setting.

    Attributes:
        setting: key of `PerceptualConfig`.
        value: what to set it to.
        paper: the paper's value.
        reason: why, in a sentence with numbers.
        warning: what the paper's value would have done here; empty where it does well.
    """

    setting: str
    value: Any
    paper: Any
    reason: str
    warning: str = ""


def advise_mask(study: FeatureStudy) -> Advice:
    """Which blocks to mask: where Algorithm 1 removes outliers, not where it cuts the tail of sparse features.

    The algorithm presumes activations that are about normal but for the outliers. A channel whose kept activations
    have an excess kurtosis above a Laplace distribution's is not of that kind.
    """
    gains = {name: _mask_gain(block) for name, block in study.blocks.items()}
    deep = [name for name, block in study.blocks.items() if block.masked_by_default]
    scores: dict[Masked, float] = {
        "deep": sum(gains[name] for name in deep),
        "all": sum(gains.values()),
        "none": 0.0,
    }
    best = max(scores, key=lambda option: scores[option] + (MARGIN if option == PAPER["outliers"] else 0.0))
    masked = {name: block for name, block in study.blocks.items() if _masked_energy(block) >= NOTABLE}
    details = "; ".join(_describe_mask(name, block) for name, block in masked.items()) or "hardly anything is masked"
    reasons = {
        "deep": "what Algorithm 1 masks in the deep blocks are outliers, or next to nothing",
        "all": "shallow blocks have outliers too",
        "none": "what Algorithm 1 would mask is the tail of sparse features, not outliers",
    }
    warning = ""
    if best != PAPER["outliers"]:
        lost = max((study.blocks[name] for name in deep), key=_masked_energy, default=None)
        energy = 0.0 if lost is None else _masked_energy(lost)
        warning = (
            f"masking the deep blocks would hide {energy:.0%} of a block's energy from the loss"
            if best == "none"
            else "masking the deep blocks alone would leave the shallow blocks' outliers in the loss"
        )
    return Advice("outliers", best, PAPER["outliers"], f"{reasons[best]} ({details})", warning)


def _mask_gain(block: BlockFeatures) -> float:
    """Energy removed from channels that are near normal otherwise, less that removed from heavy-tailed ones."""
    channels = block.channels
    sign = torch.where(channels.kept_kurtosis <= LAPLACE, 1.0, -1.0)
    return float((sign * channels.masked_energy).mean())


def _masked_energy(block: BlockFeatures) -> float:
    return float(block.channels.masked_energy.mean())


def _describe_mask(name: str, block: BlockFeatures) -> str:
    share = float(block.channels.masked_share.mean())
    kurtosis = float(block.channels.kept_kurtosis.median())
    return f"{name}: {share:.2%} of positions with {_masked_energy(block):.0%} of the energy, kurtosis {kurtosis:.1f}"


def choose_comparison(study: GradientStudy) -> Comparison:
    """The first of `COMPARISONS` under which no few channels take over a block's loss.

    Dividing by a standard deviation magnifies channels that hardly vary; a tenth of the channels that hold most of a
    block's distance show it. Judged up to the noise at which ẑ0 stops being of use, or the paper's threshold.
    """
    needed = needed_until(study)
    limits = {entry: stable_until(study, entry, study.blocks) for entry in COMPARISONS}
    stable = [entry for entry in COMPARISONS if limits[entry] >= needed]
    return stable[0] if stable else max(COMPARISONS, key=lambda entry: limits[entry])


def advise_comparison(study: GradientStudy, chosen: Comparison) -> tuple[Advice, Advice]:
    """The normalisation and its variance floor, as `choose_comparison` found them."""
    needed = needed_until(study)
    held = {entry: _held(study, entry, needed) for entry in (PRINTED, *COMPARISONS)}
    reason = f"up to σ = {needed:.2g} a tenth of the channels hold at most {held[chosen]:.0%} of any block's distance"
    if held[chosen] > CONCENTRATED:
        reason += f", too much, but nothing else tried stays below {CONCENTRATED:.0%} for longer"
    floors = [entry for entry in COMPARISONS if entry.normalization == PAPER["normalization"]]
    tried = "; ".join(f"floor {entry.variance_floor:g}: {held[entry]:.0%}" for entry in floors)
    replaced = chosen.normalization != PAPER["normalization"]
    warning = f"by the prediction they would hold more, whatever the floor ({tried})" if replaced else ""
    normalization = Advice("normalization", chosen.normalization, PAPER["normalization"], reason, warning)
    return normalization, _advise_floor(study, chosen, held[PRINTED], needed)


def _advise_floor(study: GradientStudy, chosen: Comparison, printed: float, needed: float) -> Advice:
    matters = chosen.normalization not in ("unit", "none")
    reason = "keeps channels that hardly vary from being magnified" if matters else "this normalisation has none"
    warning = ""
    if printed > CONCENTRATED:
        sigma, block = _worst_block(study, PRINTED, needed)
        warning = (
            f"the equation as printed lets a tenth of the channels hold {printed:.0%} of block {block}'s distance at "
            f"σ = {sigma:.2g}"
        )
    return Advice("variance_floor", chosen.variance_floor, PAPER["variance_floor"], reason, warning)


def needed_until(study: GradientStudy) -> float:
    """Up to which σ the loss has to behave: where ẑ0 is of use, and not beyond the paper's threshold."""
    return min(reliable_until(study, study.blocks), PAPER["sigma_threshold"])


def stable_until(study: GradientStudy, comparison: Comparison, blocks: Sequence[str]) -> float:
    """Largest measured σ up to which no block's loss is concentrated on a tenth of its channels; 0 if none."""
    columns = [study.blocks.index(name) for name in blocks]
    fine = (study.concentration[comparison.name][:, columns] <= CONCENTRATED).all(dim=1)
    count = int(fine.long().cumprod(dim=0).sum())
    return float(study.sigmas[count - 1]) if count else 0.0


def _held(study: GradientStudy, comparison: Comparison, limit: float) -> float:
    """Largest share of a block's distance on a tenth of its channels, up to σ = limit."""
    return float(_within(study, study.concentration[comparison.name], limit).max())


def reliable_until(study: GradientStudy, blocks: Sequence[str]) -> float:
    """σ at which ẑ0's features, weighted by ω_l, explain nothing of the true features' variance any more.

    Interpolated on a logarithmic scale; the largest measured σ where they always explain something.
    """
    weights = weights_of(study, blocks)
    return zero_crossing(study.sigmas, study.feature_reliability @ weights / weights.sum())


def zero_crossing(sigmas: Tensor, values: Tensor) -> float:
    """First σ at which values turn negative, interpolated; the last σ if none does, the first if all are."""
    below = (values < 0).nonzero().flatten()
    if len(below) == 0:
        return float(sigmas[-1])
    last = int(below[0])
    if last == 0:
        return float(sigmas[0])
    share = float(values[last - 1] / (values[last - 1] - values[last]))
    return float(sigmas[last - 1] * (sigmas[last] / sigmas[last - 1]) ** share)


def _within(study: GradientStudy, values: Tensor, limit: float) -> Tensor:
    """Rows (σ) of values up to a limit, the first at least."""
    return values[: max(1, int((study.sigmas <= limit + 1e-9).sum()))]


def _worst_block(study: GradientStudy, comparison: Comparison, limit: float) -> tuple[float, str]:
    values = _within(study, study.concentration[comparison.name], limit)
    row, column = divmod(int(values.argmax()), values.shape[1])
    return float(study.sigmas[row]), study.blocks[column]


def advise_threshold(study: GradientStudy, comparison: Comparison) -> Advice:
    """τ_σ: where ẑ0's features stop being nearer to the true ones than the mean feature is, the paper's 3 at the most.

    Beyond the paper's value nobody has tested the loss, so that a denoiser that is reliable for longer changes nothing.
    """
    reliable, stable = reliable_until(study, study.blocks), stable_until(study, comparison, study.blocks)
    stable = max(stable, float(study.sigmas[0]))
    value = two_digits(min(reliable, stable, PAPER["sigma_threshold"]))
    explained = float(_at(study, study.reliability, value))
    features = study.feature_reliability @ weights_of(study, study.blocks) / study.omega.sum()
    reason = (
        f"up to there ẑ0 ({study.predictor}) explains at least {explained:.0%} of the latents' variance and its "
        f"features {float(_at(study, features, value)):.0%} of the true features'"
    )
    if value == PAPER["sigma_threshold"]:
        reason += f"; they explain something up to σ = {reliable:.2g}, but beyond 3 the loss is untested"
    elif stable < reliable:
        reason += f"; above, a tenth of the channels hold over {CONCENTRATED:.0%} of a block's distance"
    else:
        reason += "; above, they explain nothing"
    warning = ""
    if value < 0.75 * PAPER["sigma_threshold"]:
        there = float(_at(study, study.reliability, PAPER["sigma_threshold"]))
        their = max(0.0, float(_at(study, features, PAPER["sigma_threshold"])))
        warning = (
            f"at σ = 3 ẑ0 explains {there:.0%} of the latents' variance, its features {their:.0%} of the features'"
        )
    return Advice("sigma_threshold", value, PAPER["sigma_threshold"], reason, warning)


def _at(study: GradientStudy, values: Tensor, sigma: float) -> Tensor:
    """A measurement (S,) at the measured level nearest to σ."""
    return values[int((study.sigmas.log() - torch.tensor(sigma).log()).abs().argmin())]


def advise_blocks(study: GradientStudy, mixture: NoiseMixture, costs: Mapping[str, BlockCost]) -> Advice:
    """All blocks, but for last ones that cost much and add next to nothing: only those save anything when dropped."""
    kept = list(study.blocks)
    total = sum(cost.added_gigaflops for cost in costs.values())
    shares = block_shares(study, weights_of(study, kept), mixture.passed)
    by_name = dict(zip(study.blocks, shares.tolist(), strict=True))
    while len(kept) > 1:
        last = kept[-1]
        if by_name[last] >= CHEAP_SHARE or costs[last].added_gigaflops < DEAR_SHARE * total:
            break
        kept.pop()
    details = ", ".join(
        f"{name}: {by_name[name]:.0%} of the gradient for {costs[name].added_gigaflops / total:.0%} of the cost"
        for name in study.blocks
    )
    if len(kept) == len(study.blocks):
        reason = f"no last block costs much for under {CHEAP_SHARE:.0%} of the gradient: {details}"
        return Advice("blocks", None, None, reason)
    dropped = [name for name in study.blocks if name not in kept]
    saved = sum(costs[name].added_gigaflops for name in dropped) / total
    warning = (
        f"{', '.join(dropped)} would take {saved:.0%} of the loss's cost for under {CHEAP_SHARE:.0%} of its gradient"
    )
    return Advice("blocks", kept, None, details, warning)


def advise_depth_weights(study: GradientStudy, mixture: NoiseMixture, blocks: Sequence[str]) -> Advice:
    """ω_l = r_1/r_l unless that leaves the loss to one block and equal weights do not."""
    effective = {}
    for choice in (True, False):
        shares = block_shares(study, weights_of(study, blocks, choice), mixture.passed).clamp_min(1e-12)
        shares = shares / shares.sum()
        effective[choice] = float((-(shares * shares.log()).sum()).exp())
    best = effective[True] >= LONELY or effective[False] < LONELY
    reason = (
        f"the gradient comes from {effective[True]:.1f} of {len(blocks)} blocks in effect with ω_l = r_1/r_l, "
        f"from {effective[False]:.1f} with ω_l = 1"
    )
    warning = "" if best else "the depth weights leave the loss to one block"
    return Advice("depth_weights", best, True, reason, warning)


def advise_weight(study: GradientStudy, mixture: NoiseMixture, blocks: Sequence[str], depth_weights: bool) -> Advice:
    """w_LPL at gradient parity: as strong a pull on the denoiser as the diffusion loss's, on the average.

    Variance matching, the appendix's rule for comparisons between losses, is reported for those who prefer it. It is
    the more cautious of the two: a loss that depends much on σ_t varies much over samples, however weak its gradient.
    """
    weights = weights_of(study, blocks, depth_weights)
    ratio = gradient_ratio(study, weights, mixture)
    parity = PARITY / ratio
    matched = matched_weight(study, weights, mixture, FRACTION)
    value = two_digits(parity)
    reason = (
        f"there ‖∇ w·LPL‖ equals ‖∇ ℓ2‖ at the denoiser's output; Var(w·LPL) is {FRACTION:g} Var(ℓ2) already at "
        f"w = {matched:.2g} (`weight: matched`), a gradient ratio of {matched * ratio:.2g}"
    )
    return Advice("weight", value, PAPER["weight"], reason)


def paper_weight_warning(study: GradientStudy, mixture: NoiseMixture) -> str:
    """What the paper's weight under the paper's other settings would have done; empty within a factor 3 of parity."""
    weights = weights_of(study, study.blocks)
    ratio = PAPER["weight"] * gradient_ratio(study, weights, mixture)
    if 1 / 3 <= ratio <= 3:
        return ""
    typical = PAPER["weight"] * typical_ratio(study, weights, mixture)
    rows = gradient_ratios(study, weights) * PAPER["weight"]
    effect = "swamps" if ratio > 1 else "hardly adds to"
    return (
        f"w = 3 with the paper's settings, in means over positions, {effect} the diffusion loss: gradient ratio "
        f"{ratio:.2g} in a large batch, "
        f"{typical:.2g} for a typical sample ({float(_at(study, rows, 0.35)):.2g} near σ = 0.35, "
        f"{float(_at(study, rows, 3.0)):.2g} near σ = 3)"
    )


def two_digits(value: float) -> float:
    """A number to two significant digits."""
    return float(f"{value:.2g}")
