"""What the page reads of the JSON files that `lpl analyze` writes; whatever else they hold is ignored.

A number that was not finite is null in these files, None here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Number = float | None
Numbers = list[Number]


class Autoencoder(BaseModel):
    """What was looked at."""

    path: str
    subfolder: str | None = None
    kind: str
    fingerprint: str = ""
    latent_channels: int
    downsampling: int


class Data(BaseModel):
    """The images it was looked at with."""

    source: str
    split: str | None = None
    available: int
    fingerprint: str = ""
    count: int
    resolution: int
    skipped: list[str] = []


class Provenance(BaseModel):
    """How the file came about."""

    versions: dict[str, str | None] = {}
    created: str = ""
    seconds: Number = None


class Image(BaseModel):
    """One image; pictures are paths relative to the folder, None where none was written."""

    name: str
    original: str | None = None
    reconstruction: str | None = None


class AnalysisFile(BaseModel):
    """What all files have in common."""

    format: Literal[1]
    autoencoder: Autoencoder
    data: Data
    settings: dict[str, Any] = {}
    provenance: Provenance = Field(default_factory=Provenance)


class Interval(BaseModel):
    """A mean over images with its 95 % confidence interval."""

    mean: Number
    low: Number
    high: Number


class Sprite(BaseModel):
    """Many pictures in one, row by row."""

    file: str
    columns: int
    tile: tuple[int, int]


class Variant(BaseModel):
    """One way of shrinking and enlarging."""

    method: str
    scale: float


class Measure(BaseModel):
    """One measure of all images and variants, (N, V)."""

    label: str
    better: Literal["higher", "lower"] = "lower"
    values: list[Numbers]


class Correlation(BaseModel):
    """How well a measure orders pictures by damage."""

    measure: str
    damage: str
    subset: Literal["all", "latent"]
    rho: Interval
    discordant: Interval
    advantage_over_latent_mse: Interval | None = None
    per_image: Numbers = []


class InterpolationImage(Image):
    """With its decodes, one a variant."""

    decodes: list[str] = []


class InterpolationResults(BaseModel):
    """Figure 11."""

    variants: list[Variant]
    measures: dict[str, Measure]
    damages: dict[str, Measure]
    correlations: list[Correlation]


class InterpolationFile(AnalysisFile):
    """Of `lpl analyze interpolation`."""

    images: list[InterpolationImage]
    results: InterpolationResults


class Influence(Sprite):
    """A tile a position: the error over the latent's grid, grey from 10^black to 10^white."""

    log10_black: float
    log10_white: float


class PerturbationImage(Image):
    """Numbers by perturbed position, in the order of the file's positions."""

    error: Numbers
    local_share: Numbers
    visible_outside: Numbers
    radius: dict[str, list[int]] = {}
    decodes: Sprite
    differences: Sprite | None = None
    influence: Influence | None = None


class PerturbationResults(BaseModel):
    """Figure 12."""

    positions: list[tuple[int, int]]
    grid: tuple[int, int]
    window_radius: int
    difference_gain: float
    local_share: Number
    global_share: Number
    worst_over_median: Numbers
    explained_by: dict[str, Interval | None] = {}


class PerturbationFile(AnalysisFile):
    """Of `lpl analyze perturbation`."""

    images: list[PerturbationImage]
    results: PerturbationResults


class Scale(BaseModel):
    """Values that are black and white in a map before the mask, and after it."""

    low: float
    high: float
    kept_low: float
    kept_high: float


class Histogram(BaseModel):
    """Counts of a map's values, in equal steps from its least to its greatest."""

    kept: list[int]
    masked: list[int]


class Maps(BaseModel):
    """One image's maps of one block; lists have one entry a channel of `channels`."""

    channels: list[int]
    before: str
    after: str
    tile: tuple[int, int]
    columns: int
    scales: list[Scale]
    masked_share: Numbers
    histograms: list[Histogram] = []


class FeatureImage(Image):
    """With its maps by block, where they were written."""

    maps: dict[str, Maps] = {}


class Channels(BaseModel):
    """By channel."""

    mean: Numbers
    std: Numbers
    kurtosis: Numbers
    kept_kurtosis: Numbers
    quantiles: list[Numbers]
    largest: Numbers
    zero_share: Numbers
    masked_share: Numbers
    masked_energy: Numbers


class FeatureBlock(BaseModel):
    """One decoder block over all images."""

    size: tuple[int, int]
    down_f: float
    masked_by_default: bool
    masked_share: Number
    masked_energy: Number
    energy_lift: Number
    zero_share: Number
    kept_kurtosis: dict[str, Number]
    dead_channels: list[int]
    weak_channels: list[int]
    rank_by_outliers: list[int]
    histogram: list[float]
    channels: Channels


class Sweep(BaseModel):
    """How the mask moves with one parameter: block → shares at `values`."""

    values: list[float]
    masked_share: dict[str, Numbers]
    masked_energy: dict[str, Numbers]


class FeatureResults(BaseModel):
    """Figure 13."""

    quantile_levels: list[float]
    histogram_edges: list[float]
    mask_defaults: dict[str, float]
    blocks: dict[str, FeatureBlock]
    sweeps: dict[str, Sweep] = {}


class FeatureFile(AnalysisFile):
    """Of `lpl analyze features`."""

    images: list[FeatureImage]
    results: FeatureResults


class Metric(BaseModel):
    """JᵀJ at one latent."""

    dimension: int
    largest_eigenvalue: Number
    smallest_eigenvalue_at_most: Number
    condition_at_least: Number
    mean_eigenvalue: Number
    effective_rank: Number
    bound_over_mean_at_least: Number
    ritz_values: Numbers
    ritz_weights: Numbers
    channels: Numbers
    channels_standard_error: Numbers


class LinearImage(Image):
    """With its metric, where it was measured."""

    largest_step: str | None = None
    smallest_step: str | None = None
    metric: Metric | None = None


class LatentChannels(BaseModel):
    """By latent channel, over all images."""

    sensitivity: Numbers
    latent_variance: Numbers
    energy_share: Numbers
    anisotropy: Number


class Tightness(BaseModel):
    """Bound (12) over the exact penalty."""

    smallest: Number
    median: Number
    largest: Number


class MonteCarlo(BaseModel):
    """A divergence by sampling, and exact."""

    estimate: Number
    standard_error: Number
    exact: Number


class Equations(BaseModel):
    """Equations (10)–(12) for a random linear decoder."""

    shape: str
    image_values: int
    latent_values: int
    identity_error: Number
    printed_error: Number
    monte_carlo: MonteCarlo
    tightness: Tightness


class Taylor(BaseModel):
    """The linear approximation's relative error by σ."""

    sigmas: list[float]
    errors: list[Numbers]
    mean: Numbers
    sigma_at: dict[str, Number]


class LinearResults(BaseModel):
    """Appendix A.1."""

    equations: list[Equations]
    channels: LatentChannels
    step_length: float
    taylor: Taylor


class LinearFile(AnalysisFile):
    """Of `lpl analyze linear`."""

    images: list[LinearImage]
    results: LinearResults
