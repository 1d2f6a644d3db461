"""Recipes: one YAML file describes one run, and nothing starts before all of it has been checked.

A recipe is read (`load_recipe`), merged with the recipe it `extends`, overridden by `key=value` words from the command
line, and validated. Whatever is wrong is reported all at once, each with the path of the key, what was given and what
is allowed (`RecipeError`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import yaml
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from .errors import LplError
from .objective_sections import CustomTermConfig as CustomTermConfig
from .objective_sections import LatentClassifierConfig as LatentClassifierConfig
from .objective_sections import LatentLPIPSConfig, ObjectiveConfig, SelfPerceptualConfig
from .objective_sections import PerceptualConfig as PerceptualConfig
from .objective_sections import PerceptualTermConfig as PerceptualTermConfig
from .recipe_errors import describe, unknown_keys
from .sections import (
    Fraction,
    MixedPrecisionWithFP16,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class RecipeError(LplError, ValueError):
    """A recipe that can't be run; the message lists every reason."""


SectionType = TypeVar("SectionType", bound=Section)
Decay = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Section):
    """Which images to train on, and how they are cut before the autoencoder sees them."""

    source: str = "photographs"  # "photographs" (bundled), a folder, a parquet file or glob, *.tar shards, a hub name
    format: Literal["auto", "photographs", "folder", "parquet", "webdataset", "hub"] = "auto"
    split: str = "train"  # for the bundled photographs ("train", "test") and hub data sets
    holdout: str | None = None  # where the held-out images lie, written like `source`
    holdout_split: str = "test"
    image_column: str = "image"
    label_column: str | None = "label"  # None: an unlabelled data set, one class
    resolution: PositiveInt = 64  # pixels a side after the crop
    crop: Literal["center", "random"] = "center"
    crops_per_image: PositiveInt = 1  # random crops cached for each image
    flip: bool = True  # cache the horizontal mirror image too
    limit: PositiveInt | None = None  # use only the first images
    cache: str | None = None  # folder of the latent cache; by default one named after everything it depends on

    @model_validator(mode="after")
    def _crops(self) -> DataConfig:
        if self.crop == "center" and self.crops_per_image > 1:
            raise ValueError(f"crops_per_image={self.crops_per_image} needs crop=random: center crops are all the same")
        return self


class AutoencoderConfig(Section):
    """The frozen autoencoder."""

    path: str = "demo"  # "demo" (bundled), a folder, or a hub name
    subfolder: str | None = None  # where the autoencoder lies within a pipeline's folder, often "vae"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # for encoding and decoding images
    batch_size: PositiveInt = 32


class DenoiserConfig(Section):
    """The MMDiT that is trained."""

    preset: Literal["T", "S", "B", "L", "XL"] = "S"
    patch_size: Literal[1, 2, 4] = 2
    label_dropout: Fraction = 0.1  # share of labels replaced by the null label, for classifier-free guidance
    qk_norm: bool = True  # RMS-normalised queries and keys, as in SD3.5; steadier in bfloat16
    max_tokens_per_side: PositiveInt = 64  # positional embeddings reach this far, so that post-training may go larger
    gradient_checkpointing: bool = False


class DiffusionConfig(Section):
    """The path from data to noise, and what the denoiser predicts."""

    path: Literal["ddpm", "flow_ot"] = "flow_ot"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"  # for ddpm
    num_timesteps: PositiveInt = 1000
    beta_start: PositiveFloat = 0.00085
    beta_end: PositiveFloat = 0.012
    logit_mean: FiniteFloat = 0.0  # for flow_ot: t = sigmoid(N(logit_mean, logit_std²)), as in SD3
    logit_std: PositiveFloat = 1.0


class TrainingConfig(Section):
    """Optimisation."""

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 64  # samples a process and forward pass
    accumulation: PositiveInt = 1  # forward passes an optimiser step
    learning_rate: PositiveFloat = 3e-4
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    clip_norm: PositiveFloat | None = 1.0
    precision: MixedPrecisionWithFP16 = "no"
    compile: bool = False
    ema_decay: Decay = 0.999
    ema_start: NonNegativeInt = 0  # step at which the average begins, from the weights of that step
    ema_warmup: bool = True  # a young average follows the weights; false, for initial_weights=ema: goes on with them
    ema_every: PositiveInt = 1  # steps between updates of the average; more costs a small model's steps less
    initial_checkpoint: str | None = None  # a run's folder or one checkpoint's: post-training starts there
    initial_weights: Literal["raw", "ema"] = "raw"
    time_budget: PositiveFloat | None = None  # seconds of training after which the run ends early
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    sample_every: PositiveInt | None = None  # steps between previews, a few samples in RUN/previews; None: none
    keep_every: PositiveInt | None = None  # also write and keep the checkpoints of every so many steps


