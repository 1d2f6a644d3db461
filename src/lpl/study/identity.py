"""What went into a run: two trainings of equal identity are one run, whichever study asks for it.

An identity holds everything that changes the trained weights: the recipe's keys that do, the images and the
autoencoder by their content rather than by their path, and the identity of the run it begins from. Sampling and
evaluation are not part of it; they have keys of their own.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import AutoencoderConfig, DataConfig, EvaluationConfig, Recipe, SamplingConfig, build_recipe
from ..data.images import digest
from ..training.run_folder import FREE_KEYS

# Keys that say where something lies; its content is looked at instead.
PATHS = frozenset(
    {
        "data.source",
        "data.format",
        "data.split",
        "data.image_column",
        "data.label_column",
        "data.limit",
        "autoencoder.path",
        "autoencoder.subfolder",
        "training.initial_checkpoint",
    }
)
# Keys that a resumed run may change, and that change what comes out, how fast it comes or how much memory it takes.
TELLING = frozenset({"training.time_budget", "training.accumulation", "denoiser.gradient_checkpointing"})
LEFT_OUT = PATHS | (FREE_KEYS - TELLING)
# Keys that name a file or folder that training reads, or FILE.py:CLASS.
CONTENT_KEYS = tuple(
    f"objective.{term}.{key}" for term in ("perceptual", "gate_perceptual") for key in ("classifier", "term")
)
SPEED_SETTINGS = ("batch_size",)  # of sampling and evaluation: how the same numbers are computed


@dataclass(frozen=True)
class Training:
    """A run that a study needs.

    Attributes:
        label: its name for people.
        recipe: without `output` and `initial_checkpoint`, which depend on where runs lie.
        start: what it begins from; None for random weights.
        same_time_as: it trains for as many seconds as this one took.
        milestones: steps whose checkpoints are kept for evaluation.
    """

    label: str
    recipe: Recipe
    start: Training | Adopted | None = None
    same_time_as: Training | None = None
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True)
class Adopted:
    """A checkpoint that exists already, and takes the place of a pre-training.

    Attributes:
        label: its name for people.
        checkpoint: its folder.
        recipe: of the study's pre-training, for the data and the autoencoder.
    """

    label: str
    checkpoint: Path
    recipe: Recipe


@dataclass
class Fingerprints:
    """Contents of data sets, autoencoders, files and extractors, looked at once."""

    _known: dict[Any, str] = field(default_factory=dict)

    def images(self, data: DataConfig, holdout: bool = False) -> str:
        """Of the training or the held-out images, their order and labels.

        Raises:
            DataError: they can't be opened.
        """
        from ..data import open_images

        return self._once(("images", data, holdout), lambda: open_images(data, holdout).fingerprint())

    def autoencoder(self, config: AutoencoderConfig) -> str:
        """Of the weights, the configuration and the precision.

        Raises:
            FileNotFoundError: there is none.
        """
        import torch

        from ..autoencoders import load_autoencoder

        dtype = getattr(torch, config.precision)
        key = ("autoencoder", config.path, config.subfolder, config.precision)
        return self._once(key, lambda: load_autoencoder(config.path, config.subfolder, dtype).fingerprint())

    def extractor(self, spec: str) -> str:
        """Of the extractor's weights; "none" where there is none.

        Raises:
            ExtractorError: it can't be loaded.
        """
        from ..evaluation.extractors import load_extractor

        if spec == "none":
            return spec
        return self._once(("extractor", spec), lambda: load_extractor(spec).fingerprint())

    def file(self, path: Path) -> str:
        """Of a file, or of every file in a folder."""
        return self._once(("file", str(path)), lambda: _content(path))

    def _once(self, key: Any, compute: Any) -> str:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def identity_of(training: Training | Adopted, known: Fingerprints) -> dict[str, Any]:
    """Everything that a run's weights depend on, as JSON holds it."""
    if isinstance(training, Adopted):
        return {"checkpoint": _checkpoint_content(training.checkpoint)}
    recipe, start = training.recipe, training.start
    values = recipe.model_dump(mode="json")
    return {
        "recipe": values,
        "images": known.images(recipe.data),
        "autoencoder": known.autoencoder(recipe.autoencoder),
        "contents": _contents(values, known),
        "start": None if start is None else identity_of(start, known),
        "same_time_as": None if training.same_time_as is None else identity_of(training.same_time_as, known),
    }


