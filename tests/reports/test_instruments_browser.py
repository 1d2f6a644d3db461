"""The instruments' views in a real browser; skipped where there is none."""

from __future__ import annotations

import base64
import io
import shutil

import numpy as np
import pytest
from analysis_folders import KINDS, change, read
from PIL import Image

from lpl.reports import write_report

WIDTHS = {"phone": 390, "desktop": 1280}
TITLES = {  # a heading of each view
    "interpolation": "Shrunk and enlarged",
    "perturbation": "Noise on one latent position",
    "features": "The decoder’s features",
    "linear": "The decoder as a linear map",
    "calibration": "Which settings of the loss",
}


@pytest.fixture(scope="module")
def comparison(analyses, others, tmp_path_factory):
    """A page of two autoencoders with every kind of analysis."""
    return write_report([*analyses.values(), *others.values()], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(visit, comparison):
    """The page on a desktop."""
    return visit(comparison)


def drawn(page, selector):
    """Pixels of a canvas once it is drawn, (H, W, 3)."""
    page.wait_for_function("selector => document.querySelector(selector).dataset.wanted", arg=selector)
    page.wait_for_timeout(300)  # the picture is decoded aside
    uri = page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"), dtype=float)


def tile_of(folder, sprite, index):
    """A tile of a sprite as PIL reads it."""
    side, columns = sprite["tile"][0], sprite["columns"]
    top, left = index // columns * side, index % columns * side
    with Image.open(folder / sprite["file"]) as sheet:
        return np.asarray(sheet.convert("RGB"), dtype=float)[top : top + side, left : left + side]


def pick(page, section, value):
    """Clicks one of several choices that lie side by side."""
    page.locator(f"{section} .segmented label", has=page.locator(f"input[value={value}]")).click()


def numbers(page, pane):
    """A pane's table of numbers, heading → text."""
    rows = page.locator(f"{pane} table.numbers").first.locator("tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", list(WIDTHS))
def test_every_view_opens_fits_and_can_be_photographed(visit, comparison, device, scheme, tmp_path):
    width = WIDTHS[device]
    page = visit(comparison, width=width, color_scheme=scheme)
    page.wait_for_timeout(500)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for kind in KINDS:
        section = page.locator(f"#{kind}")
        assert section.locator("h2").inner_text().startswith(TITLES[kind])
        assert section.locator(".pane:visible").count() == 2
        shot = Image.open(io.BytesIO(section.screenshot(path=tmp_path / f"{kind}.png"))).convert("L")
        corner = np.asarray(shot, dtype=float)[2, 2]
        assert (corner > 200) == (scheme == "light")
        assert np.asarray(shot, dtype=float).std() > 15  # something is on it


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_page(visit, comparison, scheme):
    page = visit(comparison, color_scheme=scheme)
    page.wait_for_timeout(300)
    ratios = page.evaluate(
        """() => {
          const luminance = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(value => value / 255);
            const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
            return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05;
          };
          const paper = luminance(getComputedStyle(document.body).backgroundColor);
          return [...document.querySelectorAll(".pane th, .pane td, .pane figcaption, .choices p, .findings li")]
            .map(element => luminance(getComputedStyle(element).color))
            .map(text => Math.max(text, paper) / Math.min(text, paper));
        }"""
    )
    assert len(ratios) > 50
    assert min(ratios) >= 4.5  # WCAG 2.2, 1.4.3


def test_a_position_is_chosen_with_the_pointer_in_both_panes(opened, analyses):
    written = read(analyses["perturbation"])
    opened.locator("#perturbation .pane .cells [data-row='2'][data-column='1']").first.click()
    index = written["results"]["positions"].index([2, 1])
    for pane in ("#perturbation [data-folder='0']", "#perturbation [data-folder='1']"):
        assert opened.locator(f"{pane} [aria-selected=true]").get_attribute("data-row") == "2"
        assert numbers(opened, pane)["Position, row and column"] == "2, 1"
    image = written["images"][0]
    expected = tile_of(analyses["perturbation"], image["decodes"], index)
    assert np.abs(drawn(opened, "#perturbation [data-part=decode] canvas") - expected).mean() < 3  # two WebP decoders
    pick(opened, "#perturbation", "without")
    plain = np.asarray(Image.open(analyses["perturbation"] / image["reconstruction"]).convert("RGB"), dtype=float)
    assert np.array_equal(drawn(opened, "#perturbation [data-part=decode] canvas"), plain)


def test_a_position_is_chosen_with_the_keyboard(opened, analyses):
    results = read(analyses["perturbation"])
    pane = "#perturbation [data-folder='0']"
    opened.locator(f"{pane} [data-jump=worst]").press("Enter")
    errors = results["images"][0]["error"]
    worst = results["results"]["positions"][int(np.argmax(errors))]
    assert numbers(opened, pane)["Position, row and column"] == f"{worst[0]}, {worst[1]}"
    assert numbers(opened, pane)["Rank, worst first"] == "1 of 16"
    opened.locator(f"{pane} [data-jump=mildest]").focus()
    opened.keyboard.press("Tab")  # from the buttons straight to the chosen cell, the only one in the order
    assert opened.evaluate("document.activeElement.ariaSelected") == "true"
    opened.keyboard.press("Control+Home")
    assert numbers(opened, pane)["Position, row and column"] == "0, 0"
    for key, expected in (
        ("ArrowRight", "0, 1"), ("ArrowDown", "1, 1"), ("End", "1, 3"), ("ArrowRight", "1, 3"),
        ("PageDown", "3, 3"), ("Home", "3, 0"), ("ArrowUp", "2, 0"), ("ArrowLeft", "2, 0"),
    ):  # fmt: skip
        opened.keyboard.press(key)
        assert numbers(opened, pane)["Position, row and column"] == expected
    share = results["images"][0]["local_share"][results["results"]["positions"].index([2, 0])]
    assert numbers(opened, pane)["Error within 1 position"].startswith(f"{100 * share:.0f}")
    label = opened.evaluate("document.activeElement.ariaLabel")
    assert label.startswith("row 2, column 0: ")


def test_the_map_shows_another_measure_and_common_colours(opened):
    cells = "#perturbation [data-folder='0'] .cells [role=gridcell]"
    colours = "cells => cells.map(cell => cell.style.background)"
    before = opened.eval_on_selector_all(cells, colours)
    opened.select_option("#perturbation select[name=map]", "far")
    assert opened.eval_on_selector_all(cells, colours) != before
    assert opened.locator("#perturbation [data-part=low]").first.inner_text() == "0\N{NO-BREAK SPACE}%"
    opened.check("#perturbation input[name=common]")
    highs = opened.locator("#perturbation [data-part=high]").all_inner_texts()
    assert highs[0] == highs[1]


def test_positions_that_were_not_perturbed_are_passed_over(visit, analyses, tmp_path):
    kept = [0, 3, 15]

    def edit(content):
        results = content["results"]
        results["positions"] = [results["positions"][index] for index in kept]
        for image in content["images"]:
            for name in ("error", "local_share", "visible_outside"):
                image[name] = [image[name][index] for index in kept]
            image["radius"] = {level: [values[index] for index in kept] for level, values in image["radius"].items()}

    folder = change(analyses["perturbation"], tmp_path / "some", edit)
    page = visit(write_report([folder], tmp_path / "some.html"))
    page.locator("#perturbation [aria-selected=true]").focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowRight")
    assert numbers(page, "#perturbation")["Position, row and column"] == "0, 3"
    page.keyboard.press("ArrowDown")
    assert numbers(page, "#perturbation")["Position, row and column"] == "3, 3"
    page.locator("#perturbation [data-row='1'][data-column='1']").click(force=True)
    assert numbers(page, "#perturbation")["Position, row and column"] == "3, 3"


def test_a_channel_is_chosen_by_slider_and_grid(opened, analyses):
    written = read(analyses["features"])
    opened.select_option("#features select[name=block]", index=3)
    slider = opened.locator("#features input[name=rank]")
    slider.press("Home")
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    maps = written["images"][0]["maps"]["up_blocks.2"]
    pane = "#features [data-folder='0']"
    assert numbers(opened, pane)["Channel"].startswith(f"{maps['channels'][2]} of 32")
    assert slider.get_attribute("aria-valuetext") == "3 of 32 by outliers"
    sprite = {"file": maps["before"], "tile": maps["tile"], "columns": maps["columns"]}
    expected = tile_of(analyses["features"], sprite, 2)
    assert np.array_equal(drawn(opened, f"{pane} [data-part=before] canvas"), expected)
    assert opened.locator("#features [data-folder='1'] [data-part=block]").inner_text().startswith("Block layers.3")
    opened.locator(f"{pane} .cells [aria-selected=true]").focus()
    opened.keyboard.press("ArrowDown")
    assert numbers(opened, pane)["Channel"].startswith(f"{maps['channels'][10]} of 32")
    assert slider.input_value() == "10"
    std = written["results"]["blocks"]["up_blocks.2"]["channels"]["std"][maps["channels"][10]]
    assert float(numbers(opened, pane)["Standard deviation"].replace(",", "")) == pytest.approx(std, rel=5e-3)


def test_a_block_that_one_decoder_lacks_is_said(opened):
    opened.select_option("#features select[name=block]", index=4)
    other = opened.locator("#features [data-folder='1']")
    assert other.get_attribute("data-reason") == "It has only 4 blocks."
    assert other.locator("table:visible").count() == 0
    assert opened.locator("#features .panels[data-index='4']:visible").count() == 1
    assert opened.locator("#features .panels[data-index='0']:visible").count() == 0
    opened.select_option("#features select[name=block]", index=0)
    assert other.locator("table:visible").count() == 1


def test_channels_match_by_number(visit, analyses, tmp_path):
    def edit(content):
        content["autoencoder"]["path"] = "shuffled"
        for image in content["images"]:
            for maps in image["maps"].values():
                maps["channels"] = maps["channels"][::-1]

    shuffled = change(analyses["features"], tmp_path / "shuffled", edit)
    page = visit(write_report([analyses["features"], shuffled], tmp_path / "page.html"))
    channels = [numbers(page, f"#features [data-folder='{index}']")["Channel"] for index in (0, 1)]
    assert channels[0] != channels[1]
    pick(page, "#features", "number")
    channels = [numbers(page, f"#features [data-folder='{index}']")["Channel"] for index in (0, 1)]
    assert channels[0].split(",")[0] == channels[1].split(",")[0]


def test_a_histogram_tells_its_counts_to_the_keyboard(opened, analyses):
    maps = read(analyses["features"])["images"][0]["maps"]
    opened.select_option("#features select[name=block]", index=2)
    opened.locator("#features [data-folder='0'] svg.bars").focus()
    for key, index in (("Home", 0), ("ArrowRight", 1), ("End", -1)):
        opened.keyboard.press(key)
        lines = opened.locator("#features .tip:visible").inner_text().splitlines()
        counts = maps["up_blocks.1"]["histograms"][0]
        assert lines[1:] == [f"kept: {counts['kept'][index]:,}", f"masked: {counts['masked'][index]:,}"]
    opened.keyboard.press("Escape")
    assert opened.locator("#features .tip:visible").count() == 0


def test_a_way_of_shrinking_is_chosen_and_ranked(opened, analyses):
    results = read(analyses["interpolation"])["results"]
    pane = "#interpolation [data-folder='0']"
    opened.select_option("#interpolation select[name=method]", "latent-bicubic")
    opened.locator("#interpolation input[name=scale]").press("End")
    index = next(i for i, v in enumerate(results["variants"]) if (v["method"], v["scale"]) == ("latent-bicubic", 2.0))
    values = results["measures"]["psnr"]["values"][0]
    rank = sorted(values, reverse=True).index(values[index]) + 1
    row = opened.locator(f"{pane} .ranked tr", has_text="PSNR").locator("td").all_inner_texts()
    assert row == [f"{values[index]:.1f}", f"{rank} of 8"]
    chosen = opened.locator(f"{pane} .cells [aria-selected=true]")
    assert chosen.get_attribute("aria-label").startswith("Latents, bicubic, s = 2: latent MSE ")
    path = analyses["interpolation"] / read(analyses["interpolation"])["images"][0]["decodes"][index]
    expected = np.asarray(Image.open(path).convert("RGB"), dtype=float)
    assert np.array_equal(drawn(opened, f"{pane} [data-part=decode] canvas"), expected)
    chosen.focus()
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("ArrowLeft")
    assert opened.locator("#interpolation select[name=method]").input_value() == "latent-bilinear"
    assert opened.locator("#interpolation output").inner_text() == "1.5"
    assert opened.locator("#interpolation .ring").count() == 2


def test_correlations_follow_damage_and_subset(opened, analyses):
    entries = read(analyses["interpolation"])["results"]["correlations"]

    def shown():
        row = opened.locator("#interpolation .intervals tbody tr").first
        return row.locator("td").nth(1).locator(".line").first.inner_text()

    def written(damage, subset):
        found = (e for e in entries if (e["measure"], e["damage"], e["subset"]) == ("latent_mse", damage, subset))
        return f"{next(found)['rho']['mean']:.2f}".replace("-", "\N{MINUS SIGN}")

    for damage in ("ms_ssim", "sliced_wasserstein"):
        opened.select_option("#interpolation select[name=damage]", damage)
        for subset in ("all", "latent"):
            pick(opened, "#interpolation", subset)
            assert shown() == written(damage, subset)
    count = opened.locator("#interpolation .intervals tbody tr").count()
    opened.check("#interpolation input[name=blocks]")
    assert opened.locator("#interpolation .intervals tbody tr").count() == count + 25  # 5 blocks, 5 normalisations


def test_channels_of_the_latent_are_sorted_and_told(opened, analyses):
    metric = read(analyses["linear"])["images"][1]["metric"]
    opened.select_option("#linear select[name=image]", index=1)
    bars = opened.locator("#linear [data-folder='0'] svg.bars")
    bars.focus()
    opened.keyboard.press("Home")
    assert opened.locator("#linear .tip:visible b").inner_text() == f"channel {int(np.argmax(metric['channels']))}"
    pick(opened, "#linear", "channel")
    bars = opened.locator("#linear [data-folder='0'] svg.bars")
    bars.focus()
    opened.keyboard.press("End")
    assert opened.locator("#linear .tip:visible b").inner_text() == f"channel {len(metric['channels']) - 1}"
    assert opened.locator("#linear .slot[data-index='1'] svg.chart:visible").count() == 1
    assert opened.locator("#linear .slot[data-index='0'] svg.chart:visible").count() == 0


def test_a_noise_level_and_a_quantity_are_chosen(opened, analyses):
    study = read(analyses["calibration"])["results"]["chosen"]
    opened.select_option("#calibration select[name=quantity]", "loss")
    assert opened.locator("#calibration .drawing:visible").count() == 2
    level = opened.locator("#calibration input[name=level]")
    level.press("Home")
    table = opened.locator("#calibration [data-folder='0'] .levels")
    assert table.locator("thead th").first.inner_text() == f"Block at σ = {study['sigmas'][0]}"
    assert level.get_attribute("aria-valuetext") == f"σ = {study['sigmas'][0]}"
    cells = table.locator("tbody tr").first.locator("td").all_inner_texts()
    assert float(cells[0]) == pytest.approx(100 * study["gradient_share"][0][0], rel=5e-3)
    assert cells[2].replace("\N{MINUS SIGN}", "-") == f"{100 * study['feature_reliability'][0][0]:.1f}"


def test_of_three_any_two_are_compared(visit, analyses, others, tmp_path):
    third = change(others["linear"], tmp_path / "x", lambda content: content["autoencoder"].update(path="third"))
    page = visit(write_report([analyses["linear"], others["linear"], third], tmp_path / "page.html"))

    def sides():
        panes = page.locator("#linear .pane:visible").all()
        return [
            pane.locator("h3").inner_text().split()[0] for pane in sorted(panes, key=lambda p: p.bounding_box()["x"])
        ]

    assert sides() == ["demo", "other"]
    page.select_option("#linear select[name=right]", label="third")
    assert sides() == ["demo", "third"]
    page.select_option("#linear select[name=left]", label="third")
    assert sides() == ["third", "demo"]


def test_a_picture_left_out_is_said_in_its_place(visit, analyses, tmp_path):
    folder = shutil.copytree(analyses["linear"], tmp_path / "linear")
    (folder / "images" / "000" / "largest-step.png").unlink()
    page = visit(write_report([folder], tmp_path / "page.html"))
    page.wait_for_timeout(300)
    assert page.locator("#linear [data-part=largest] .gone").is_visible()
    assert not page.locator("#linear [data-part=smallest] .gone").is_visible()


def test_without_scripts_numbers_and_curves_remain(visit, comparison):
    page = visit(comparison, java_script_enabled=False)
    assert page.locator("#calibration .choices:visible").count() == 1
    assert page.locator("#features table.metrics:visible").count() == 1
    assert page.locator("#linear svg.chart:visible").count() >= 2
    assert page.locator("noscript").count() == 4
    assert page.locator("select:visible, input:visible").count() == 0


def test_runs_and_analyses_share_a_page(visit, analyses, make_run, tmp_path):
    page = visit(write_report([make_run("l2", count=2), analyses["features"]], tmp_path / "page.html"))
    assert page.locator("#pictures .tiles img:visible").count() == 2
    assert page.locator("#features .pane:visible").count() == 1
    colours = [page.locator(f"{part} .card").first.get_attribute("class") for part in ("#outcome", "#autoencoders")]
    assert colours == ["card run-0", "card run-1"]
