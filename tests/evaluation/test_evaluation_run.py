"""The evaluation of a run against the images its own recipe names, and the floor its autoencoder sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from lpl.autoencoders import load_autoencoder
from lpl.config import DataConfig, EvaluationConfig, build_recipe, dump_recipe
from lpl.data import open_images
from lpl.evaluation import ReferenceImages, SampleError, contrast
from lpl.evaluation.run import Reconstructions, evaluate_run

Draw = Callable[..., torch.Tensor]
Write = Callable[..., Path]


@pytest.fixture
def photographs(tmp_path: Path, random_pixels: Draw) -> Path:
    """A folder of seven images in one class, the fourth of them corrupt."""
    folder = tmp_path / "photographs" / "only"
    folder.mkdir(parents=True)
    for index, image in enumerate(random_pixels(7, 32, seed=3)):
        Image.fromarray(image.permute(1, 2, 0).numpy().copy()).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes(b"no image")
    return folder.parent


@pytest.fixture
def autoencoder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    zoo.kl(levels=2).save_pretrained(tmp_path / "vae")
    return str(tmp_path / "vae")


def test_reconstructions_are_the_autoencoders_whatever_the_batch(photographs: Path, autoencoder: str) -> None:
    data = DataConfig(source=str(photographs), resolution=32)
    images = ReferenceImages(open_images(data), data)
    frozen = load_autoencoder(autoencoder)
    whole = torch.stack([images[index] for index in (0, 1, 2, 4, 5, 6)])
    expected = frozen.decode(frozen.encode(whole)[0])
    for batch_size in (4, 16):
        ours = torch.stack(list(Reconstructions(images, 100, frozen, batch_size)))
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_a_run_is_measured_by_its_own_recipe(
    photographs: Path, autoencoder: str, random_pixels: Draw, sample_folder: Write
) -> None:
    run = sample_folder(random_pixels(5, 32))
    values = {
        "data": {"source": str(photographs), "resolution": 32},
        "autoencoder": {"path": autoencoder, "batch_size": 4},
    }
    (run / "recipe.yaml").write_text(dump_recipe(build_recipe(values)))
    entry = evaluate_run(run, progress=False)
    assert entry["provenance"]["reference"]["description"] == f"{photographs} (training images)"
    assert entry["provenance"]["reference"]["count"] == 6
    assert any("3.png: unreadable image" in note for note in entry["notes"])
    data, frozen = DataConfig(source=str(photographs), resolution=32), load_autoencoder(autoencoder)
    rebuilt = torch.stack(list(Reconstructions(ReferenceImages(open_images(data), data), 5, frozen, batch_size=8)))
    assert entry["baselines"]["reconstruction"]["count"] == len(rebuilt)  # five, as there are samples, if all readable
    assert 4 <= len(rebuilt) <= 5
    floor = entry["baselines"]["reconstruction"]["results"]
    assert floor["contrast"] == pytest.approx(contrast(rebuilt).mean().item(), rel=1e-2)
    fewer = evaluate_run(run, EvaluationConfig(reference_limit=3), progress=False)
    assert 2 <= fewer["provenance"]["reference"]["count"] <= 3  # one of them may be the corrupt one


def test_a_folder_without_a_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"is not a run's folder: it holds no recipe.yaml"):
        evaluate_run(tmp_path)
