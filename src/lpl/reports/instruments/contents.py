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


class Claim(BaseModel):
    """A pair of pictures of which the appendix says that the first looks better in spite of its higher latent MSE.

    Shares of images: in which that MSE is higher, and in which, by each damage, the picture is better as well.
    """

    better: str
    worse: str
    higher_mse: Interval | None
    contradicted: dict[str, Interval | None]


class InterpolationImage(Image):
    """With its decodes, one a variant."""

    decodes: list[str] = []


class InterpolationResults(BaseModel):
    """Figure 11."""

    variants: list[Variant]
    measures: dict[str, Measure]
    damages: dict[str, Measure]
    correlations: list[Correlation]
    claims: list[Claim] = []


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
    masked_norm: Numbers = []


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
    norms: Numbers = []
    largest_norm: Number = None
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
    norm_shares: list[float] = []
    mask_defaults: dict[str, float]
    blocks: dict[str, FeatureBlock]
    sweeps: dict[str, Sweep] = {}


class FeatureFile(AnalysisFile):
    """Of `lpl analyze features`."""

    images: list[FeatureImage]
    results: FeatureResults
