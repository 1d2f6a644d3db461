from __future__ import annotations

import json
import time

import numpy as np
import pytest

from lpl.reports.curves import by_block, constant_columns, curve_groups, smooth
from lpl.reports.runs import load_runs


def weighted_means(values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian means, term by term, over finite values within four widths."""
    result = np.full(values.size, np.nan)
    for centre in range(values.size):
        pairs = [(np.exp(-0.5 * ((i - centre) / width) ** 2), v) for i, v in enumerate(values)]
        near = [(w, v) for i, (w, v) in enumerate(pairs) if np.isfinite(v) and abs(i - centre) <= int(4 * width + 0.5)]
        if np.isfinite(values[centre]):
            result[centre] = sum(w * v for w, v in near) / sum(w for w, _ in near)
    return result


def test_smoothing_is_a_gaussian_mean_over_what_is_there():
    values = np.random.default_rng(0).normal(size=80)
    values[[3, 40, 41]] = [np.nan, np.inf, np.nan]
    np.testing.assert_allclose(smooth(values, share=0.05), weighted_means(values, 4.0), rtol=1e-9)


def test_smoothing_keeps_constants_and_short_curves():
    np.testing.assert_allclose(smooth(np.full(300, 2.5)), 2.5)
    values = np.array([1.0, 5.0, 2.0])
    np.testing.assert_array_equal(smooth(values), values)


def test_a_long_curve_is_smoothed_as_a_short_one_in_time_that_grows_with_its_length():
    steps = np.linspace(0.0, 1.0, 300_000)
    values = np.sin(6 * steps) + np.random.default_rng(0).normal(scale=0.1, size=steps.size)
    values[1000:30_000] = np.nan
    start = time.process_time()
    found = smooth(values)
    assert time.process_time() - start < 2.0  # a minute, where each value is averaged with its twelve thousand nearest
    assert np.array_equal(np.isnan(found), np.isnan(values))
    inner = slice(50_000, 250_000)
    # The kernel's own effect on a sine of that frequency is known.
    expected = np.sin(6 * steps) * np.exp(-((6 * 0.02) ** 2) / 2)
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.01)


def test_a_curve_of_more_values_than_are_smoothed_one_by_one_hardly_differs():
    values = np.random.default_rng(1).normal(size=2500).cumsum()
    values[[3, 1000, 1001]] = np.nan
    places = np.arange(values.size)
    weights = np.exp(-0.5 * ((places[:, None] - places) / 50) ** 2) * np.isfinite(values)
    expected = weights @ np.nan_to_num(values) / weights.sum(1)
    difference = np.abs(smooth(values) - expected)[np.isfinite(values)]
    assert difference.max() < 0.02 * np.ptp(expected)


def test_blocks_are_in_natural_order():
    columns = ["loss", "outliers/layers.10", "outliers/layers.9", "outliers/conv"]
    assert list(by_block(columns, "outliers/")) == ["conv", "layers.9", "layers.10"]


def test_every_logged_column_is_drawn_or_named_as_constant(make_run):
    folder = make_run("lpl", perceptual=True, steps=40)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"loss/extra": row["step"] ** 0.5, "perceptual_weight": 0.2}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    runs = load_runs([make_run("l2", steps=40), folder])
    groups = curve_groups(runs)
    assert [group.title for group in groups] == [
        "Losses",
        "lpl, block by block",
        "Balance, optimisation and speed",
        "Also logged",
    ]
    titles = [chart.title for group in groups for panel in group.panels for chart in panel.values()]
    assert len(titles) == 2 * len(set(titles)) == 2 * 11
    assert constant_columns(runs) == ["perceptual weight 0.2"]
    assert groups[-1].panels[0]["step"].title == "loss/extra"


def test_both_clocks_and_units(make_run):
    run = load_runs([make_run("lpl", perceptual=True, steps=50)])[0]
    groups = curve_groups([run])
    outliers = groups[1].panels[1]
    assert [line.label for line in outliers["step"].lines][:2] == ["mid_block", "up_blocks.0"]
    np.testing.assert_allclose(outliers["step"].lines[1].raw, 100 * run.history["outliers/up_blocks.0"])
    np.testing.assert_allclose(outliers["seconds"].lines[1].x, run.history["seconds"] / 60)
    assert outliers["step"].y.low == 0.0


def test_a_column_logged_now_and_then_is_joined_up(make_run):
    folder = make_run("run")
    rows = [{"step": step, "loss": 1.0 / step, **({"rare": step} if step % 3 == 0 else {})} for step in range(1, 31)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    groups = curve_groups(load_runs([folder]))
    (line,) = groups[-1].panels[0]["step"].lines
    assert line.x.tolist() == list(range(3, 31, 3))
    assert "seconds" not in groups[-1].panels[0]


@pytest.mark.parametrize(("spread", "scale"), [(10.0, "linear"), (1000.0, "log")])
def test_a_term_without_a_floor_turns_logarithmic_when_it_spans_much(make_run, spread, scale):
    folder = make_run("run")
    rows = [{"step": step, "loss": spread ** (step / 20)} for step in range(21)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (panel,) = curve_groups(load_runs([folder]))[0].panels
    assert panel["step"].y.scale == scale


def test_one_spike_does_not_flatten_the_curve(make_run):
    folder = make_run("run")
    rows = [{"step": step, "loss": 1.0 + 0.1 * (step % 2) + 500.0 * (step == 900)} for step in range(1000)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    axis = curve_groups(load_runs([folder]))[0].panels[0]["step"].y
    assert axis.high < 20


def test_a_guide_is_drawn_where_the_curves_come_near_it(make_run):
    near, far = make_run("near"), make_run("far")
    for folder, level in ((near, 0.5), (far, 0.01)):
        rows = [{"step": step, "gradient_ratio": level * (1 + step % 2)} for step in range(9)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    drawn = [curve_groups(load_runs([folder]))[0].panels[0]["step"] for folder in (near, far)]
    assert [chart.guide for chart in drawn] == [1.0, None]
    assert drawn[1].y.high < 0.03
