"""What each command prints when it is done: the few numbers to remember."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from .advice import Advice
from .calibrate import Calibration
from .features import FeatureStudy
from .interpolation import ALL_BLOCKS, InterpolationStudy, Subset
from .linear import LinearCheck
from .local import TOLERANCES, MetricAt, TaylorStudy
from .perturbation import PerturbationStudy
from .statistics import Interval

SHORT_DAMAGES = {"ms_ssim": "1−MS-SSIM", "gmsd": "GMSD", "sliced_wasserstein": "sliced W."}


def interpolation_table(study: InterpolationStudy, subset: Subset) -> Table:
    """Rank correlation of the main measures with each damage."""
    over = "all ways of shrinking" if subset == "all" else "what was shrunk in latents alone"
    table = Table(title=f"Spearman's ρ with damage over {over}\nmean over images [95 %]", title_justify="left")
    table.add_column("measure")
    for damage in study.damages:
        table.add_column(SHORT_DAMAGES.get(damage, damage), justify="right")
    shown = ["latent_mse", "pixel_mse", "ssim"]
    shown += [name for name in study.values if name.startswith(f"feature/{ALL_BLOCKS}/")]
    for measure in shown:
        found = {c.damage: c.rho for c in study.correlations if c.measure == measure and c.subset == subset}
        table.add_row(_measure(measure), *(_interval(found[damage]) for damage in study.damages))
    return table


def advantage_table(study: InterpolationStudy) -> Table:
    """By how much decoder features order damage better than the latent MSE does, paired by image."""
    features = next(name for name in study.values if name.startswith(f"feature/{ALL_BLOCKS}/"))
    title = f"ρ of {_measure(features)} less that of latent MSE: above 0, features order better"
    table = Table(title=title, title_justify="left")
    table.add_column("over")
    for damage in study.damages:
        table.add_column(SHORT_DAMAGES.get(damage, damage), justify="right")
    subsets: tuple[tuple[Subset, str], ...] = (("all", "all"), ("latent", "latents"))
    for subset, label in subsets:
        found = {c.damage: c.advantage for c in study.correlations if (c.measure, c.subset) == (features, subset)}
        cells = [_interval(value, signed=True) for damage in study.damages if (value := found[damage]) is not None]
        table.add_row(label, *cells)
    return table


def claims_table(study: InterpolationStudy) -> Table:
    """How often each pair of pictures is as the appendix says."""
    title = "The first has more latent MSE; yet less damage than the second: images [95 %]"
    table = Table(title=title, title_justify="left")
    table.add_column("first, second (s)")
    table.add_column("more MSE", justify="right")
    for damage in study.damages:
        table.add_column(SHORT_DAMAGES.get(damage, damage), justify="right")
    for claim in study.claims:
        first, second = (variant.method.removeprefix("latent-") for variant in (claim.better, claim.worse))
        same = claim.better.scale == claim.worse.scale
        pair = f"{first}{'' if same else f' {claim.better.scale:g}'}, {second} {claim.worse.scale:g}"
        both = (_percent(claim.contradicted[damage]) for damage in study.damages)
        table.add_row(pair, f"{claim.higher_mse.mean:.0%}", *both)
    return table


def perturbation_table(study: PerturbationStudy) -> Table:
    """Error and locality by image."""
    beyond = f"beyond {study.window_radius} position{'s' if study.window_radius != 1 else ''}"
    title = f"Noise on one position at a time: error, share of it {beyond}:\nmean over positions, all pooled, the worst"
    table = Table(title=title, title_justify="left")
    for column in ("image", "median", "worst", "ratio", "at", "far", "pooled", "worst's"):
        table.add_column(column, justify="right", no_wrap=True)
    for index, image in enumerate(study.images):
        worst = int(image.error.argmax())
        median = float(image.error.median())
        table.add_row(
            str(index),
            f"{median:.2g}",
            f"{float(image.error[worst]):.2g}",
            f"{float(image.error[worst]) / median:.1f}",
            "{},{}".format(*study.positions[worst]),
            f"{1 - float(image.local_share.mean()):.1%}",
            f"{image.global_share:.1%}",
            f"{1 - float(image.local_share[worst]):.1%}",
        )
    return table


def features_table(study: FeatureStudy) -> Table:
    """Outliers by block."""
    title = "Features by block (in brackets: not masked by default)\nnorm: of the worst position, over the median one's"
    table = Table(title=title, title_justify="left")
    for column in ("block", "size", "weak", "zeros", "masked", "energy", "norm", "kurt."):
        table.add_column(column, justify="left" if column == "block" else "right", no_wrap=True)
    for name, block in study.blocks.items():
        channels = block.channels
        masked = f"{float(channels.masked_share.mean()):.2%}"
        table.add_row(
            name,
            f"{block.size[0]}×{block.size[1]}",
            f"{len(block.weak)}/{len(channels.std)}",
            f"{float(channels.zero_share.mean()):.0%}",
            masked if block.masked_by_default else f"({masked})",
            f"{float(channels.masked_energy.mean()):.1%}",
            f"{block.largest_norm:.1f}",
            f"{float(channels.kept_kurtosis.median()):.1f}",
        )
    return table


def linear_table(
    checks: Sequence[LinearCheck], metrics: Sequence[MetricAt], noise: TaylorStudy, predictions: TaylorStudy
) -> Table:
    """The equations for a linear decoder, then the real one."""
    table = Table(title="Appendix A.1", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    for check in checks:
        error = float((check.divergence - check.closed_form).abs().max())
        printed = float((check.divergence - check.as_printed).abs().max())
        table.add_row(
            f"linear, {check.shape} ({check.image_values}×{check.latent_values})",
            f"eq. (10) put right: off by {error:.0e} nats, as printed by {printed:.2g}; bound (12) over exact: median "
            f"{float(check.tightness.median()):.3g}, {check.tightest:.2g} to {check.loosest:.3g}",
        )
    for index, metric in enumerate(metrics):
        table.add_row(f"JᵀJ at latent {index}", _metric_text(metric))
    for label, study, symbol in (("white noise", noise, "σ"), ("errors of ẑ0", predictions, "σ_t")):
        reached = ", ".join(f"{tolerance:.0%} {study.reached(tolerance, symbol)}" for tolerance in TOLERANCES)
        table.add_row(f"linear approximation, {label}", f"off by {reached}")
    return table


def _metric_text(metric: MetricAt) -> str:
    largest, smallest = (max(float(metric.ritz.residuals[end]), metric.precision) for end in (-1, 0))
    return (
        f"λ_max {metric.largest:.3g} ± {largest:.1g}, λ_min ≤ {metric.smallest:.2g} (residual {smallest:.1g}), "
        f"condition ≥ {metric.condition:.2g}, {metric.effective_rank:.0f} of {metric.dimension} directions in effect"
    )


def calibration_table(calibration: Calibration) -> Table:
    """Each setting with its reason, and what the paper's would have done."""
    table = Table(title="Settings of the latent perceptual loss", title_justify="left", show_lines=True)
    table.add_column("setting", no_wrap=True)
    table.add_column("here", style="bold", no_wrap=True)
    table.add_column("paper", no_wrap=True)
    table.add_column("why", ratio=1)
    for entry in calibration.advice:
        table.add_row(entry.setting, _setting(entry.value), _setting(entry.paper), _reason(entry))
    return table


