"""Carries out one job of a study: trains one run, and samples and measures it in every way that is asked for.

Whatever is there already is left as it is, so that a study that was stopped carries on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from ..config import EvaluationConfig, Recipe, SamplingConfig, build_recipe, load_recipe
from ..data.images import digest
from ..training.display import say
from ..training.run_folder import run_information, write_text
from .identity import evaluation_key, set_key
from .store import is_complete

REFERENCES = "reference"  # folder of the store for features of reference images
RECONSTRUCTIONS = "reconstructions"  # and for how the autoencoder's reconstructions of them measure up


@dataclass(frozen=True)
class Measurement:
    """One way of measuring a run.

    Attributes:
        step: of the checkpoint; None for the last one.
        sampling: how images are drawn.
        evaluation: how they are measured.
        contents: what they are measured with and against, see `evaluation_contents`.
        autoencoder: its fingerprint.
    """

    step: int | None
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    contents: str
    autoencoder: str


@dataclass(frozen=True)
class Job:
    """One run and its measurements; or, without a folder, only the encoding of a recipe's images.

    Attributes:
        label: for people.
        recipe: with its output and the checkpoint it begins from.
        folder: of the run.
        lock: file that is held while working on the run.
        time_from: folder of the run whose seconds of training are this one's time budget.
        measurements: to be made once it is trained.
        after: folders of runs that have to be there first.
    """

    label: str
    recipe: Recipe
    folder: Path | None = None
    lock: Path | None = None
    time_from: Path | None = None
    measurements: tuple[Measurement, ...] = field(default=())
    after: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        if self.folder is None or not is_complete(self.folder):
            return False
        return all(read_measurement(self.folder, wanted) is not None for wanted in self.measurements)


def carry_out(job: Job, progress: bool = True) -> None:
    """Does a job, as far as it is not done.

    Raises:
        LplError: training, sampling or measuring is not possible.
        TrainingInterrupted: a signal asked it to stop; what was trained is saved.
    """
    if job.folder is None:
        _encode(job.recipe, progress)
        return
    assert job.lock is not None
    with _held(job.lock, job.label):
        if not is_complete(job.folder):
            _train(job)
        for wanted in job.measurements:
            if read_measurement(job.folder, wanted) is None:
                _measure(job, job.folder, wanted, progress)


def measurement_file(run: Path, wanted: Measurement) -> Path:
    """Where the result of a measurement lies, or would."""
    key = evaluation_key(_step(run, wanted), wanted.sampling, wanted.contents)
    return run / "evaluations" / f"{key}.json"


def read_measurement(run: Path, wanted: Measurement) -> dict[str, Any] | None:
    """A measurement's result: "set", "step", "entry" and "measures", as metrics.json has them; None if not made yet."""
    file = measurement_file(run, wanted)
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def job_to_json(job: Job) -> str:
    """A job as text, for a process of its own."""
    values = asdict(job)
    values["recipe"] = job.recipe.model_dump(mode="json")
    values["measurements"] = [
        {
            **asdict(wanted),
            "sampling": wanted.sampling.model_dump(mode="json"),
            "evaluation": wanted.evaluation.model_dump(mode="json"),
        }
        for wanted in job.measurements
    ]
    return json.dumps(values, indent=1, default=str)


def job_from_json(text: str) -> Job:
    """What `job_to_json` wrote."""
    values = json.loads(text)
    paths = {name: Path(values[name]) if values[name] else None for name in ("folder", "lock", "time_from")}
    measurements = tuple(_measurement(entry) for entry in values["measurements"])
    recipe = build_recipe(values["recipe"], values["label"])
    after = tuple(Path(path) for path in values["after"])
    return Job(values["label"], recipe, **paths, measurements=measurements, after=after)


def _measurement(values: Mapping[str, Any]) -> Measurement:
    sampling = build_recipe(values["sampling"], "sampling", SamplingConfig)
    evaluation = build_recipe(values["evaluation"], "evaluation", EvaluationConfig)
    return Measurement(values["step"], sampling, evaluation, values["contents"], values["autoencoder"])


def _train(job: Job) -> None:
    from ..training import train

    recipe = job.recipe
    if job.time_from is not None:
        seconds = float(run_information(job.time_from)["seconds"])
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"time_budget": seconds})})
    train(recipe)


