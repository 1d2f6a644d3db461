from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import arms, training
from benchmarks.arms import EXACT, L2, Arm, Bench, Settings
from benchmarks.training import largest
from lpl.denoisers.mmdit import PRESETS, Preset

EVERY_ARM = arms.ARMS


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preset T with few weights, and one arm that does not work."""
    monkeypatch.setitem(PRESETS, "T", Preset(width=32, depth=2, heads=2))
    chosen = {name: arm for name, arm in arms.ARMS.items() if name in (L2, EXACT)}
    broken = Arm({"weight": 0.1, "no_such_setting": 1})
    for module in (arms, training):
        monkeypatch.setattr(module, "ARMS", {**chosen, "broken": broken})


def call(*arguments: str):
    app = typer.Typer()
    app.command()(training.main)
    return CliRunner().invoke(
        app, ["--preset", "T", "--size", "32", "--decoder", "tiny", "--device", "cpu", *arguments]
    )


def test_command_on_a_cpu(tmp_path) -> None:
    called = call("--batch", "2", "--no-compile", "--steps", "1", "--repeats", "2", "--output", str(tmp_path))
    assert called.exit_code == 0, called.output
    content = json.loads((tmp_path / "training.json").read_text())
    measured = {arm["arm"]: arm for arm in content["arms"]}
    assert set(measured) == {L2, EXACT}
    assert measured[L2]["throughput"] == [1, 1, 1]
    assert 0 < measured[EXACT]["throughput"][0] < 1
    assert measured[L2]["passed"] is None
    assert 0 < measured[EXACT]["passed"] <= 1
    assert measured[EXACT]["peak_bytes"] > 2**20
    assert "no_such_setting" in content["failed"]["broken"]  # one arm's failure costs no other
    page = (tmp_path / "training.md").read_text()
    assert "0.58, 1.75" in page
    assert "0.62, 1.10" in page


def test_a_run_that_is_cut_short_keeps_its_rounds() -> None:
    bench = Bench(Settings("T", 2, 32, "tiny", "no", False, "cpu", 0))
    rounds = training._measured(bench, [L2, EXACT], batch=2, steps=1, repeats=3)
    assert next(rounds)["repeats"] == 1
    assert next(rounds)["repeats"] == 2


def test_a_batch_is_needed_on_a_cpu() -> None:
    called = call("--no-compile")
    assert called.exit_code == 1
    assert "--batch: needed on a CPU" in called.output


def test_a_step_of_every_arm_changes_the_weights() -> None:
    bench = Bench(Settings("T", 2, 32, "tiny", "no", False, "cpu", 0))
    for name in (L2, EXACT):
        before = [value.clone() for value in bench.denoiser.parameters()]
        step = bench.step(name, 2)
        for number in range(3):  # adaLN-Zero: gradients reach the blocks in the third step only
            step(number)
        moved = [not torch.equal(a, b) for a, b in zip(before, bench.denoiser.parameters(), strict=True)]
        assert sum(moved) > len(moved) / 2


def test_an_arm_of_every_other_step_computes_the_loss_then_alone(monkeypatch) -> None:
    monkeypatch.setitem(arms.ARMS, "every 2nd step", Arm({"weight": 0.1, "estimator": {"every": 2}}))
    bench = Bench(Settings("T", 2, 32, "tiny", "no", False, "cpu", 0))
    step = bench.step("every 2nd step", 4)
    entered = []
    for number in range(4):
        step(number)
        entered.append(bench._passed["every 2nd step"][-1])
    assert entered[0] > 0
    assert entered[2] > 0
    assert entered[1] == entered[3] == 0


def test_the_bundled_arms_are_recipes() -> None:
    settings = Settings("T", 2, 32, "tiny", "no", False, "cpu", 0)
    for name, arm in EVERY_ARM.items():
        recipe = settings.recipe(2, arm.perceptual)
        assert (recipe.objective.perceptual is None) == (name == L2)
    assert not EVERY_ARM[EXACT].estimator
    assert sum(arm.estimator for arm in EVERY_ARM.values()) > 5


def test_running_out_of_memory_is_told_from_other_errors(monkeypatch) -> None:
    bench = Bench(Settings("T", 2, 32, "tiny", "no", False, "cpu", 0))
    monkeypatch.setattr(
        bench, "_peak_of", lambda step, period: (_ for _ in ()).throw(RuntimeError("CUDA out of memory."))
    )
    assert bench.peak_bytes(L2, 1) is None
    monkeypatch.setattr(bench, "_peak_of", lambda step, period: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        bench.peak_bytes(L2, 1)


def test_a_batch_that_is_too_large_after_all_is_made_smaller(monkeypatch) -> None:
    bench = Bench(Settings("T", 2, 32, "tiny", "no", False, "cpu", 0))
    tried = []

    def peak(name: str, batch: int) -> int | None:
        tried.append(batch)
        return None if batch > 3 else 1000

    monkeypatch.setattr(bench, "peak_bytes", peak)
    (result,) = training._measured(bench, [L2, EXACT], batch=4, steps=1, repeats=1)
    assert result["batch"] == 3
    assert tried == [4, 3, 3]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100, 1000])
def test_largest_batch(limit: int) -> None:
    tried = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    found = largest(fits)
    assert found <= limit <= found * 9 / 8 + 1
    assert len(tried) <= 16
    assert len(set(tried)) == len(tried)


def test_nothing_fits() -> None:
    with pytest.raises(ValueError, match="not even one sample fits"):
        largest(lambda batch: False)
