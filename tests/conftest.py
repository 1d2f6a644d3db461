"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: kernels then run on the CPU

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What a test draws without a seed of its own is the same in every run, in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and weights that some tests use and none may need."""
    folder = Path(os.environ.get("LPL_SHARED", ROOT.parent / "shared"))
    if not (folder / "weights" / "taef2").is_dir():
        pytest.skip(f"no shared data at {folder} (set LPL_SHARED to a folder that holds data/ and weights/)")
    return folder
