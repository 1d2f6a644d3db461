from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import modes, perceptual_loss
from benchmarks.interleaved import Spread, ratios, spread
from benchmarks.measure import Case, Result, measure
from benchmarks.modes import DEFAULT, EXACT, MODES, PLAIN, STREAMING
from benchmarks.targets import TARGETS, Target, Verdict, verdicts

PEER = """
import torch

class LatentPerceptualLoss(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def get_loss(self, input, target):
        post, decoder = self.vae.post_quant_conv, self.vae.decoder
        a, b = (decoder.mid_block(decoder.conv_in(post(z / 0.18215))) for z in (input, target))
        return (a - b).square().mean()
"""


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(perceptual_loss.main)
    return application


@pytest.fixture(scope="module")
def result() -> Result:
    return measure(Case("tiny", 64, 2), MODES, rounds=1, peak=False)


def row(result: Result, name: str):
    return next(row for row in result.rows if row.mode == name)


def test_every_mode_is_measured_or_said_to_be_missing(result: Result) -> None:
    assert [row.mode for row in result.rows] + list(result.missing) == [
        *(mode.name for mode in MODES if mode.name not in result.missing),
        *result.missing,
    ]
    for mode in MODES:
        assert mode.name in result.missing or row(result, mode.name).seconds.median > 0


def test_modes_agree_with_float64(result: Result) -> None:
    assert row(result, PLAIN).gradient_error < 1e-5
    assert row(result, EXACT).gradient_error < 1e-5
    assert row(result, EXACT).loss_error < 1e-5
    assert row(result, EXACT).difference_to_exact == 0
    assert 0.99 < row(result, DEFAULT).gradient_cosine < 1
    assert 1e-4 < row(result, DEFAULT).gradient_error < 0.1


def test_floors_are_their_own_measure(result: Result) -> None:
    for floor in (row for row in result.rows if row.kind == "floor"):
        assert floor.time_over_floor == Spread(1, 1, 1)
        assert floor.gradient_cosine is None
    assert row(result, modes.FLOOR).kept_over_floor == 1
    assert row(result, modes.FLOOR_BF16).kept_over_floor == pytest.approx(0.5, abs=0.02)


def test_the_lean_modes_keep_less_and_compute_no_convolution_twice(result: Result) -> None:
    assert row(result, EXACT).kept_over_floor < 0.6 * row(result, PLAIN).kept_over_floor
    assert row(result, EXACT).flops_over_floor <= 1
    assert row(result, PLAIN).flops_over_floor == 1


def test_a_missed_target_is_named(result: Result) -> None:
    hard = [Target(EXACT, "gradient_error", 1e-30), Target(DEFAULT, "gradient_cosine", 0.5, at_least=True)]
    missed, reached = verdicts([result], hard)
    assert not missed.reached
    assert str(missed).startswith("tiny, 64², batch 2: exact, float32: gradient error ≤ 1e-30, is ")
    assert reached.reached


def test_a_target_on_what_was_not_measured_is_missed(result: Result) -> None:
    without = replace(result, rows=[row for row in result.rows if row.mode != STREAMING], shares=[])
    judged = {str(verdict): verdict.reached for verdict in verdicts([without])}
    missing = [text for text in judged if text.endswith("is not measured")]
    assert len(missing) == 5  # three of streaming's, two of the comparison's
    assert not any(judged[text] for text in missing)


def test_targets_refer_to_what_there_is(result: Result) -> None:
    names = {mode.name for mode in MODES}
    for target in TARGETS:
        assert target.mode in names
        assert target.quantity == "comparison_over_decoder" or hasattr(result.rows[0], target.quantity)
    assert Verdict("", TARGETS[0], TARGETS[0].limit).reached


def test_command_with_a_peer(app: typer.Typer, tmp_path) -> None:
    peer = tmp_path / "theirs.py"
    peer.write_text(PEER)
    output, page = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["--decoder", "tiny", "--size", "32", "--batch", "1", "--repeats", "2", "--no-peak", "--only", "peer"]
    files = ["--peer", str(peer), "--json", str(output), "--markdown", str(page)]
    called = CliRunner().invoke(app, [*arguments, *files, "--device", "cpu"])
    assert called.exit_code == 0, called.output
    content = json.loads(output.read_text())
    rows = {row["mode"]: row for row in content["results"][0]["rows"]}
    assert set(rows) == {modes.FLOOR, PLAIN, EXACT, "peer, theirs"}
    assert 0 < rows["peer, theirs"]["flops_over_floor"] < 0.5  # it runs the mid block alone
    assert rows["peer, theirs"]["gradient_error"] > 0.1  # and is another loss
    assert {"cpu", "threads", "torch"} <= set(content["environment"])
    assert content["results"][0]["case"]["seed"] == 0
    assert "| peer, theirs |" in page.read_text()


def test_check_fails_where_a_target_is_missed(app: typer.Typer, result: Result, monkeypatch) -> None:
    monkeypatch.setattr(perceptual_loss, "measure", lambda *_: result)
    arguments = ["--decoder", "tiny", "--size", "64", "--batch", "2", "--device", "cpu", "--check"]
    good, bad = Target(EXACT, "gradient_error", 1e-4), Target(EXACT, "kept_over_floor", 1e-9)
    monkeypatch.setattr(perceptual_loss, "TARGETS", [good])
    called = CliRunner().invoke(app, arguments)
    assert called.exit_code == 0, called.output
    assert "reached: tiny, 64², batch 2: exact, float32: gradient error ≤ 0.0001" in called.output
    monkeypatch.setattr(perceptual_loss, "TARGETS", [bad, good])
    called = CliRunner().invoke(app, arguments)
    assert called.exit_code == 1
    assert "MISSED:  tiny, 64², batch 2: exact, float32: kept over floor ≤ 1e-09" in called.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "30"], "--size: got 30, takes a positive multiple of 8"),
        (["--size", "64", "--size", "128", "--batch", "1"], "--batch: given 1 times for 2 sizes"),
        (["--decoder", "huge"], "--decoder: got 'huge', takes sd"),
        (["--only", "nothing"], "--only: no mode's name contains nothing"),
        (["--peer", "missing.py"], "--peer: missing.py does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(app: typer.Typer, arguments: list[str], message: str) -> None:
    called = CliRunner().invoke(app, arguments)
    assert called.exit_code == 1
    assert message in " ".join(called.output.split())


def test_a_peer_without_the_class_is_refused(tmp_path) -> None:
    file = tmp_path / "other.py"
    file.write_text("class LatentPerceptualLoss: pass\n")
    with pytest.raises(ValueError, match=r"no class LatentPerceptualLoss with a method get_loss"):
        modes.peer_mode(file)


def test_spreads() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert ratios([2.0, 6.0, 9.0], [1.0, 2.0, 9.0]) == Spread(2.0, 1.0, 3.0)
