"""The evaluation of a run, from its folder of samples to metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lpl.config import EvaluationConfig
from lpl.data.images import UnreadableImage
from lpl.evaluation import (
    PatchSettings,
    SampleError,
    evaluate,
    frechet_distance,
    load_extractor,
    radial_power_spectrum,
    read_metrics,
    sliced_wasserstein,
)
from lpl.evaluation.reference import Stratified

Draw = Callable[..., torch.Tensor]
Write = Callable[..., Path]
PATCHES = PatchSettings(patches_per_image=4, directions=16)
QUIET: dict[str, Any] = {"patches": PATCHES, "progress": False}


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


class Reference(torch.utils.data.Dataset):
    """Counts how often its images are read."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self.reads = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.reads += 1
        return self.images[index], 0

    def fingerprint(self) -> str:
        return "fixed"


def test_results_are_those_of_the_pure_functions(random_pixels: Draw, sample_folder: Write, user_module: str) -> None:
    ours, theirs = random_pixels(40), as_images(random_pixels(50, seed=1))
    run = sample_folder(ours)
    config = EvaluationConfig(extractor=user_module, kid_subset_size=20, kid_subsets=4, batch_size=16)
    entry = evaluate(run, config, theirs, reference_description="noise", **QUIET)
    extractor = load_extractor(user_module)
    expected = frechet_distance(extractor(as_images(ours)), extractor(theirs))
    assert entry["results"]["frechet_distance"] == pytest.approx(expected, rel=1e-4)
    expected = sliced_wasserstein(as_images(ours), theirs, PATCHES).mean
    assert entry["results"]["sliced_wasserstein"] == pytest.approx(expected, rel=1e-2)
    power = radial_power_spectrum(theirs).mean(dim=0)
    torch.testing.assert_close(torch.tensor(entry["spectrum"]["reference"]), power, rtol=1e-3, atol=0)
    assert entry["spectrum"]["frequency"] == pytest.approx([k / 16 for k in range(1, 9)])
    assert entry["settings"] == {
        **config.model_dump(),
        "seed": 0,
        "sliced_wasserstein": {"patch_size": 7, "patches_per_image": 4, "max_images": 2048, "directions": 16},
    }


def test_file_holds_what_it_takes_to_repeat_it(random_pixels: Draw, sample_folder: Write, user_module: str) -> None:
    run = sample_folder(random_pixels(20))
    entry = evaluate(run, EvaluationConfig(extractor=user_module), Reference(as_images(random_pixels(8))), **QUIET)
    written = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert written["format"] == 1
    assert written["sets"] == {"default": entry}
    assert set(written["measures"]["frechet_distance"]) == {"label", "better", "description"}
    provenance = entry["provenance"]
    assert provenance["samples"] == {
        "set": "default",
        "count": 20,
        "resolution": 16,
        "seed": 7,
        "checkpoint": "step-9",
        "settings": {"steps": 5},
    }
    assert provenance["reference"] == {"description": "train", "count": 8, "resolution": 16, "fingerprint": "fixed"}
    extractor = load_extractor(user_module)
    assert provenance["extractor"] == {
        "spec": user_module,
        "name": "colours:colours",
        "fingerprint": extractor.fingerprint(),
        "dimension": 12,
    }
    assert {"lpl", "python", "torch", "numpy", "scipy", "transformers"} <= set(provenance["versions"])
    assert [path.name for path in sorted(run.iterdir())] == ["metrics.json", "samples"]  # nothing temporary is left


def test_sets_lie_side_by_side_and_again_replaces_one(random_pixels: Draw, sample_folder: Write) -> None:
    run, theirs = sample_folder(random_pixels(6)), as_images(random_pixels(6, seed=1))
    sample_folder(random_pixels(7, seed=2), "guided")
    first = evaluate(run, EvaluationConfig(), theirs, **QUIET)
    second = evaluate(run, EvaluationConfig(), theirs, "guided", **QUIET)
    assert read_metrics(run)["sets"] == {"default": first, "guided": second}
    again = evaluate(run, EvaluationConfig(), theirs, seed=1, **QUIET)
    assert read_metrics(run)["sets"] == {"default": again, "guided": second}
    assert again["results"] != first["results"]


def test_equal_seeds_give_equal_results(random_pixels: Draw, sample_folder: Write, user_module: str) -> None:
    run, theirs = sample_folder(random_pixels(30)), as_images(random_pixels(30, seed=1))
    config = EvaluationConfig(extractor=user_module, kid_subset_size=10, kid_subsets=3)
    results = [evaluate(run, config, iter(theirs), **QUIET)["results"] for _ in range(2)]
    assert results[0] == results[1]
    smaller = evaluate(run, config.model_copy(update={"batch_size": 7}), theirs, **QUIET)["results"]
    assert smaller == pytest.approx(results[0], rel=1e-3, abs=1e-6)


