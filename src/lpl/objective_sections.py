"""The recipe's section `objective`: the weighting of the diffusion loss, and the perceptual terms added to it.

A perceptual term is a section with a `kind` of its own. A further kind is one such section, one line in `TermSection`,
and the class that computes it, which one line in `lpl.training.terms` registers. A loss of one's own needs none of
that: `kind: custom` names a class in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from .sections import (
    ComputedPrecision,
    MixedPrecision,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

DEFAULT_KIND = "lpl"  # of a term whose section names none


class PerceptualTermConfig(Section):
    """What every term that is added to the diffusion loss has."""

    weight: NonNegativeFloat | Literal["matched"] = 1.0  # "matched": set by variance over the first batches
    variance_fraction: PositiveFloat = 0.1  # of Var(ℓ2), where the weight is matched
    matching_batches: Annotated[int, Field(ge=2)] = 32
    sigma_threshold: PositiveFloat | None = None  # τ_σ: samples with more noise are left out; None: no gate


class EstimatorConfig(Section):
    """Cheaper estimates of the latent perceptual loss, see `lpl.losses.estimators`; what is set here is combined.

    A weight is matched to the loss itself, not to its estimates.
    """

    every: PositiveInt = 1  # computed at one step in so many, and multiplied by that number
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the samples that pass the gate, drawn and reweighted
    importance: Literal["uniform", "error", "sigma"] = "uniform"  # what samples and windows are drawn in proportion to
    window: PositiveInt | None = None  # side of a random window in latent positions; None: the whole latent
    margin: NonNegativeInt | None = None  # decoded around the window; None: the decoder's receptive field

    @model_validator(mode="after")
    def _importance_of_windows(self) -> EstimatorConfig:
        if self.window is not None and self.importance == "sigma":
            raise ValueError("importance=sigma: all windows of a sample have the same σ_t; takes uniform or error here")
        return self


class PerceptualConfig(PerceptualTermConfig):
    """The latent perceptual loss; the names are those of `LatentPerceptualLoss`."""

    kind: Literal["lpl"] = "lpl"
    # None: every block the autoencoder's kind is known to have; a number: so many of them, from the first one on
    blocks: tuple[str, ...] | PositiveInt | None = None
    sigma_threshold: PositiveFloat | None = 3.0
    normalization: Literal["prediction", "target", "independent", "unit", "none"] = "prediction"
    outliers: Literal["deep", "all", "none"] = "deep"
    depth_weights: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    variance_floor: Annotated[float, Field(ge=0, lt=1)] = 1e-3  # of the mean variance of a block's channels
    precision: ComputedPrecision = "float32"  # in which the decoder's blocks run
    micro_batch: PositiveInt | None = None  # samples whose features are held at once; None: all that pass the gate
    estimator: EstimatorConfig = EstimatorConfig()


class LatentClassifierConfig(Section):
    """The classifier of latents that `LatentLPIPS` compares in, and how it is trained."""

    width: PositiveInt = 32  # channels of the first stage; 64 is VGG16's and E-LatentLPIPS's
    poolings: Annotated[int, Field(ge=0, le=4)] = 1  # halvings, before the last stages; 1 is E-LatentLPIPS's
    steps: PositiveInt = 1000
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: PositiveFloat = 2e-3  # warmed up over a tenth of the steps, then a cosine down to zero
    weight_decay: NonNegativeFloat = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_shift: Annotated[float, Field(ge=0, le=0.5)] = 0.125  # of training latents at random, as a share of the side
    precision: MixedPrecision = "no"
    seed: NonNegativeInt = 0
    checkpoint_every: PositiveInt = 500


class LatentLPIPSConfig(PerceptualTermConfig):
    """A distance between the features of a classifier of latents, after E-LatentLPIPS."""

    kind: Literal["latent_lpips"] = "latent_lpips"
    # None: trained on the recipe's own latents and labels; a folder written by `lpl train-latent-classifier`; or
    # "elatentlpips": the published weights, by the package of that name
    classifier: str | None = None
    classifier_training: LatentClassifierConfig = LatentClassifierConfig()  # where `classifier` is None
    encoder: Literal["sd15", "sd21", "sdxl", "sd3", "flux"] | None = None  # of published weights; None: told by latents
    precision: ComputedPrecision = "float32"  # in which the classifier runs


class SelfPerceptualConfig(PerceptualTermConfig):
    """A distance between hidden states of the frozen denoiser that post-training starts from."""

    kind: Literal["self_perceptual"] = "self_perceptual"
    depth: Literal["shallow", "middle", "deep"] | PositiveInt = "middle"  # or the number of a block, from 1
    timesteps: Literal["fresh", "same"] = "fresh"  # at which ẑ0 and z0 are noised again
    precision: ComputedPrecision = "float32"  # in which the frozen denoiser runs


class CustomTermConfig(PerceptualTermConfig):
    """A loss of one's own; see `examples/custom_loss.py`."""

    kind: Literal["custom"] = "custom"
    term: str  # FILE.py:CLASS, the file relative to the folder that `lpl` is called in
    settings: dict[str, Any] = Field(default_factory=dict)  # the class's own arguments

    @field_validator("term")
    @classmethod
    def _file_and_class(cls, term: str) -> str:
        file, _, name = term.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ValueError(
                f"got {term!r}; takes FILE.py:CLASS, such as examples/custom_loss.py:FrequencyWeightedLoss"
            )
        return term


