from __future__ import annotations

import pytest

from lpl.reports import wording


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, None, "0.0"),
        (21.4, None, "21.40"),
        (-0.0312, 4, "−0.0312"),
        (1234.5, 1, "1,234.5"),
        (1.5e-7, None, "1.5×10⁻⁷"),
        (-0.00001, 3, "0.000"),
        (float("nan"), None, "not a number"),
        (float("-inf"), None, "−∞"),
        (1e8, None, "10⁸"),
    ],
)
def test_number(value, decimals, text):
    assert wording.number(value, decimals) == text


def test_a_column_lines_up_on_its_largest_number():
    assert wording.decimals_for([0.001, 21.4, float("nan")]) == 2
    assert wording.decimals_for([0.0123]) == 5
    assert wording.decimals_for([54321.0]) == 0
    assert wording.decimals_for([]) == 1


def test_signed_numbers_and_percentages():
    assert wording.number(0.5, 2, signed=True) == "+0.50"
    assert wording.number(0.0, 2, signed=True) == "0.00"
    assert wording.percent(-0.085, signed=True) == "−8.5\u00a0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (42.4, "42 s"), (59.9, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (7379, "2 h 2 min")],
)
def test_duration(seconds, text):
    assert wording.duration(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (900, "900 B"), (1536, "1.5 KiB"), (1_400_000_000, "1.3 GiB"), (2**41, "2.0 TiB")]
)
def test_byte_size(count, text):
    assert wording.byte_size(count).replace("\u00a0", " ") == text


def test_counts_and_lists():
    assert wording.counted(1, "image") == "1 image"
    assert wording.counted(2048, "image") == "2,048 images"
    assert wording.quantity(9_812_345) == "9.81\u00a0M"
    assert [wording.listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(("value", "text"), [(2.5e-5, "2.5×10⁻⁵"), (-0.25, "−0.25"), (0.0, "0"), (1500.0, "1,500")])
def test_ticks_lose_no_digit(value, text):
    assert wording.compact(value) == text


def test_ticks_of_one_axis_are_written_alike():
    assert [wording.compact(value, 1e-3) for value in (5e-4, 1e-3)] == ["5×10⁻⁴", "10⁻³"]
    assert [wording.compact(value, 2e-3) for value in (5e-4, 1e-3)] == ["0.0005", "0.001"]
