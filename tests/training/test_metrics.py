"""Logged terms: their means, the step at which one stops being a number, and resuming a log."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lpl.training.metrics import MetricsLog, TermWindow, TrainingDiverged, truncate_metrics


def _fill(window, values, name="loss"):
    for step, value in enumerate(values, start=1):
        window.add(step, [{name: torch.tensor(value), "share": 0.25}])


def test_means_are_over_steps_forward_passes_and_processes():
    window = TermWindow()
    window.add(1, [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(3.0)}])
    window.add(2, [{"loss": torch.tensor(6.0), "gradient_ratio": torch.tensor(8.0)}] * 2)
    assert window.means() == {"loss": 4.0, "gradient_ratio": 8.0}  # the ratio's over the steps that have one
    other_process = [[10.0, 10.0]]
    assert window.means(lambda own: own + other_process) == {"gradient_ratio": 9.0, "loss": 7.0}


def test_the_first_bad_step_and_the_term_behind_it_are_named():
    window = TermWindow()
    window.add(7, [{"loss": torch.tensor(1.0), "loss/perceptual": torch.tensor(1.0)}])
    window.add(8, [{"loss": torch.tensor(math.nan), "loss/perceptual": torch.tensor(math.inf)}])
    window.add(9, [{"loss": torch.tensor(math.nan), "loss/perceptual": torch.tensor(math.nan)}])
    with pytest.raises(TrainingDiverged, match=r"step 8: loss/perceptual is NaN or infinite; lower training\."):
        window.means()


def test_all_processes_stop_when_one_diverges():
    window = TermWindow()
    _fill(window, [1.0, 2.0])
    with pytest.raises(TrainingDiverged, match="another process .* by step 2"):
        window.means(lambda own: [*own, [math.nan, 0.25]])


def test_tolerated_terms_may_overflow_now_and_then():
    window = TermWindow(tolerated=["gradient_norm"])
    _fill(window, [1.0, math.inf, 3.0], "gradient_norm")
    assert window.means()["gradient_norm"] == 2.0


def test_window_continues_after_json_as_if_never_stopped():
    whole, first, second = TermWindow(), TermWindow(), TermWindow()
    values = torch.rand(7, generator=torch.Generator().manual_seed(0)).tolist()
    _fill(whole, values)
    _fill(first, values[:4])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in (5, 6, 7):
        second.add(step, [{"loss": torch.tensor(values[step - 1]), "share": 0.25}])
    assert second.means() == whole.means()


def test_truncation_drops_later_steps_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 10}\n{"step": 15, "lo')
    truncate_metrics(path, 5)
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'
    truncate_metrics(tmp_path / "absent.jsonl", 5)
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_resumed_log_has_every_step_once_in_both_places(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": 1.0 * step, "gradient_norm": math.nan})
    log.close()
    log = MetricsLog(tmp_path, 2)
    for step in (3, 4, 5):
        log.write(step, {"loss": 10.0 * step})
    log.sync()
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]
    assert rows[0]["gradient_norm"] is None
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 30),
        (4, 40),
        (5, 50),
    ]
