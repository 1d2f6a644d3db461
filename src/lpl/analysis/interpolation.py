"""Figure 11: what shrinking a latent and enlarging it again does to the picture, and which measure sees it.

Appendix A.2 argues that the mean squared error of latents does not order pictures by quality. Here that is a number:
the rank correlation, over ways of shrinking, of each measure with the damage done to the decoded picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders import Autoencoder, DecoderFeatures
from ..evaluation import Extractor, PatchSettings
from ..evaluation.sliced_wasserstein import PatchSampler, compare_patches
from ..losses.normalization import NormalizationName
from .claims import Claim, check_claims
from .damage import DAMAGES, mean_squared_error, psnr, ssim
from .distances import Comparison, Maps, Masked, Masks, block_distances, depth_weights, down_factors, masks_of
from .inputs import Track, check_resolution, decoder_features, encode, untracked
from .statistics import Interval, bootstrap, discordant_shares, rank_correlations
from .variants import SCALES, Variant, degrade, plan_variants

Floats = npt.NDArray[np.float64]
Subset = Literal["all", "latent"]

NORMALIZATION_NAMES: tuple[NormalizationName, ...] = ("prediction", "target", "independent", "unit", "none")
HIGHER_IS_BETTER = ("psnr", "ssim")
ALL_BLOCKS = "all"  # stands for the sum over blocks with the depth weights ω_l, the loss itself


@dataclass(frozen=True)
class Correlation:
    """How well a measure orders pictures by damage.

    Attributes:
        measure: key of `InterpolationStudy.values` or, for another damage, of its `damages`.
        damage: key of `InterpolationStudy.damages`.
        subset: "all" variants, or those made in the "latent" space alone.
        rho: Spearman's ρ over the variants of one image, oriented so that 1 is a perfect order; mean over images.
        discordant: share of pairs of variants put in the wrong order.
        advantage: ρ minus that of the latent MSE, paired by image; None for the latent MSE.
        per_image: ρ of each image.
    """

    measure: str
    damage: str
    subset: Subset
    rho: Interval
    discordant: Interval
    advantage: Interval | None
    per_image: tuple[float, ...]


@dataclass(frozen=True)
class InterpolationStudy:
    """Everything Figure 11 shows, in numbers.

    Attributes:
        variants: V ways of shrinking.
        values: measure → float64 (N, V).
        damages: perceptual damage → float64 (N, V), higher is worse.
        set_distance: sliced Wasserstein distance (times 1000) of all N decoded images to their references, (V,).
        correlations: of every measure with every damage.
        claims: the appendix's sentences about pairs of variants, counted.
        decoded: pictures of the first images by each variant, float32 (P, V, 3, R, R).
        reference: what the unharmed latents decode to, float32 (P, 3, R, R).
        latent_variance: mean over channels of the latents' variance, the scale of the latent MSE.
    """

    variants: tuple[Variant, ...]
    values: dict[str, Floats]
    damages: dict[str, Floats]
    set_distance: Floats
    correlations: tuple[Correlation, ...]
    claims: tuple[Claim, ...]
    decoded: Tensor
    reference: Tensor
    latent_variance: float


def study_interpolation(
    autoencoder: Autoencoder,
    images: Tensor,
    scales: Sequence[float] = SCALES,
    blocks: Sequence[str] | None = None,
    normalizations: Sequence[NormalizationName] = NORMALIZATION_NAMES,
    masked: Masked = "deep",
    extractor: Extractor | None = None,
    pictures: int = 4,
    batch_size: int = 4,
    track: Track = untracked,
) -> InterpolationStudy:
    """Shrinks and enlarges every image in every way, decodes, measures, and correlates.

    Damage is judged against what the unharmed latent decodes to, so that the autoencoder's own loss plays no part.

    Args:
        autoencoder: to look at.
        images: (N, 3, R, R) in [−1, 1], at least 2.
        scales: s, each above 1.
        blocks: decoder blocks whose features to compare; all by default.
        normalizations: of the features, as in `lpl.losses.NORMALIZATIONS`; the first one is held against the
            appendix's claims.
        masked: blocks whose outliers Algorithm 1 masks.
        extractor: of features whose distance is one more damage.
        pictures: how many images' decodes to keep.
        batch_size: images at once.
        track: shows progress.

    Raises:
        AnalysisError: images that don't fit a scale or the autoencoder, or a block that does not exist.
    """
    check_resolution(autoencoder, images.shape[-1])
    variants = plan_variants(autoencoder.latent_shape(images.shape[-1])[1], images.shape[-1], scales)
    judge = _Judge(autoencoder, decoder_features(autoencoder, blocks), variants, normalizations, masked, extractor)
    for batch in track(images.split(batch_size), "Shrinking and decoding"):
        judge.add(batch, keep=max(0, pictures - judge.count))
    values, damages = _joined(judge.values), _joined(judge.damages)
    return InterpolationStudy(
        variants=variants,
        values=values,
        damages=damages,
        set_distance=np.array([judge.set_distance(sampler) for sampler in track(judge.samplers, "Comparing sets")]),
        correlations=tuple(correlate(variants, values, damages)),
        claims=check_claims(
            variants, values["latent_mse"], values[f"feature/{ALL_BLOCKS}/{normalizations[0]}"], damages
        ),
        decoded=torch.cat(judge.decoded),
        reference=torch.cat(judge.references),
        latent_variance=float(torch.cat(judge.latents).var(dim=(0, 2, 3)).mean()),
    )


@dataclass
class _Judge:
    """Takes batches of images through every variant, and keeps the numbers and the first pictures."""

    autoencoder: Autoencoder
    features: DecoderFeatures
    variants: Sequence[Variant]
    normalizations: Sequence[NormalizationName]
    masked: Masked
    extractor: Extractor | None
    count: int = 0
    values: dict[str, list[Tensor]] = field(default_factory=dict)  # measure → (B, V) a batch
    damages: dict[str, list[Tensor]] = field(default_factory=dict)
    decoded: list[Tensor] = field(default_factory=list)
    references: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.samplers = [PatchSampler(PatchSettings()) for _ in self.variants]
        self.reference_sampler = PatchSampler(PatchSettings())

    @torch.no_grad()
    def add(self, images: Tensor, keep: int) -> None:
        """Measures a batch, of which `keep` images are kept as pictures."""
        latents = encode(self.autoencoder, images, len(images))
        reference = self.autoencoder.decode(latents).cpu()
        target = self.features(latents)
        masks = masks_of(target, down_factors(self.features, latents, target), self.masked)
        columns: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        decoded = []
        for variant, sampler in zip(self.variants, self.samplers, strict=True):
            harmed = degrade(self.autoencoder, images.to(latents), latents, variant)
            picture = self.autoencoder.decode(harmed).cpu()
            values = _simple_measures(harmed, latents, picture, reference)
            values |= self._feature_distances(self.features(harmed), target, masks)
            columns.append((values, self._damage(picture, reference)))
            sampler.add(picture)
            decoded.append(picture[:keep])
        _append_columns(self.values, [values for values, _ in columns])
        _append_columns(self.damages, [damage for _, damage in columns])
        self.reference_sampler.add(reference)
        self.decoded.append(torch.stack(decoded, dim=1))
        self.references.append(reference[:keep])
        self.latents.append(latents)
        self.count += len(images)

    def set_distance(self, sampler: PatchSampler) -> float:
        """Between all images of a variant, taken together, and the references."""
        reference = self.reference_sampler.finish()
        found = compare_patches(sampler.finish(), reference, PatchSettings().directions, ["reference"])
        return found["reference"].mean

    def _feature_distances(self, prediction: Maps, target: Maps, masks: Masks) -> dict[str, Tensor]:
        """Each block's distance and their sum with the depth weights, under each normalisation."""
        weights = torch.tensor(list(depth_weights(target).values()))
        found: dict[str, Tensor] = {}
        for name in self.normalizations:
            distances = block_distances(prediction, target, masks, Comparison(name)).cpu()
            found |= {f"feature/{block}/{name}": row for block, row in zip(target, distances, strict=True)}
            found[f"feature/{ALL_BLOCKS}/{name}"] = weights.to(distances) @ distances
        return found

    def _damage(self, picture: Tensor, reference: Tensor) -> dict[str, Tensor]:
        damage = {name: measure(picture, reference) for name, (measure, _) in DAMAGES.items()}
        if self.extractor is not None:
            features = self.extractor(picture), self.extractor(reference)
            damage["extractor"] = 1 - F.cosine_similarity(*features, dim=1)
        return damage


