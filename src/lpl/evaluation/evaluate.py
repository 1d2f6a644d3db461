"""Measures the samples of a run against reference images, and writes RUN/metrics.json."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import EvaluationConfig
from .extractors import Extractor, load_extractor
from .measures import MEASURES, MeasureSettings, all_labels, compare
from .reference import Indexed, limited
from .samples import SampleError, SampleSet, open_samples
from .sliced_wasserstein import PatchSettings
from .spectrum import spectrum_frequencies
from .summary import ImageSummary, SummarySettings, cached_summary, first_image, summarize, summary_key

FORMAT = 1  # of metrics.json
VERSIONED = ("torch", "numpy", "scipy", "pillow", "transformers")


@dataclass(frozen=True)
class _Job:
    """An evaluation whose inputs have been checked.

    Attributes:
        samples: that are judged.
        reference: images they are compared with, at most `reference_limit` of them.
        description: of the reference, for people.
        fingerprint: of the reference, where it has one.
        baselines: more sets that are compared with the reference.
        measures: settings of the measures.
        summaries: settings of the pass over the images.
        cache: folder where the reference's summary is kept.
    """

    samples: SampleSet
    reference: Iterable[Any] | Indexed
    description: str
    fingerprint: str | None
    baselines: dict[str, Iterable[Any] | Indexed]
    measures: MeasureSettings
    summaries: SummarySettings
    cache: Path | None


def evaluate(
    run_folder: str | Path,
    config: EvaluationConfig,
    reference_images: Iterable[Any] | Indexed,
    sample_set: str = "default",
    *,
    reference_description: str | None = None,
    reference_fingerprint: str | None = None,
    baselines: Mapping[str, Iterable[Any] | Indexed] | None = None,
    measured_baselines: Mapping[str, Mapping[str, Any]] | None = None,
    extractor: Extractor | None = None,
    cache_dir: str | Path | None = None,
    patches: PatchSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Computes every measure that the samples allow, and files the results under `sample_set` in RUN/metrics.json.

    Args:
        run_folder: the run's folder, with samples/SET/*.png and samples.json.
        config: extractor, neighbours, subsets, limit of the reference and batch size.
        reference_images: tensors (3, R, R) float in [-1, 1], as an iterable or a data set; tuples that begin with one
            will do. Of a data set with a length, `config.reference_limit` takes images from all over it; of another
            iterable, the first ones.
        sample_set: folder below RUN/samples; also the key in metrics.json, where other sets stay as they are.
        reference_description: for people, such as "scenes-128, train"; by default `config.reference`.
        reference_fingerprint: hash of the reference images; by default what their method `fingerprint()` says, if any.
        baselines: more sets to compare with the reference, by name: {"reconstruction": the autoencoder's output on
            as many images} gives the distance below which no latent diffusion model can be expected to get.
        measured_baselines: baselines as an earlier evaluation with the same settings returned them, taken over as they
            are.
        extractor: one that is already loaded, in place of `config.extractor`.
        cache_dir: where the reference's features are kept from one evaluation to the next; None for nowhere.
        patches: settings of the sliced Wasserstein distance; the defaults if None.
        seed: of patches, directions and subsets; samples are only comparable at equal seeds.
        device: where images are measured, "cpu" or "cuda".
        progress: whether to show bars with the remaining time on stderr.

    Returns:
        The set's entry in metrics.json: settings, results, notes, spectrum, baselines and provenance.

    Raises:
        SampleError: no such run or set, an incomplete set, or a metrics.json that is not ours.
        ExtractorError: the extractor can't be loaded or returns no features.
        TypeError, ValueError: images of another kind, or sizes that don't agree.
    """
    start = time.monotonic()
    samples = open_samples(run_folder, sample_set)
    read_metrics(run_folder)  # refuses what is not ours before anything takes long
    fingerprint = reference_fingerprint or _fingerprint_of(reference_images)
    if cache_dir is not None and fingerprint is None:
        raise ValueError("cache_dir: needs reference_fingerprint, or reference images with a method fingerprint()")
    reference = _same_size(limited(reference_images, config.reference_limit), "reference", samples)
    floors = {name: _same_size(images, name, samples) for name, images in (baselines or {}).items()}
    if extractor is None and config.extractor != "none":
        extractor = load_extractor(config.extractor, device)
    measures = MeasureSettings(config, patches or PatchSettings(), seed, device)
    summaries = SummarySettings(extractor, measures.patches, seed, config.batch_size, device)
    job = _Job(
        samples=samples,
        reference=reference,
        description=reference_description or config.reference,
        fingerprint=fingerprint,
        baselines=floors,
        measures=measures,
        summaries=summaries,
        cache=None if cache_dir is None else Path(cache_dir),
    )
    with _progress_bars(progress) as bars:
        entry, count = _measure(job, bars)
    entry["baselines"] |= measured_baselines or {}
    entry["provenance"] = _provenance(job, count, time.monotonic() - start)
    _write(Path(run_folder), sample_set, entry)
    return entry