class SamplingConfig(Section):
    """How images are drawn."""

    method: Literal["ddim", "euler", "heun", "rk4", "dopri5"] = "euler"
    steps: PositiveInt = 50
    eta: Fraction = 0.0  # for ddim: 0 is deterministic, 1 is ancestral
    tolerance: PositiveFloat = 1e-5  # for dopri5, absolute and relative
    guidance_scale: NonNegativeFloat = 1.0  # 1: no guidance
    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)  # of time, 0 = data and 1 = noise
    weights: Literal["ema", "raw"] = "ema"
    precision: MixedPrecisionWithFP16 = "no"  # of the denoiser; latents stay float32
    seed: NonNegativeInt = 0
    count: PositiveInt = 64
    batch_size: PositiveInt = 64
    labels: tuple[NonNegativeInt, ...] | None = None  # None: every class in turn

    @model_validator(mode="after")
    def _interval(self) -> SamplingConfig:
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError(
                f"guidance_interval={list(self.guidance_interval)}: takes two times, the earlier one first"
            )
        return self


class EvaluationConfig(Section):
    """What samples are measured with, and against."""

    extractor: str = "none"  # "none", "inception", a transformers vision model's folder or name, or "FILE.py:FUNCTION"
    reference: Literal["train", "holdout"] = "train"  # the images that samples are compared with
    reference_limit: PositiveInt | None = None
    neighbours: PositiveInt = 5  # k of precision, recall, density and coverage
    kid_subsets: PositiveInt = 50
    kid_subset_size: Annotated[int, Field(ge=2)] = 500
    batch_size: PositiveInt = 64


class Recipe(Section):
    """One run: from images to metrics."""

    name: str = "run"
    output: str | None = None  # the run's folder; by default runs/NAME
    seed: NonNegativeInt = 0
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        sampling, ddpm = self.sampling, self.diffusion.path == "ddpm"
        if (sampling.method == "ddim") != ddpm:
            takes = "ddim" if ddpm else "euler, heun, rk4 or dopri5"
            raise ValueError(f"sampling.method={sampling.method}: diffusion.path={self.diffusion.path} takes {takes}")
        if sampling.eta > 0 and not ddpm:
            raise ValueError(f"sampling.eta={sampling.eta}: only ddim takes one, flow_ot's samplers are deterministic")
        if ddpm and sampling.steps > self.diffusion.num_timesteps:
            raise ValueError(
                f"sampling.steps={sampling.steps}: at most diffusion.num_timesteps={self.diffusion.num_timesteps}"
            )
        if self.training.ema_start >= self.training.steps and self.sampling.weights == "ema":
            raise ValueError(
                f"training.ema_start={self.training.ema_start} is not before training.steps={self.training.steps}, "
                "so sampling.weights=ema would have nothing to sample with; start it earlier or take weights=raw"
            )
        return self

    @model_validator(mode="after")
    def _terms_have_what_they_need(self) -> Recipe:
        for key, term in self.objective.terms.items():
            if isinstance(term, SelfPerceptualConfig) and self.training.initial_checkpoint is None:
                raise ValueError(
                    f"objective.{key}.kind=self_perceptual compares in the denoiser that post-training starts from; "
                    "name it in training.initial_checkpoint"
                )
            trained = isinstance(term, LatentLPIPSConfig) and term.classifier is None
            if trained and self.data.label_column is None:
                raise ValueError(
                    f"objective.{key}.classifier=null trains on labels, and data.label_column=null says that there are "
                    "none; name a classifier that `lpl train-latent-classifier` wrote"
                )
        return self

    @model_validator(mode="after")
    def _measured_before_the_end(self) -> Recipe:
        batches = self.training.steps * self.training.accumulation
        for key, term in self.objective.terms.items():
            measured = term.weight == "matched" or key == "gate_perceptual"
            if measured and term.matching_batches >= batches:
                raise ValueError(
                    f"objective.{key}.matching_batches={term.matching_batches} is not less than the {batches} batches "
                    "of training, so that what is measured in them would never be trained with; train for longer, or "
                    "measure fewer"
                )
        return self

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.output).expanduser() if self.output else Path("runs") / self.name


