from __future__ import annotations

import numpy as np
import pytest

from lpl.reports.axes import Axis, spanning


def test_positions_are_those_of_a_linear_and_a_logarithmic_scale():
    assert Axis("", -1.0, 3.0).fractions(np.array([-1.0, 0.0, 3.0])).tolist() == [0.0, 0.25, 1.0]
    log = Axis("", 0.01, 100.0, "log").fractions(np.array([0.01, 0.1, 1.0, 100.0]))
    np.testing.assert_allclose(log, [0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis("", 0.0, 1.04), ["0", "0.25", "0.5", "0.75", "1"]),
        (Axis("", -30.0, 70.0), ["−20", "0", "20", "40", "60"]),
        (Axis("", 0.0, 1.04e-4), ["0", "2.5×10⁻⁵", "5×10⁻⁵", "7.5×10⁻⁵", "10⁻⁴"]),
        (Axis("", 0.015, 0.5, "log"), ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        (Axis("", 2.0, 600.0, "log"), ["3", "10", "30", "100", "300"]),
        (Axis("", 0.015, 20.0, "log"), ["0.03", "0.1", "0.3", "1", "3", "10"]),
        (Axis("", 0.0015, 20.0, "log"), ["0.01", "0.1", "1", "10"]),
        (Axis("", 1e-5, 20.0, "log"), ["10⁻⁵", "10⁻³", "10⁻¹", "10¹"]),
    ],
)
def test_ticks_are_round(axis, texts):
    assert [text for _, text in axis.ticks()] == texts


@pytest.mark.parametrize("axis", [Axis("", 0.9, 1.2, "log"), Axis("", 97.3, 97.9), Axis("", 1e-9, 1e9, "log")])
def test_ticks_lie_within_and_are_few(axis):
    values = [value for value, _ in axis.ticks()]
    assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value in values)
    assert 2 <= len(values) <= 7


def test_spans_finite_values_with_a_margin():
    axis = spanning("loss", [np.array([1.0, np.nan, 3.0]), np.array([np.inf, 2.0])], margin=0.1)
    np.testing.assert_allclose([axis.low, axis.high], [0.8, 3.2])


def test_floor_holds_where_nothing_lies_below_it():
    assert spanning("share", [np.array([0.5, 0.7])], floor=0.0).low == 0.0
    assert spanning("share", [np.array([-0.5, 0.7])], floor=0.0).low < -0.5
    assert spanning("ratio", [np.array([0.1, 0.2])], include=[1.0], floor=0.0).high > 1.0


def test_degenerate_spans_still_have_a_width():
    for values in ([], [5.0], [0.0, 0.0], [np.nan]):
        for scale in ("linear", "log"):
            axis = spanning("x", [np.array(values)], scale)
            assert axis.low < axis.high
            assert scale == "linear" or axis.low > 0
            assert len(axis.ticks()) >= 1