def read_metrics(run_folder: str | Path) -> dict[str, Any]:
    """What RUN/metrics.json holds, or the empty frame of it if there is none.

    Raises:
        SampleError: the file is not one that `evaluate` wrote.
    """
    file = Path(run_folder) / "metrics.json"
    if not file.is_file():
        return {"format": FORMAT, "measures": {}, "sets": {}}
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SampleError(f"{file}: not valid JSON ({error}); move it away and evaluate again") from error
    if not isinstance(metrics, dict) or metrics.get("format") != FORMAT or not isinstance(metrics.get("sets"), dict):
        raise SampleError(f"{file}: not written by this version of lpl; move it away and evaluate again")
    return metrics


def _fingerprint_of(images: Iterable[Any] | Indexed) -> str | None:
    method = getattr(images, "fingerprint", None)
    return method() if callable(method) else None


def _same_size(images: Iterable[Any] | Indexed, name: str, samples: SampleSet) -> Iterable[Any] | Indexed:
    """The images, once the first of them has been found to be of the samples' size."""
    first, images = first_image(images, name)
    if first.shape[-1] != samples.resolution:
        raise ValueError(
            f"{name}: images are {first.shape[-1]}×{first.shape[-1]} pixels and the samples in set {samples.name!r} "
            f"{samples.resolution}×{samples.resolution}; evaluate against images of the samples' size"
        )
    return images


def _measure(job: _Job, bars: Progress) -> tuple[dict[str, Any], int]:
    """Settings, results, notes, spectrum and baselines of the entry, and the number of reference images."""
    notes: list[str] = []
    samples = _summarize(job, bars, "samples", job.samples)
    reference = _reference_summary(job, bars, notes.append)
    entry = _compared(job, bars, "samples", samples, reference)
    entry["notes"] += notes
    entry["baselines"] = {}
    for name, images in job.baselines.items():
        baseline = _summarize(job, bars, name, images)
        entry["baselines"][name] = {"count": baseline.count, **_compared(job, bars, name, baseline, reference)}
    settings = job.measures
    patches = asdict(settings.patches)
    return {
        "settings": {**settings.config.model_dump(mode="json"), "seed": settings.seed, "sliced_wasserstein": patches},
        **entry,
    }, reference.count


def _reference_summary(job: _Job, bars: Progress, note: Callable[[str], object]) -> ImageSummary:
    def make() -> ImageSummary:
        return _summarize(job, bars, "reference", job.reference)

    summary = make() if job.cache is None else cached_summary(job.cache, _cache_key(job), make, note)
    if summary.skipped:
        note(f"reference: {len(summary.skipped)} images were left out: {'; '.join(summary.skipped[:5])}")
    return summary


def _cache_key(job: _Job) -> dict[str, Any]:
    images = f"{job.fingerprint} {job.measures.config.reference_limit}"
    return summary_key(job.summaries, images, job.samples.resolution)


def _summarize(job: _Job, bars: Progress, name: str, images: Iterable[Any] | Indexed) -> ImageSummary:
    total = len(images) if isinstance(images, Sized) else None
    task = bars.add_task(f"measuring {name}", total=total)
    return summarize(images, job.summaries, name, job.samples.resolution, lambda count: bars.advance(task, count))


def _compared(job: _Job, bars: Progress, name: str, ours: ImageSummary, theirs: ImageSummary) -> dict[str, Any]:
    """Results, notes and spectrum of one set of images against the reference."""
    task = bars.add_task(f"comparing {name}", total=len(MEASURES))
    results, notes = compare(ours, theirs, job.measures, lambda measure: bars.advance(task))
    bars.update(task, completed=len(MEASURES))
    return {
        "results": results,
        "notes": notes,
        "spectrum": {
            "frequency": spectrum_frequencies(ours.resolution).tolist(),
            "samples": ours.power.double().mean(dim=0).tolist(),
            "reference": theirs.power.double().mean(dim=0).tolist(),
        },
    }


def _provenance(job: _Job, reference_count: int, seconds: float) -> dict[str, Any]:
    """What it takes to repeat the evaluation, besides its settings."""
    known, extractor = job.samples.metadata, job.summaries.extractor
    return {
        "samples": {
            "set": job.samples.name,
            "count": len(job.samples),
            "resolution": job.samples.resolution,
            **{name: known.get(name) for name in ("seed", "checkpoint", "settings")},
        },
        "reference": {
            "description": job.description,
            "count": reference_count,
            "resolution": job.samples.resolution,
            "fingerprint": job.fingerprint,
        },
        "extractor": None
        if extractor is None
        else {
            "spec": job.measures.config.extractor,
            "name": extractor.name,
            "fingerprint": extractor.fingerprint(),
            "dimension": extractor.dimension,
        },
        "versions": _versions(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
    }


def _versions() -> dict[str, str]:
    try:
        ours = metadata.version("latent-perceptual-loss")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        ours = "not installed"
    others = {name: metadata.version(name) for name in VERSIONED}
    return {"lpl": ours, "python": platform.python_version(), **others}


def _write(run: Path, sample_set: str, entry: dict[str, Any]) -> None:
    """Replaces the set's entry, keeps the others, and writes the file whole or not at all.

    The others are read now: another evaluation may have ended while this one measured.
    """
    measures = {name: asdict(label) for name, label in all_labels().items()}
    file = run / "metrics.json"
    temporary = file.with_suffix(f".json.{os.getpid()}.tmp")
    content = {"format": FORMAT, "measures": measures, "sets": {**read_metrics(run)["sets"], sample_set: entry}}
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, file)


def _progress_bars(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown)