def _measure(job: Job, run: Path, wanted: Measurement, progress: bool) -> None:
    """Samples, where that has not been done, and measures."""
    from ..evaluation.evaluate import read_metrics
    from ..training import sample_run

    step = _step(run, wanted)
    name = _set_name(run, wanted, step)
    if not _has_samples(run, name, wanted.sampling, step):
        checkpoint = run / "checkpoints" / f"step-{step:08d}"
        sample_run(run, wanted.sampling, name, progress, checkpoint, job.recipe.autoencoder)
    entry = _evaluate(job.recipe, run, wanted, name, progress)
    content = {"set": name, "step": step, "entry": entry, "measures": read_metrics(run)["measures"]}
    _write_json(measurement_file(run, wanted), content)


def reconstructions_file(store: Path, wanted: Measurement) -> Path:
    """Where it lies how as many reconstructions as there are samples measure up, or would."""
    key = digest(wanted.contents, wanted.autoencoder, wanted.sampling.count)[:10]
    return store / RECONSTRUCTIONS / f"{key}.json"


def _evaluate(recipe: Recipe, run: Path, wanted: Measurement, name: str, progress: bool) -> dict[str, Any]:
    """The set's entry; how reconstructions measure up does not depend on the run, and is measured once a store."""
    import torch

    from ..evaluation.run import evaluate_run

    floor = reconstructions_file(run.parent, wanted)
    known = json.loads(floor.read_text(encoding="utf-8")) if floor.is_file() else None
    entry = evaluate_run(
        run,
        wanted.evaluation,
        name,
        device="cuda" if torch.cuda.is_available() else "cpu",
        cache_dir=run.parent / REFERENCES,
        progress=progress,
        recipe=recipe,
        reconstructions=known,
    )
    if known is None:
        _write_json(floor, entry["baselines"]["reconstruction"])
    return entry


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _encode(recipe: Recipe, progress: bool) -> None:
    """Makes what several runs read: the latents, and a classifier of them where one is trained for a term."""
    import torch

    from ..autoencoders import load_autoencoder
    from ..data import build_latent_cache
    from ..objective_sections import LatentLPIPSConfig
    from ..training.latent_classifier_training import classifier_of

    config = recipe.autoencoder
    device = "cuda" if torch.cuda.is_available() else "cpu"
    codec = load_autoencoder(config.path, config.subfolder, getattr(torch, config.precision), device)
    build_latent_cache(recipe.data, codec, config.batch_size, progress=progress)
    for term in recipe.objective.terms.values():
        if isinstance(term, LatentLPIPSConfig) and term.classifier is None:
            classifier_of(recipe, codec, term.classifier_training, progress=progress)


def _step(run: Path, wanted: Measurement) -> int:
    return int(run_information(run)["step"]) if wanted.step is None else wanted.step


def _set_name(run: Path, wanted: Measurement, step: int) -> str:
    """`default` for what the run's own recipe asks for, so that other commands find it; else a telling name."""
    if wanted.step is None and _alike(load_recipe(run / "recipe.yaml").sampling, wanted.sampling):
        return "default"
    sampling = wanted.sampling
    guidance = f"guidance{sampling.guidance_scale:g}"
    parts = [f"step{step}", sampling.method, guidance, sampling.weights, f"seed{sampling.seed}"]
    return "-".join([*parts, set_key(step, sampling)])


def _has_samples(run: Path, name: str, sampling: SamplingConfig, step: int) -> bool:
    """Whether the samples there are those that are asked for."""
    path = run / "samples" / name / "samples.json"
    if not path.is_file():
        return False
    details = json.loads(path.read_text(encoding="utf-8"))
    settings = build_recipe(details["settings"], str(path), SamplingConfig)
    return details["step"] == step and _alike(settings, sampling)


def _alike(first: SamplingConfig, second: SamplingConfig) -> bool:
    return set_key(0, first) == set_key(0, second)


def _held(path: Path, label: str) -> AcquireReturnProxy:
    """A run's lock, once whoever else works on the run is done with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say(f"{label}: waiting for another study that works on this run")
        return lock.acquire()
