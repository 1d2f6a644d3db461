"""The page in a real browser; skipped where there is none."""

from __future__ import annotations

import pytest
from synthetic_runs import write_run

from lpl.reports import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder / "l2", count=14),
        write_run(folder / "lpl", perceptual=True, count=14, sharpen=2.5),
        write_run(folder / "lpl-long", perceptual=True, count=4, sharpen=1.5, steps=500),
    ]
    return write_report(runs, folder / "report.html")


@pytest.fixture
def open_page(visit, report):
    """Opens the report, or another page."""
    return lambda path=report, **settings: visit(path, **settings)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows(open_page, width):
    opened = open_page(width=width)
    opened.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert opened.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_system_and_the_button(open_page, scheme):
    opened = open_page(color_scheme=scheme)
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    before = opened.evaluate(lightness)
    assert (before > 600) == (scheme == "light")
    opened.locator(".theme").press("Enter")
    after = opened.evaluate(lightness)
    assert (after > 600) == (scheme == "dark")
    opened.reload()
    assert opened.evaluate(lightness) == after


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_stand_out_from_the_page(open_page, scheme):
    opened = open_page(color_scheme=scheme)
    ratios = opened.evaluate(
        """() => {
          const luminance = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(value => value / 255);
            const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
            return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
          };
          const paper = luminance(getComputedStyle(document.body).backgroundColor) + 0.05;
          const lines = [...document.querySelectorAll(".chart .line")].map(line => getComputedStyle(line).stroke);
          return [...new Set(lines)].map(colour => luminance(colour) + 0.05)
            .map(line => Math.max(line, paper) / Math.min(line, paper));
        }"""
    )
    assert len(ratios) >= 8
    assert min(ratios) >= 3  # WCAG 2.2, 1.4.11


def wipe(opened, place):
    """Where the line of one pair is."""
    return opened.locator(".stage").nth(place).evaluate("stage => stage.style.getPropertyValue('--wipe')")


def test_arrow_keys_move_one_slider_and_the_common_one_moves_all(open_page):
    opened = open_page()
    sliders = opened.locator(".stage input")
    sliders.nth(1).focus()
    for _ in range(5):
        opened.keyboard.press("ArrowLeft")
    assert [wipe(opened, place) for place in range(3)] == ["50%", "45%", "50%"]
    assert sliders.nth(1).get_attribute("aria-valuetext") == "45 % l2"
    opened.locator("input[name=all]").press("Home")
    assert wipe(opened, 1) == "0%"


def shown(opened):
    """Which run's image lies where, in the first pair."""
    images = opened.locator(".tiles > li").first.locator("img:visible")
    return {image.get_attribute("data-place"): image.get_attribute("data-run") for image in images.all()}


def test_two_runs_are_chosen_and_swapped(open_page):
    opened = open_page()
    assert shown(opened) == {"left": "0", "right": "1"}
    opened.select_option("select[name=left]", label="lpl")
    assert shown(opened) == {"left": "1", "right": "0"}
    opened.select_option("select[name=right]", label="lpl-long")
    assert shown(opened) == {"left": "1", "right": "2"}
    words = "lpl left of the line, lpl-long right of it; 10 of 14 samples have no such pair."
    assert opened.locator(".key").inner_text() == words
    assert opened.locator(".tiles > li:visible").count() == 4
    opened.click("button[name=swap]")
    assert shown(opened) == {"left": "2", "right": "1"}


def test_side_by_side_shows_both_images_whole(open_page):
    opened = open_page()
    opened.check("input[value=sides]", force=True)
    left, right = (opened.locator(f".stage img[data-place={side}]").first.bounding_box() for side in ("left", "right"))
    assert left["width"] == right["width"]
    assert right["x"] >= left["x"] + left["width"]
    assert opened.locator(".stage input:visible").count() == 0


def test_long_lists_unfold(open_page):
    opened = open_page()
    assert opened.locator(".tiles > li:visible").count() == 12
    opened.click("text=Show all 14")
    assert opened.locator(".tiles > li:visible").count() == 14


def test_charts_tell_values_to_the_keyboard(open_page):
    opened = open_page()
    chart = opened.locator("#curves .plot:visible svg.chart").first
    chart.focus()
    opened.keyboard.press("Home")
    first = opened.locator(".tip:visible").inner_text()
    opened.keyboard.press("End")
    last = opened.locator(".tip:visible").inner_text()
    assert first.splitlines()[0] == "step: 1"
    assert last.splitlines()[0] == "step: 500"
    assert "lpl-long" in last
    opened.keyboard.press("Escape")
    assert opened.locator(".tip:visible").count() == 0


def test_charts_switch_between_steps_and_time(open_page):
    opened = open_page()
    count = opened.locator("#curves .plot:visible").count()
    opened.check("input[value=seconds]", force=True)
    assert opened.locator("#curves .plot:visible").count() == count
    assert opened.locator("#curves .plot:visible >> text=minutes of training").count() == count


def test_without_scripts_the_pairs_lie_side_by_side(open_page):
    opened = open_page(java_script_enabled=False)
    assert opened.locator(".stage img:visible").count() == 2 * 14
    assert opened.locator(".controls select:visible").count() == 0


def test_one_run_alone_works(open_page, tmp_path):
    path = write_report([write_run(tmp_path / "only", count=2)], tmp_path / "one.html")
    opened = open_page(path, width=390)
    assert opened.locator(".tiles img:visible").count() == 2
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