@overload
def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe: ...


@overload
def load_recipe(path: str | Path, overrides: Sequence[str], schema: type[SectionType]) -> SectionType: ...


def load_recipe(path: str | Path, overrides: Sequence[str] = (), schema: type[Section] | None = None) -> Section:
    """Reads a recipe, applies `key=value` overrides (dotted keys, YAML values), and checks the whole.

    Args:
        path: the YAML file.
        overrides: settings that replace those of the file, such as "training.steps=1000".
        schema: what the file describes; by default a `Recipe`.

    Raises:
        RecipeError: the file is missing or is not YAML, an override is not of the form key=value, a key is unknown or
            a value impossible.
    """
    return build_recipe(apply_overrides(read_yaml(Path(path)), overrides), str(path), schema or Recipe)


@overload
def build_recipe(values: Mapping[str, Any], origin: str = "recipe") -> Recipe: ...


@overload
def build_recipe(values: Mapping[str, Any], origin: str, schema: type[SectionType]) -> SectionType: ...


def build_recipe(values: Mapping[str, Any], origin: str = "recipe", schema: type[Section] | None = None) -> Section:
    """Validates nested mappings into a `Recipe`, or into another section; `origin` names their source in messages.

    Raises:
        RecipeError: keys that are unknown and values that are impossible, all of them.
    """
    schema = schema or Recipe
    problems = list(unknown_keys(values, schema))
    try:
        recipe = schema.model_validate(values)
    except ValidationError as error:
        problems += [describe(entry) for entry in error.errors() if entry["type"] != "extra_forbidden"]
        raise RecipeError(f"{origin}: " + "; ".join(problems)) from None
    return recipe


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested mappings with `key=value` settings replaced; keys are dotted, values are YAML.

    Raises:
        RecipeError: an override is not of that form.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise RecipeError(f"{override!r} is not of the form key=value, such as training.steps=1000")
        set_dotted(changed, key, parse_value(text, override))
    return changed


def dump_recipe(recipe: Section) -> str:
    """The whole recipe as YAML, defaults included: what was run, not what was written."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, extended_by: Sequence[Path] = ()) -> dict[str, Any]:
    """A YAML mapping, merged over the one named by its `extends` key (relative to the file).

    Args:
        path: the file.
        extended_by: files that extend it, one after the other, lest they go round in a circle.

    Raises:
        RecipeError: a file is missing, is no YAML mapping, has a key twice, or extends itself.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, got {type(values).__name__}")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: extends: got {parent!r}, takes the name of another recipe file")
    way = [*extended_by, path]
    below = path.parent / parent
    if below.resolve() in [file.resolve() for file in way]:
        raise RecipeError(f"{path}: extends itself, by way of {' → '.join(map(str, [*way, below]))}")
    return merge(read_yaml(below, way), values)


class _UniqueKeys(yaml.SafeLoader):
    """Reads YAML whose mappings have each key once; PyYAML takes the last of several and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping's keys and values."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key_node, _ in node.value:
            if keys.count(key_node.value) > 1:
                raise yaml.constructor.ConstructorError(
                    "while reading a section",
                    node.start_mark,
                    f"{key_node.value} stands there twice",
                    key_node.start_mark,
                )
        return super().construct_mapping(node, deep)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`, section by section; a value of `top` replaces the one below it."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b.c` in nested dictionaries, making those that are missing."""
    *parents, last = key.split(".")
    for parent in parents:
        below = values.get(parent)
        if below is None:
            below = {}
        elif not isinstance(below, dict):
            raise RecipeError(f"{key}: {parent} is the value {below!r}, not a section")
        values[parent] = below
        values = below
    values[last] = value


def parse_value(text: str, origin: str) -> Any:
    """A YAML value written on the command line."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin}: not a YAML value: {error}") from None
    return value
