"""The example of a user's extractor, against the figures published with its weights."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from lpl.evaluation import Extractor, ExtractorError, frechet_distance, load_extractor

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "scenes_judge.py"


def read(shared: Path, name: str, every: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = pq.read_table(shared / "data" / "scenes-128" / f"{name}.parquet").to_pylist()[::every]
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1, torch.tensor([row["label"] for row in rows])


def features_of(judge: Extractor, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([judge(part) for part in images.split(50)])


def test_without_weights_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LPL_JUDGE", raising=False)
    with pytest.raises(ExtractorError, match="LPL_JUDGE: set this environment variable"):
        load_extractor(f"{EXAMPLE}:judge")
    monkeypatch.setenv("LPL_JUDGE", str(tmp_path))
    with pytest.raises(ExtractorError, match="there is no model.safetensors in it"):
        load_extractor(f"{EXAMPLE}:judge")


def test_its_features_reproduce_the_published_figures(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared / "weights" / "scenes-judge"
    monkeypatch.setenv("LPL_JUDGE", str(folder))
    judge = load_extractor(f"{EXAMPLE}:judge")
    weights = load_file(folder / "model.safetensors")
    (test, labels), (train, _) = read(shared, "test", every=5), read(shared, "train", every=28)
    sharp = features_of(judge, test[::2])
    predicted = (sharp @ weights["11.weight"].T + weights["11.bias"]).argmax(dim=1)
    assert (predicted == labels[::2]).double().mean() == pytest.approx(0.889, abs=0.06)  # published: 88.9 % of 1,500

    blurred = F.interpolate(F.avg_pool2d(test, 2), scale_factor=2, mode="bilinear")
    distance = frechet_distance(features_of(judge, blurred), features_of(judge, train))
    # Published: 7.07 between 1,500 blurred and 8,400 training images; 300 of each bias it upwards by about one.
    assert 7.07 < distance < 9.5


def test_other_sizes_are_resized(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPL_JUDGE", str(shared / "weights" / "scenes-judge"))
    judge = load_extractor(f"{EXAMPLE}:judge")
    images, _ = read(shared, "test", every=500)
    small = F.interpolate(images, 64, mode="bicubic", antialias=True).clamp(-1, 1)
    enlarged = F.interpolate(small, 128, mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(judge(small), judge(enlarged), atol=0.05, rtol=0.05)
    assert judge.dimension == 256
    assert "scenes_judge" not in sys.modules