def block_table(calibration: Calibration) -> Table:
    """Cost, gradient and health by block."""
    from .mixture import block_shares, weights_of

    study = calibration.chosen
    settings = calibration.settings
    weights = weights_of(study, settings["blocks"] or study.blocks, settings["depth_weights"])
    shares = block_shares(study, weights, calibration.mixture.passed)
    table = Table(title="Blocks", title_justify="left")
    for column in ("block", "ω", "gradient", "ms a sample", "GFLOP", "weak channels", "zeros"):
        table.add_column(column, justify="left" if column == "block" else "right")
    for index, name in enumerate(study.blocks):
        cost, block = calibration.costs[name], calibration.features.blocks[name]
        table.add_row(
            name,
            f"{float(weights[index]):.3g}",
            f"{float(shares[index]):.0%}",
            f"{1e3 * cost.added_seconds:.0f}",
            f"{cost.added_gigaflops:.2f}",
            f"{len(block.weak)} of {len(block.channels.std)}",
            f"{float(block.channels.zero_share.mean()):.0%}",
        )
    return table


def noise_table(calibration: Calibration) -> Table:
    """By noise level: how often training meets it, how reliable ẑ0 is, and each block's share of loss and gradient."""
    from .mixture import block_shares, gradient_ratios, weights_of

    study, settings = calibration.chosen, calibration.settings
    weights = weights_of(study, settings["blocks"] or study.blocks, settings["depth_weights"])
    loss = study.loss.mean(dim=1) * weights
    features = study.feature_reliability @ weights / weights.sum()
    ratios = settings["weight"] * gradient_ratios(study, weights)
    title = "By noise: share of training; variance that ẑ0 and its features explain;\nloss/gradient by block in %"
    table = Table(title=title, title_justify="left")
    for column in ("σ_t", "met", "ẑ0", "φ̂", "LPL", "w∇/∇ℓ2"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in study.blocks:
        short = name.removeprefix("decoder.").replace("_blocks.", ".").replace("_block", "")
        table.add_column(short, justify="right", overflow="fold")
    for level, sigma in enumerate(study.sigmas.tolist()):
        mass = torch.zeros(len(study.sigmas), dtype=torch.float64)
        mass[level] = 1
        pairs = zip(
            (loss[level] / loss[level].sum()).tolist(), block_shares(study, weights, mass).tolist(), strict=True
        )
        table.add_row(
            f"{sigma:g}",
            f"{float(calibration.mixture.everywhere[level]):.0%}",
            f"{float(study.reliability[level]):.0%}",
            f"{float(features[level]):.0%}",
            f"{float(loss[level].sum()):.2g}",
            f"{float(ratios[level]):.2g}",
            *(f"{100 * of_loss:.0f}/{100 * of_gradient:.0f}" for of_loss, of_gradient in pairs),
        )
    return table


def _measure(name: str) -> str:
    """A measure's name, short enough for a terminal of 80 columns."""
    if name.startswith(f"feature/{ALL_BLOCKS}/"):
        return f"LPL, {name.rsplit('/', 1)[1]}"
    return {"latent_mse": "latent MSE", "pixel_mse": "pixel MSE", "ssim": "SSIM"}.get(name, name)


def _interval(value: Interval, signed: bool = False) -> str:
    """Mean and interval without the zeros before the point."""
    form = "+.2f" if signed else ".2f"
    mean, low, high = (re.sub(r"\b0\.", ".", f"{number:{form}}") for number in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def _percent(value: Interval) -> str:
    return f"{value.mean:.0%} [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def _setting(value: Any) -> str:
    if value is None:
        return "all"
    return "\n".join(value) if isinstance(value, list) else str(value)


def _reason(entry: Advice) -> Text:
    text = Text(entry.reason)
    if entry.warning:
        text.append(f"\nThe paper's: {entry.warning}.", style="yellow")
    return text