def _tag(value: Any) -> str:
    """The tag of the section that a term's values belong to."""
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"kind[{kind}]"


TermSection = Annotated[
    Annotated[PerceptualConfig, Tag("kind[lpl]")]
    | Annotated[LatentLPIPSConfig, Tag("kind[latent_lpips]")]
    | Annotated[SelfPerceptualConfig, Tag("kind[self_perceptual]")]
    | Annotated[CustomTermConfig, Tag("kind[custom]")],
    Discriminator(_tag),
]


class ObjectiveConfig(Section):
    """L_tot = weighting(t) · L_diff + w · L_perceptual."""

    weighting: Literal["none", "min_snr", "gated"] = "none"
    min_snr_gamma: PositiveFloat = 5.0
    # for gated: w_LPL · Var(LPL)/Var(ℓ2) in eq. (15), as a number or measured over the first batches
    gate_gain: NonNegativeFloat | Literal["measured"] = 1.0
    gate_perceptual: TermSection | None = None  # the LPL of eq. (15) where the gain is measured; it is not trained with
    gate_sigma_threshold: PositiveFloat = 3.0
    perceptual: TermSection | None = None  # None: the ℓ2 baseline

    @model_validator(mode="after")
    def _measured(self) -> ObjectiveConfig:
        measured, term = self.gate_gain == "measured", self.gate_perceptual
        if measured and (term is None or self.weighting != "gated"):
            raise ValueError(
                "gate_gain=measured needs weighting=gated, and in gate_perceptual the term whose variance is measured, "
                "such as {weight: matched}"
            )
        if term is None:
            return self
        if not measured:
            raise ValueError(f"gate_perceptual has a use only with gate_gain=measured, and gate_gain={self.gate_gain}")
        if term.sigma_threshold != self.gate_sigma_threshold:
            raise ValueError(
                f"gate_sigma_threshold={self.gate_sigma_threshold} and gate_perceptual.sigma_threshold="
                f"{term.sigma_threshold} are the one τ_σ of eq. (15) and must be equal"
            )
        return self

    @property
    def terms(self) -> dict[str, PerceptualTermConfig]:
        """The terms that are computed, by their key: the one trained with, and the one that a gain is measured by."""
        named = {"perceptual": self.perceptual, "gate_perceptual": self.gate_perceptual}
        return {key: term for key, term in named.items() if term is not None}