def _simple_measures(harmed: Tensor, latents: Tensor, picture: Tensor, reference: Tensor) -> dict[str, Tensor]:
    return {
        "latent_mse": mean_squared_error(harmed, latents).cpu(),
        "pixel_mse": mean_squared_error(picture, reference),
        "psnr": psnr(picture, reference),
        "ssim": ssim(picture, reference),
    }


def _append_columns(kept: dict[str, list[Tensor]], columns: Sequence[dict[str, Tensor]]) -> None:
    for name in columns[0]:
        kept.setdefault(name, []).append(torch.stack([column[name] for column in columns], dim=1))


def _joined(kept: dict[str, list[Tensor]]) -> dict[str, Floats]:
    return {name: torch.cat(batches).double().numpy() for name, batches in kept.items()}


def correlate(variants: Sequence[Variant], values: dict[str, Floats], damages: dict[str, Floats]) -> list[Correlation]:
    """Rank correlations of every measure with every damage, over all variants and over those made of latents alone.

    Each damage also serves as a measure of the others.
    """
    subsets: dict[Subset, list[int]] = {
        "all": list(range(len(variants))),
        "latent": [index for index, variant in enumerate(variants) if variant.method != "pixel-bilinear"],
    }
    found = []
    for subset, columns in subsets.items():
        for damage, harm in damages.items():
            measures = values | {name: other for name, other in damages.items() if name != damage}
            baseline = rank_correlations(values["latent_mse"][:, columns], harm[:, columns])
            for measure, numbers in measures.items():
                ordered = -numbers[:, columns] if measure in HIGHER_IS_BETTER else numbers[:, columns]
                rho = rank_correlations(ordered, harm[:, columns])
                wrong = bootstrap(discordant_shares(ordered, harm[:, columns]))
                advantage = None if measure == "latent_mse" else bootstrap(rho - baseline)
                found.append(Correlation(measure, damage, subset, bootstrap(rho), wrong, advantage, tuple(rho)))
    return found