def identity_key(identity: Mapping[str, Any]) -> str:
    """A short name for an identity: 10 hexadecimal digits.

    Recipes of runs trained by an older version lack the keys that were added since; those have their defaults.

    Raises:
        RecipeError: the recipe is not one that this version can follow.
    """
    return digest(json.dumps(_canonical(identity), sort_keys=True))[:10]


def set_key(step: int, sampling: SamplingConfig) -> str:
    """A name for the samples drawn from a run's checkpoint: 10 hexadecimal digits."""
    settings = {key: value for key, value in sampling.model_dump(mode="json").items() if key not in SPEED_SETTINGS}
    return digest(step, sorted(settings.items()))[:10]


def evaluation_contents(evaluation: EvaluationConfig, data: DataConfig, known: Fingerprints) -> str:
    """What samples are measured with and against, by content: the settings, the reference and the extractor."""
    from ..evaluation.summary import MEASURING

    settings = {key: value for key, value in evaluation.model_dump(mode="json").items() if key not in SPEED_SETTINGS}
    settings["extractor"] = known.extractor(evaluation.extractor)
    images = known.images(data, holdout=evaluation.reference == "holdout")
    return digest(MEASURING, sorted(settings.items()), images, data.resolution, data.crop)


def evaluation_key(step: int, sampling: SamplingConfig, contents: str) -> str:
    """A name for one measurement of a run's samples, with what `evaluation_contents` says."""
    return digest(set_key(step, sampling), contents)[:10]


def _canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    if "checkpoint" in identity:
        return dict(identity)
    recipe = build_recipe(identity["recipe"], "a run's identity").model_dump(mode="json")
    for section in ("sampling", "evaluation"):
        recipe.pop(section)
    contents = identity.get("contents") or {}
    for key in (*LEFT_OUT, *contents):
        _drop(recipe, key)
    if identity.get("start") is None:
        _drop(recipe, "training.initial_weights")
    nested = {name: identity.get(name) for name in ("start", "same_time_as")}
    return {
        **identity,
        "recipe": recipe,
        "contents": contents,
        **{name: None if value is None else _canonical(value) for name, value in nested.items()},
    }


def _contents(values: Mapping[str, Any], known: Fingerprints) -> dict[str, str]:
    """Fingerprints of the files that a recipe names, by key; of a class in a file, its name too."""
    contents = {}
    for key in CONTENT_KEYS:
        named = _dotted(values, key)
        if not isinstance(named, str):
            continue
        file, separator, name = named.rpartition(":")
        path = Path(file) if separator and file.endswith(".py") else Path(named)
        if path.exists():
            contents[key] = f"{known.file(path)}{f':{name}' if path.suffix == '.py' else ''}"
    return contents


def _checkpoint_content(checkpoint: Path) -> dict[str, Any]:
    from ..training.checkpoints import read_state

    files = read_state(checkpoint)["files"]
    return {name: record["crc32"] for name, record in sorted(files.items()) if not name.startswith("optimizer")}


def _content(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return digest([(str(file.relative_to(path)), zlib.crc32(file.read_bytes())) for file in files])


def _dotted(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _drop(values: dict[str, Any], key: str) -> None:
    *parents, last = key.split(".")
    below: Any = values
    for name in parents:
        below = below.get(name) if isinstance(below, dict) else None
    if isinstance(below, dict):
        below.pop(last, None)
