"""`precision: auto`, and bfloat16 where it is slow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lpl import precision
from lpl.config import build_recipe, dump_recipe, load_recipe
from lpl.precision import slow_precisions
from lpl.training.autoencoder_recipe import AutoencoderRecipe

LPL = {"objective": {"perceptual": {"precision": "auto"}}}


@pytest.fixture(params=[True, False], ids=["fast at bfloat16", "slow at it"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: request.param)
    return request.param


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    precision.bfloat16_is_fast.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    yield
    precision.bfloat16_is_fast.cache_clear()


def test_auto_is_what_the_machine_is_fast_at(fast: bool) -> None:
    recipe = build_recipe({"training": {"precision": "auto"}, "sampling": {"precision": "auto"}, **LPL})
    assert recipe.training.precision == recipe.sampling.precision == ("bf16" if fast else "no")
    assert recipe.objective.perceptual.precision == ("bfloat16" if fast else "float32")
    assert "auto" not in re.findall(r"precision: (\w+)", dump_recipe(recipe))  # a run's own recipe says what it was


def test_bfloat16_is_taken_where_it_was_asked_for(fast: bool) -> None:
    recipe = build_recipe({"training": {"precision": "bf16"}})
    trained = build_recipe({"training": {"precision": "bf16"}}, "recipe", AutoencoderRecipe)
    assert recipe.training.precision == trained.training.precision == "bf16"


def test_what_a_machine_is_slow_at_is_told(fast: bool) -> None:
    settings = {"training.precision": "bf16", "objective.perceptual.precision": "bfloat16", "sampling.precision": "no"}
    told = [sentence.partition(":")[0] for sentence in slow_precisions(settings)]
    assert told == ([] if fast else ["training.precision=bf16", "objective.perceptual.precision=bfloat16"])
    assert slow_precisions({"training.precision": "fp16", "objective.perceptual.precision": "float32"}) == []


def test_no_is_a_word_for_float32(fast: bool) -> None:
    assert build_recipe({"training": {"precision": False}}).training.precision == "no"  # as YAML reads it


def test_what_the_demo_trains_in_is_settled_when_it_is_read(fast: bool, request: pytest.FixtureRequest) -> None:
    recipe = load_recipe(request.config.rootpath / "recipes" / "demo.yaml")
    assert recipe.training.precision == ("bf16" if fast else "no")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True}, False),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_a_processor_is_fast_if_it_has_the_instructions(capabilities, expected, no_accelerator, monkeypatch) -> None:
    monkeypatch.setattr(precision, "_processor_capabilities", lambda: capabilities)
    assert precision.bfloat16_is_fast() is expected


def test_this_processor_is_judged_as_linux_does(no_accelerator) -> None:
    file = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    if flags is None:
        pytest.skip("only Linux on x86 lists its processor's flags")
    assert precision.bfloat16_is_fast() == bool({"avx512_bf16", "amx_bf16"} & set(flags[1].split()))


def test_a_gpu_decides_where_there_is_one(no_accelerator, monkeypatch) -> None:
    monkeypatch.setattr(precision, "_processor_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not precision.bfloat16_is_fast()  # a GPU that emulates it
