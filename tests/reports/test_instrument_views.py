"""What the page says of analyses, against their JSON files."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from analysis_folders import KINDS, change, read
from PIL import Image
from typer.testing import CliRunner

from lpl.cli import app
from lpl.reports import ReportError, write_report
from lpl.reports.instruments.folders import load_analyses
from lpl.reports.instruments.interpolation import label_of
from lpl.reports.page import render


@pytest.fixture
def whole(analyses, others, page):
    """A page of two autoencoders with every kind of analysis."""
    return page([*analyses.values(), *others.values()])


def data_of(section):
    """What a section hands to its script."""
    explorer = section.one("div", class_="explorer")
    return json.loads("".join(explorer.all("script")[0].pieces))


def rows_of(table):
    return [[cell.text for cell in row.children] for row in table.one("tbody").all("tr")]


def test_every_kind_has_its_section_and_the_runs_have_none(whole):
    ids = [section.attributes["id"] for section in whole.one("main").all("section")]
    assert ids == ["autoencoders", *KINDS]
    assert whole.one("h1").text == "demo and other"


def test_ids_are_unique_and_references_resolve(whole):
    ids = [element.attributes["id"] for element in whole.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    wanted = {element.attributes.get("aria-labelledby") for element in whole.all()} - {None}
    wanted |= {link.attributes["href"].removeprefix("#") for link in whole.all("a")}
    assert wanted <= set(ids)


def test_every_control_has_a_name(whole):
    labelled = {id(child) for label in whole.all("label") for child in label.all()}
    controls = [control for tag in ("input", "select") for control in whole.all(tag)]
    assert len(controls) > 20
    assert all(control.attributes.get("aria-label") or id(control) in labelled for control in controls)
    assert all(
        canvas.attributes.get("aria-label") or "aria-hidden" in canvas.attributes for canvas in whole.all("canvas")
    )


def test_nothing_is_fetched_and_no_path_of_the_machine_is_told(analyses, others, tmp_path):
    html = write_report([*analyses.values(), *others.values()], tmp_path / "page.html").read_text(encoding="utf-8")
    scripts_aside = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|<link|<iframe|<object|srcset", scripts_aside)
    assert "/somewhere/else" not in html
    assert str(tmp_path) not in html


def test_every_picture_that_a_script_asks_for_is_inlined_once(whole):
    pictures = json.loads("".join(whole.one("script", id="inlined").pieces))
    asked = set(re.findall(r'"(p[0-9a-f]{12})"', " ".join("".join(s.pieces) for s in whole.all("script")[1:-2])))
    assert asked == set(pictures)
    assert len(set(pictures.values())) == len(pictures)
    assert all(uri.startswith("data:image/") for uri in pictures.values())


def test_interpolation_carries_every_number(whole, analyses):
    written = read(analyses["interpolation"])["results"]
    folder = data_of(whole.one(id="interpolation"))["folders"][0]
    assert len(folder["images"]) == 2  # of three, whose pictures were kept
    assert len(folder["variants"]) == len(folder["images"][0]["decodes"]) == 8
    for name, measure in (written["measures"] | written["damages"]).items():
        shown = folder["measures"].get(name) or folder["damages"][name]
        assert shown["values"] == measure["values"]
    assert len(folder["correlations"]) == len(written["correlations"])


def test_interpolation_says_what_orders_pictures_better(analyses, tmp_path, page):
    """A verdict needs an interval that leaves zero out."""
    advantages = {"ms_ssim": (0.1, 0.3), "gmsd": (-0.1, 0.3), "sliced_wasserstein": (-0.3, -0.1)}

    def edit(content):
        for entry in content["results"]["correlations"]:
            if entry["measure"] == "feature/all/prediction" and entry["subset"] == "all":
                low, high = advantages[entry["damage"]]
                entry["advantage_over_latent_mse"] = {"mean": (low + high) / 2, "low": low, "high": high}

    folder = change(analyses["interpolation"], tmp_path / "interpolation", edit)
    (finding,) = page([folder]).one("ul", class_="findings").all("li")
    assert re.search(
        r"better by 1 − MS-SSIM \(ρ .*; no differently by GMSD \(ρ .*; worse by sliced Wasserstein \(ρ", finding.text
    )


def test_interpolation_groups_its_measures(whole, analyses):
    (select,) = whole.one(id="interpolation").all("select", name="measure")
    groups = {group.attributes["label"]: len(group.all("option")) for group in select.all("optgroup")}
    count = len(read(analyses["interpolation"])["results"]["measures"])
    assert groups["Latents and pixels"] == 4
    assert groups["The loss, all blocks"] == 5
    assert sum(groups.values()) == count
    labels = label_of("feature/up_blocks.1/unit", []), label_of("feature/all/none", [])
    assert labels == ("features, up_blocks.1, unit", "features, all blocks, none")


def test_perturbation_carries_every_position(whole, analyses):
    written = read(analyses["perturbation"])
    folder = data_of(whole.one(id="perturbation"))["folders"][0]
    assert folder["positions"] == written["results"]["positions"]
    assert len(folder["positions"]) == 16
    for shown, image in zip(folder["images"], written["images"], strict=True):
        assert shown["error"] == image["error"]
        assert shown["local"] == image["local_share"]
        assert shown["radii"] == image["radius"]
        assert all(shown[name]["key"] for name in ("decodes", "differences", "influence"))


def test_differences_were_taken_before_compression(analyses):
    """The sprite of differences against the exact pictures of the worst positions, which are stored as PNG."""
    folder, content = analyses["perturbation"], read(analyses["perturbation"])
    image, gain = content["images"][0], content["results"]["difference_gain"]
    sheet = np.asarray(Image.open(folder / image["differences"]["file"]).convert("RGB"), dtype=float)
    before = np.asarray(Image.open(folder / image["reconstruction"]), dtype=float)
    side, columns = image["differences"]["tile"][0], image["differences"]["columns"]
    for entry in image["worst"][:3]:
        place = content["results"]["positions"].index(entry["position"])
        top, left = place // columns * side, place % columns * side
        after = np.asarray(Image.open(folder / entry["decode"]), dtype=float)
        expected = np.clip(127.5 + gain * (after - before), 0, 255)
        assert np.abs(sheet[top : top + side, left : left + side] - expected).mean() < 6


def test_feature_maps_come_with_their_histograms(whole, analyses):
    written = read(analyses["features"])
    folder = data_of(whole.one(id="features"))["folders"][0]
    for block, maps in zip(folder["blocks"], folder["images"][0]["maps"], strict=True):
        height, width = block["size"]
        assert len(maps["histograms"]) == len(maps["channels"]) == len(maps["scales"])
        for histogram, share in zip(maps["histograms"], maps["masked_share"], strict=True):
            assert sum(histogram["kept"]) + sum(histogram["masked"]) == height * width
            assert sum(histogram["masked"]) == pytest.approx(share * height * width, abs=0.01)
        channels = written["results"]["blocks"][block["name"]]["channels"]
        chosen = maps["channels"][0]
        at = block["channels"]["number"].index(chosen)
        assert block["channels"]["quantiles"][at] == channels["quantiles"][chosen]
        assert block["channels"]["kurtosis"][at] == channels["kurtosis"][chosen]


def test_feature_blocks_are_listed_and_paired_by_their_order(whole):
    section = whole.one(id="features")
    (select,) = section.all("select", name="block")
    assert [option.text for option in select.all("option")] == [
        "1: mid_block / layers.0",
        "2: up_blocks.0 / layers.1",
        "3: up_blocks.1 / layers.2",
        "4: up_blocks.2 / layers.3",
        "5: up_blocks.3",
    ]
    names = [row[0] for row in rows_of(section.all("table", class_="metrics")[0])]
    assert names[:2] == ["demo mid_block", "demo up_blocks.0"]
    assert names[-1] == "other layers.3"
    assert len(section.all("div", class_="panels")) == 5


def test_norms_of_outliers_are_drawn_and_listed(whole, analyses):
    results = read(analyses["features"])["results"]
    section = whole.one(id="features")
    readout = json.loads("".join(section.all("div", class_="panels")[1].all("script")[1].pieces))
    block = results["blocks"]["up_blocks.0"]
    assert readout["lines"][0]["y"] == pytest.approx(block["norms"][::-1], rel=1e-3)
    assert readout["lines"][0]["x"] == pytest.approx([100 * share for share in results["norm_shares"][::-1]])
    cell = rows_of(section.all("table", class_="metrics")[0])[1][-1]
    assert float(cell.removeprefix("×")) == pytest.approx(block["largest_norm"], rel=0.06)


def test_the_appendix_is_counted(whole, analyses):
    claims = read(analyses["interpolation"])["results"]["claims"]
    rows = rows_of(whole.one(id="interpolation").all("table", class_="metrics")[0])
    assert len(rows) == 2 * len(claims)
    assert rows[0][0] == "demo latents, nearest, s = 1.5 over latents, bilinear, s = 1.5"
    for row, claim in zip(rows, claims, strict=False):
        assert row[1].startswith(f"{100 * claim['higher_mse']['mean']:.0f}")
        assert row[2].startswith(f"{100 * claim['contradicted']['ms_ssim']['mean']:.0f}")


def test_files_of_before_the_norms_and_the_claims_still_open(analyses, tmp_path, page):
    def edit(content):
        results = content["results"]
        for key in ("norm_shares", "claims", "taylor_of_predictions"):
            results.pop(key, None)
        for block in results.get("blocks", {}).values():
            for key in ("norms", "largest_norm"):
                block.pop(key)
            block["channels"].pop("masked_norm")

    folders = [change(analyses[kind], tmp_path / kind, edit) for kind in ("features", "interpolation", "linear")]
    document = page(folders)
    assert len(document.one(id="linear").all("table", class_="metrics")[0].one("tbody").all("tr")) == 1
    assert document.one(id="interpolation").all("table", class_="metrics") == []


def test_sweeps_are_drawn_in_per_cent(whole, analyses):
    sweeps = read(analyses["features"])["results"]["sweeps"]
    section = whole.one(id="features")
    panels = section.all("div", class_="panels")[2]
    readout = json.loads("".join(panels.all("script")[3].pieces))
    assert readout["x"]["label"] == "offset"
    lines = {line["label"]: line for line in readout["lines"]}
    assert lines["demo, positions"]["x"] == sweeps["offset"]["values"]
    expected = [100 * share for share in sweeps["offset"]["masked_energy"]["up_blocks.1"]]
    assert lines["demo, energy"]["y"] == pytest.approx(expected, rel=1e-3)


def test_linear_shows_the_spectrum_and_where_the_approximation_breaks(whole, analyses):
    written = read(analyses["linear"])
    section = whole.one(id="linear")
    readouts = [json.loads("".join(plot.one("script").pieces)) for plot in section.all("div", class_="plot")[2:]]
    spectrum, taylor, predictions = readouts[0], readouts[-2], readouts[-1]
    metric = written["images"][0]["metric"]
    assert spectrum["lines"][0]["x"][-1] == pytest.approx(metric["largest_eigenvalue"], rel=1e-4)
    assert spectrum["lines"][0]["y"][0] == pytest.approx(1 - metric["ritz_weights"][0], rel=1e-3)
    assert taylor["lines"][0]["y"] == pytest.approx(written["results"]["taylor"]["mean"], rel=1e-3)
    later = written["results"]["taylor_of_predictions"]
    assert predictions["lines"][0]["x"] == later["sigmas"]
    assert predictions["lines"][0]["y"] == pytest.approx(later["mean"], rel=1e-3)
    crossings = rows_of(section.all("table", class_="metrics")[0])
    assert [row[0] for row in crossings[:2]] == ["demo white noise, σ", "demo errors of ẑ0, σ_t"]
    sigma = written["results"]["taylor"]["sigma_at"]["0.5"]
    assert float(re.sub("[^0-9.]", "", crossings[0][2])) == pytest.approx(sigma or 3, rel=0.06)
    equations = rows_of(section.all("table", class_="metrics")[1])
    assert [row[0].split(",")[0] for row in equations] == ["tall", "square", "wide"]


def test_calibration_lists_every_choice_with_its_reason(whole, analyses):
    advice = read(analyses["calibration"])["results"]["advice"]
    rows = whole.one(id="calibration").one("table", class_="choices").one("tbody").all("tr")
    assert [row.one("code").text for row in rows] == [entry["setting"] for entry in advice]
    for row, entry in zip(rows, advice, strict=True):
        assert entry["reason"][1:] in row.text
        cell = row.all("td")[1]
        assert bool(cell.all("b", class_="changed")) == (entry["value"] != entry["paper"])
        assert bool(cell.all("p", class_="warning")) == bool(entry["warning"])


def test_calibration_carries_its_recipe_and_curves(whole, analyses):
    results = read(analyses["calibration"])["results"]
    section = whole.one(id="calibration")
    recipe = "".join(section.all("pre")[0].one("code").pieces)
    assert recipe == (analyses["calibration"] / "recipe.yaml").read_text(encoding="utf-8")
    tables = data_of(section)["folders"][0]["tables"]
    assert np.allclose(tables["loss"], results["chosen"]["loss"], rtol=1e-3)
    assert np.allclose(tables["gradient_share"], 100 * np.array(results["chosen"]["gradient_share"]), rtol=1e-3)
    settings = results["settings"]
    name = f"{settings['normalization']}, floor {settings['variance_floor']:g}"
    assert np.allclose(tables["concentration"], 100 * np.array(results["chosen"]["concentration"][name]), rtol=1e-3)


def test_the_command_takes_analyses_alone(analyses, tmp_path):
    target = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(analyses["linear"]), "--output", str(target)])
    assert result.exit_code == 0
    assert result.output.startswith("report: ")  # and no table, as there are no metrics
    assert 'id="linear"' in target.read_text(encoding="utf-8")


def test_one_analysis_alone_has_no_choice_of_sides(analyses, page):
    document = page([analyses["perturbation"]])
    section = document.one(id="perturbation")
    assert section.all("select", name="left") == section.all("input", name="common") == []
    assert document.one("h1").text == "demo"


def test_three_can_be_chosen_from(analyses, others, tmp_path, page):
    third = change(others["linear"], tmp_path / "x", lambda content: content["autoencoder"].update(path="third"))
    section = page([analyses["linear"], others["linear"], third]).one(id="linear")
    for side in ("left", "right"):
        (select,) = section.all("select", name=side)
        assert [option.text for option in select.all("option")] == ["demo", "other", "third"]


def test_a_picture_that_is_missing_is_said(analyses, tmp_path, page):
    folder = shutil.copytree(analyses["linear"], tmp_path / "linear")
    (folder / "images" / "000" / "largest-step.png").unlink()
    section = page([folder]).one(id="linear")
    assert "Missing or unreadable, so not shown: linear/images/000/largest-step.png." in section.text
    assert data_of(section)["folders"][0]["images"][0]["largest"] is None


def test_text_from_files_is_escaped(analyses, tmp_path, page):
    nasty = "</script><script>alert(1)</script>"

    def edit(content):
        content["autoencoder"] |= {"path": nasty, "kind": nasty}
        content["images"][0]["name"] = nasty
        for entry in content["results"].get("advice", ()):
            entry |= {"reason": nasty, "warning": nasty, "value": nasty}

    folders = [change(analyses[kind], tmp_path / kind, edit) for kind in KINDS]
    document = page(folders)
    assert document.one("h1").text == nasty.rpartition("/")[2] or nasty in document.one("h1").text
    assert all(not "".join(script.pieces).startswith("alert") for script in document.all("script"))


@pytest.fixture
def heavy(analyses, tmp_path):
    """Two interpolations whose pictures take 33 MB as data URIs, more than a page may."""

    def fill(folder, seed):
        generator = np.random.default_rng(seed)
        for path in folder.glob("images/*/*.png"):
            Image.fromarray(generator.integers(0, 256, (512, 512, 3), dtype=np.uint8)).save(path, compress_level=0)
        return folder

    first = fill(shutil.copytree(analyses["interpolation"], tmp_path / "first"), 0)
    return [first, fill(shutil.copytree(analyses["interpolation"], tmp_path / "second"), 1)]


def test_the_page_stays_under_25_megabytes_and_says_what_gave_way(heavy, tmp_path):
    target = write_report(heavy, tmp_path / "page.html")
    assert 5e6 < target.stat().st_size <= 25e6
    html = target.read_text(encoding="utf-8")
    assert re.search(
        r"To keep the page under 25\N{NO-BREAK SPACE}MB, compressed as WebP at quality 90: .*decodes of", html
    )


def test_pictures_give_way_to_text_and_a_page_of_text_alone_may_be_too_large(analyses):
    loaded = load_analyses([analyses["features"]])
    full = len(render([], analyses=loaded).encode())
    smaller = render([], analyses=loaded, limit=full - 100_000)
    assert len(smaller.encode()) <= full - 100_000
    assert "To keep the page under" in smaller
    with pytest.raises(ReportError, match=r"takes 0\.\d MB without any picture, and 0\.02 MB is the limit; give fewer"):
        render([], analyses=loaded, limit=20_000)