def test_baselines_are_measured_against_the_same_reference(random_pixels: Draw, sample_folder: Write) -> None:
    run, theirs = sample_folder(random_pixels(9)), as_images(random_pixels(12, seed=1))
    darker = (theirs + 1) * 0.5 - 1
    others = {"reconstruction": theirs, "darker": iter(darker)}
    entry = evaluate(run, EvaluationConfig(), theirs, baselines=others, **QUIET)
    floor, dark = entry["baselines"]["reconstruction"], entry["baselines"]["darker"]
    assert floor["count"] == dark["count"] == 12
    assert floor["results"]["sliced_wasserstein_shared"] == 0
    assert floor["results"]["log_spectral_distance"] == 0
    assert dark["results"]["contrast_ratio"] == pytest.approx(0.5, abs=0.01)
    assert dark["results"]["log_spectral_distance"] == pytest.approx(20 * math.log10(2), abs=0.1)
    assert dark["spectrum"]["reference"] == entry["spectrum"]["reference"]
    assert floor["notes"] == entry["notes"]


def test_the_reference_is_limited_and_cached(random_pixels: Draw, sample_folder: Write, tmp_path: Path) -> None:
    run, reference = sample_folder(random_pixels(6)), Reference(as_images(random_pixels(40, seed=1)))
    cache = {"cache_dir": tmp_path / "cache", **QUIET}
    first = evaluate(run, EvaluationConfig(reference_limit=10), reference, **cache)
    assert first["provenance"]["reference"]["count"] == 10
    reads = reference.reads
    again = evaluate(run, EvaluationConfig(reference_limit=10), reference, **cache)
    assert reference.reads == reads + 1  # only its size was looked at
    assert again["results"] == first["results"]
    other = evaluate(run, EvaluationConfig(reference_limit=20), reference, **cache)
    assert other["provenance"]["reference"]["count"] == 20
    chosen = torch.stack(list(Stratified(reference.images, 10)))
    spread = evaluate(run, EvaluationConfig(), chosen, **QUIET)
    assert spread["results"]["contrast_reference"] == first["results"]["contrast_reference"]


def test_an_evaluation_that_ends_meanwhile_is_kept(random_pixels: Draw, sample_folder: Write) -> None:
    run, theirs = sample_folder(random_pixels(6)), as_images(random_pixels(6, seed=1))
    sample_folder(random_pixels(7, seed=2), "guided")

    def interrupted() -> Iterator[torch.Tensor]:
        evaluate(run, EvaluationConfig(), theirs, "guided", **QUIET)
        yield from theirs

    evaluate(run, EvaluationConfig(), interrupted(), **QUIET)
    assert sorted(read_metrics(run)["sets"]) == ["default", "guided"]


def test_a_cache_needs_to_know_the_reference(random_pixels: Draw, sample_folder: Write, tmp_path: Path) -> None:
    run, theirs = sample_folder(random_pixels(3)), as_images(random_pixels(3))
    with pytest.raises(ValueError, match="cache_dir: needs reference_fingerprint"):
        evaluate(run, EvaluationConfig(), theirs, cache_dir=tmp_path, **QUIET)
    entry = evaluate(run, EvaluationConfig(), theirs, cache_dir=tmp_path, reference_fingerprint="mine", **QUIET)
    assert entry["provenance"]["reference"]["fingerprint"] == "mine"


def test_corrupt_reference_images_are_noted(random_pixels: Draw, sample_folder: Write) -> None:
    class Corrupt(Reference):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if index == 1:
                raise UnreadableImage("forest/1.png", "cut short")
            return super().__getitem__(index)

    entry = evaluate(sample_folder(random_pixels(3)), EvaluationConfig(), Corrupt(as_images(random_pixels(5))), **QUIET)
    assert entry["provenance"]["reference"]["count"] == 4
    assert "reference: 1 images were left out: forest/1.png: unreadable image: cut short" in entry["notes"]


def test_sizes_that_don_t_agree_are_refused_before_any_work(random_pixels: Draw, sample_folder: Write) -> None:
    run, theirs = sample_folder(random_pixels(3)), as_images(random_pixels(3))
    with pytest.raises(ValueError, match=r"reference: images are 32×32 pixels and the samples in set 'default' 16×16"):
        evaluate(run, EvaluationConfig(), torch.zeros(2, 3, 32, 32), **QUIET)
    with pytest.raises(ValueError, match=r"reconstruction: images are 8×8 pixels"):
        evaluate(run, EvaluationConfig(), theirs, baselines={"reconstruction": torch.zeros(2, 3, 8, 8)}, **QUIET)
    with pytest.raises(ValueError, match="reference: there are no images"):
        evaluate(run, EvaluationConfig(), [], **QUIET)
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"results": {}}'])
def test_a_file_of_another_kind_is_not_overwritten(random_pixels: Draw, sample_folder: Write, text: str) -> None:
    run = sample_folder(random_pixels(3))
    (run / "metrics.json").write_text(text)
    with pytest.raises(SampleError, match=r"metrics.json: .*move it away and evaluate again"):
        evaluate(run, EvaluationConfig(), as_images(random_pixels(3)), **QUIET)
    assert (run / "metrics.json").read_text() == text


def test_progress_goes_to_stderr(random_pixels: Draw, sample_folder: Write, capsys: pytest.CaptureFixture[str]) -> None:
    run, theirs = sample_folder(random_pixels(3)), as_images(random_pixels(3))
    evaluate(run, EvaluationConfig(), theirs, patches=PATCHES)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(text in shown.err for text in ("measuring samples", "measuring reference", "comparing samples", "3/3"))
