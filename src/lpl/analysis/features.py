"""Figure 13: the decoder's feature maps, their outliers, and what Algorithm 1 makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autoencoders import DecoderFeatures
from ..losses import outlier_mask
from ..losses.normalization import VARIANCE_FLOOR
from .distances import DEEP, down_factors
from .inputs import AnalysisError, Track, untracked
from .maps import MASK_DEFAULTS, excess_kurtosis, mask_with, masked_norms, masked_shares, position_norms, standardised

QUANTILES = (0.001, 0.01, 0.02, 0.25, 0.5, 0.75, 0.98, 0.99, 0.999)
NORM_SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002)  # of positions, for their norms
HISTOGRAM_EDGES = torch.linspace(-12.0, 12.0, 121)  # standard deviations; the first and last bins take what is beyond
POSITIONS = 4096  # of each map whose values the quantiles are taken over, at the most
DEAD = 1e-6  # of a block's mean variance: a channel with less is all but constant
WEAK = VARIANCE_FLOOR  # channels with less than this are those that the loss's floor keeps from being magnified
MASK_SWEEPS: dict[str, tuple[float, ...]] = {
    "quantile": (0.001, 0.005, 0.01, 0.02, 0.05, 0.1),
    "offset": (0.5, 1.0, 2.0, 3.0, 4.0, 6.0),
    "opening": (1, 3, 5, 7, 9),
    "closing": (1, 3, 5, 7),
}


@dataclass(frozen=True)
class ChannelFeatures:
    """What the C channels of one block are like; means over images where not said otherwise.

    Attributes:
        mean: of the activations, (C,).
        std: over positions within an image, (C,).
        kurtosis: excess kurtosis within an image, 0 for a normal distribution, (C,).
        kept_kurtosis: the same over the positions that Algorithm 1 keeps, (C,); what stays high is no outlier but the
            tail of the distribution.
        quantiles: at `QUANTILES`, over all images, (C, Q).
        largest: largest |activation − mean| in standard deviations within an image, the largest over images, (C,).
        zero_share: share of activations that are exactly 0, as after a ReLU, (C,).
        dead_share: share of images in which the variance is below 10⁻⁶ of the block's mean, (C,).
        masked_share: share of positions that Algorithm 1 masks, (C,).
        masked_energy: share of Σ (activation − mean)² that lies on masked positions, (C,).
        masked_norm: largest norm of one image's masked activations, as their root mean square over that of the kept
            ones, both about the kept ones' mean, (C,); 0 where nothing is masked. The appendix speaks of orders of
            magnitude.
    """

    mean: Tensor
    std: Tensor
    kurtosis: Tensor
    kept_kurtosis: Tensor
    quantiles: Tensor
    largest: Tensor
    zero_share: Tensor
    dead_share: Tensor
    masked_share: Tensor
    masked_energy: Tensor
    masked_norm: Tensor


@dataclass(frozen=True)
class BlockFeatures:
    """One block's features.

    Attributes:
        channels: by channel.
        size: (H, W) of its maps.
        down_f: image resolution over the maps'.
        masked_by_default: whether the loss masks it with outliers="deep".
        histogram: share of the block's activations by bin of `HISTOGRAM_EDGES`, in standard deviations of their map,
            (bins,).
        norms: norm over channels at a position, over the image's median one, that a share `NORM_SHARES` of the
            positions exceeds, the largest over images, (shares,); patches of outliers show as a step at the far end.
            Channels are centred, as the loss's normalisation centres them.
        largest_norm: that of the worst position of any image.
        rank_by_outliers: channels by the energy that Algorithm 1 masks and, where equal, by `largest`; the worst first,
            (C,).
    """

    channels: ChannelFeatures
    size: tuple[int, int]
    down_f: float
    masked_by_default: bool
    histogram: Tensor
    norms: Tensor
    largest_norm: float
    rank_by_outliers: Tensor

    @property
    def dead(self) -> Tensor:
        """Channels that are all but constant in most images."""
        return (self.channels.dead_share > 0.5).nonzero().flatten()

    @property
    def weak(self) -> Tensor:
        """Channels whose variance is below the loss's floor, 10⁻³ of the block's mean, dead ones included."""
        variance = self.channels.std.square()
        return (variance < WEAK * variance.mean()).nonzero().flatten()

    @property
    def energy_lift(self) -> float:
        """Energy of masked positions over their number: how many times the average energy one holds; 0 if none."""
        share = float(self.channels.masked_share.mean())
        return float(self.channels.masked_energy.mean()) / share if share > 0 else 0.0


@dataclass(frozen=True)
class MaskSweep:
    """How the mask moves as one parameter of Algorithm 1 does, the others at their defaults.

    Attributes:
        parameter: its name.
        values: that it took.
        masked_share: block → share of positions masked at each value.
        masked_energy: block → share of the energy on them.
    """

    parameter: str
    values: tuple[float, ...]
    masked_share: dict[str, tuple[float, ...]]
    masked_energy: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class FeatureStudy:
    """Everything Figure 13 shows, in numbers.

    Attributes:
        blocks: by name, in the order they run.
        sweeps: one for each parameter of Algorithm 1.
    """

    blocks: dict[str, BlockFeatures]
    sweeps: tuple[MaskSweep, ...]


@torch.no_grad()
def study_features(
    features: DecoderFeatures,
    latents: Tensor,
    sweeps: Mapping[str, Sequence[float]] = MASK_SWEEPS,
    sweep_images: int = 4,
    batch_size: int = 4,
    track: Track = untracked,
) -> FeatureStudy:
    """Measures every channel of every block, masked or not by default.

    Args:
        features: the decoder and the blocks to look at.
        latents: (N, C, h, w) as the diffusion model sees them.
        sweeps: parameter of Algorithm 1 → the values to try.
        sweep_images: how many of the latents to sweep over.
        batch_size: latents at once.
        track: shows progress.

    Raises:
        AnalysisError: a parameter that Algorithm 1 does not have.
    """
    unknown = [name for name in sweeps if name not in MASK_DEFAULTS]
    if unknown:
        raise AnalysisError(f"sweeps: got {unknown}, Algorithm 1 has {', '.join(MASK_DEFAULTS)}")
    tallies: dict[str, _Tally] = {}
    settings = [(name, value) for name, values in sweeps.items() for value in values]
    swept = {setting: dict[str, _Shares]() for setting in settings}
    for start in track(range(0, len(latents), batch_size), "Reading features"):
        batch = latents[start : start + batch_size]
        maps = features(batch)
        for name, factor in down_factors(features, batch, maps).items():
            tallies.setdefault(name, _Tally(factor)).add(maps[name])
            for setting in settings if start < sweep_images else ():
                mask = mask_with(maps[name], factor, **{setting[0]: setting[1]})
                swept[setting].setdefault(name, _Shares()).add(*masked_shares(maps[name], mask))
    blocks = {name: tally.summary() for name, tally in tallies.items()}
    return FeatureStudy(blocks, tuple(_sweep(name, values, swept, blocks) for name, values in sweeps.items()))


class _Shares:
    """Running means of masked shares over images and channels."""

    def __init__(self) -> None:
        self.positions: list[Tensor] = []
        self.energy: list[Tensor] = []

    def add(self, positions: Tensor, energy: Tensor) -> None:
        self.positions.append(positions.mean(dim=1))
        self.energy.append(energy.mean(dim=1))

    def means(self) -> tuple[float, float]:
        return float(torch.cat(self.positions).mean()), float(torch.cat(self.energy).mean())


class _Tally:
    """Collects one block's statistics batch by batch."""

    def __init__(self, down_f: float) -> None:
        self.down_f = down_f
        self.size = (0, 0)
        self.rows: dict[str, list[Tensor]] = {}  # statistic → (B, C) a batch
        self.samples: list[Tensor] = []  # (C, n) a batch
        self.norms: list[Tensor] = []  # (B, shares + 1) a batch, the largest last
        self.histogram = torch.zeros(len(HISTOGRAM_EDGES) - 1, dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        scores, mean, std = standardised(maps)
        mask = outlier_mask(maps, self.down_f)
        positions, energy = masked_shares(maps, mask)
        floor = DEAD * std.square().mean(dim=1, keepdim=True)
        found = {
            "mean": mean,
            "std": std,
            "kurtosis": excess_kurtosis(scores, torch.ones_like(mask)),
            "kept_kurtosis": excess_kurtosis(scores, mask),
            "largest": scores.abs().amax(dim=(-2, -1)),
            "zero_share": (maps == 0).float().mean(dim=(-2, -1)),
            "dead_share": (std.square() <= floor).float(),
            "masked_share": positions,
            "masked_energy": energy,
            "masked_norm": masked_norms(maps, mask),
        }
        for name, values in found.items():
            self.rows.setdefault(name, []).append(values.cpu())
        self.samples.append(_subsample(maps).cpu())
        self.norms.append(_upper_quantiles(position_norms(maps)).cpu())
        inside = scores.clamp(float(HISTOGRAM_EDGES[0]), float(HISTOGRAM_EDGES[-1])).flatten().cpu()
        self.histogram += torch.histogram(inside, HISTOGRAM_EDGES).hist
        self.size = (int(maps.shape[-2]), int(maps.shape[-1]))

    def summary(self) -> BlockFeatures:
        columns = {name: torch.cat(values) for name, values in self.rows.items()}
        averaged = {name: values.mean(dim=0) for name, values in columns.items()}
        averaged |= {name: columns[name].amax(dim=0) for name in ("largest", "masked_norm")}
        norms = torch.cat(self.norms).amax(dim=0)
        samples = torch.cat(self.samples, dim=1)
        channels = ChannelFeatures(quantiles=_quantiles(samples), **averaged)
        return BlockFeatures(
            channels=channels,
            size=self.size,
            down_f=self.down_f,
            masked_by_default=self.down_f <= DEEP,
            histogram=self.histogram / self.histogram.sum(),
            norms=norms[:-1],
            largest_norm=float(norms[-1]),
            rank_by_outliers=_rank(channels),
        )


def _rank(channels: ChannelFeatures) -> Tensor:
    by_size = channels.largest.argsort(descending=True)
    return by_size[channels.masked_energy[by_size].argsort(descending=True, stable=True)]


def _subsample(maps: Tensor) -> Tensor:
    """Values of (B, C, H, W) at some 4,000 positions of each map or fewer: (C, n), enough for their quantiles."""
    stride = math.ceil(maps.shape[-2] * maps.shape[-1] / POSITIONS)
    stride += 1 - stride % 2  # odd, so that it does not stay in some columns of maps whose sides are even
    return maps.float().flatten(2)[..., ::stride].transpose(0, 1).flatten(1)


def _upper_quantiles(ordered: Tensor) -> Tensor:
    """What `NORM_SHARES` of each ascending row exceed, and its largest: (B, n) → (B, shares + 1)."""
    last = ordered.shape[1] - 1
    ranks = [round((1 - share) * last) for share in NORM_SHARES]
    return ordered[:, [*ranks, last]]


def _quantiles(samples: Tensor) -> Tensor:
    """Nearest-rank quantiles of each row: (C, n) → (C, Q). torch.quantile refuses rows as long as these."""
    ordered = samples.sort(dim=1).values
    ranks = (torch.tensor(QUANTILES) * (samples.shape[1] - 1)).round().long()
    return ordered[:, ranks]


def _sweep(
    parameter: str,
    values: Sequence[float],
    swept: Mapping[tuple[str, float], Mapping[str, _Shares]],
    blocks: Mapping[str, BlockFeatures],
) -> MaskSweep:
    means = {block: [swept[parameter, value][block].means() for value in values] for block in blocks}
    return MaskSweep(
        parameter,
        tuple(values),
        {block: tuple(positions for positions, _ in pairs) for block, pairs in means.items()},
        {block: tuple(energy for _, energy in pairs) for block, pairs in means.items()},
    )
