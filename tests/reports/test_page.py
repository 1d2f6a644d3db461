from __future__ import annotations

import json
import os
import re
import shutil
from importlib.resources import files

import numpy as np
import pytest
from html_tree import parse
from PIL import Image
from synthetic_runs import RESULTS

from lpl.reports import ReportError, write_report
from lpl.reports.sections import SECTIONS, Section


def test_sections_headings_and_navigation_agree(two_runs, page):
    document = page(two_runs)
    ids = [section.attributes["id"] for section in document.one("main").all("section")]
    assert ids == ["outcome", "pictures", "curves", "spectrum", "recipes", "machines", "notes"]
    links = [link.attributes["href"] for link in document.one("nav").all("a")]
    assert links == [f"#{name}" for name in ids]
    assert document.one("h1").text == document.one("title").text == "lpl against l2"


def test_ids_are_unique_and_references_resolve(two_runs, page):
    document = page(two_runs)
    ids = [element.attributes["id"] for element in document.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    wanted = {element.attributes.get("aria-labelledby") for element in document.all()} - {None}
    wanted |= {link.attributes["href"].removeprefix("#") for link in document.all("a")}
    assert wanted <= set(ids)


def test_nothing_is_fetched_from_anywhere(two_runs, tmp_path):
    html = write_report(two_runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|<object|srcset", html)
    document = parse(html)
    assert all(image.attributes["src"].startswith("data:image/") for image in document.all("img"))
    assert all("src" not in script.attributes for script in document.all("script"))
    (policy,) = document.all("meta", http_equiv="Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_every_picture_and_control_has_a_name(two_runs, page):
    document = page(two_runs)
    assert len(document.all("img")) == 16
    assert all(image.attributes["alt"] for image in document.all("img"))
    sliders = document.one(id="pictures").all("input", type="range")
    assert len(sliders) == 8 + 1
    labelled = {id(child) for label in document.all("label") for child in label.all()}
    assert all(slider.attributes.get("aria-label") or id(slider) in labelled for slider in sliders)
    assert all(chart.attributes["aria-label"] for chart in document.all("svg", class_="chart"))


def test_pairs_carry_class_seed_and_sides(two_runs, page):
    items = page(two_runs).one("ul", class_="tiles").all("li")
    assert [item.one("figcaption").text for item in items[:2]] == ["astronaut seed 0, no. 0", "cat seed 0, no. 1"]
    places = [[image.attributes["data-place"] for image in item.all("img")] for item in items]
    assert places == [["left", "right"]] * 8


def test_three_runs_can_be_chosen_from(make_run, two_runs, page):
    document = page([*two_runs, make_run("third")])
    selects = document.one(id="pictures").all("select")
    assert [[option.text for option in select.all("option")] for select in selects] == [["l2", "lpl", "third"]] * 2
    assert all("disabled" not in select.attributes for select in selects)
    places = [
        image.attributes.get("data-place") for image in document.one("ul", class_="tiles").all("li")[0].all("img")
    ]
    assert places == ["left", "right", None]


def test_table_marks_best_and_differences(two_runs, page):
    table = page(two_runs).one(id="outcome").all("table", class_="metrics")[0]
    header = [cell.text for cell in table.one("thead").all("th")]
    assert header[4] == "Fréchet distance ↓ , lower is better"
    first, second, baseline = table.one("tbody").all("tr")
    assert [row.one("th").text for row in (first, second, baseline)] == ["l2", "lpl", "reconstruction"]
    cell = second.all("td")[3]
    assert cell.attributes["class"] == "best"
    assert cell.one("span", class_="value").text == "44.10"
    assert cell.one("span", class_="better").text.endswith("better")


def test_every_measure_is_explained(two_runs, page):
    outcome = page(two_runs).one(id="outcome")
    columns = [len(table.one("thead").all("th")) - 1 for table in outcome.all("table")]
    assert [len(glossary.all("dd")) for glossary in outcome.all("dl")] == columns == [6, 3]
    assert "recall of l2 and lpl: 8 samples are fewer than neighbours + 1" in outcome.text


def test_sentences_say_what_came_out_even_if_unflattering(two_runs, page):
    (sentence,) = page(two_runs).one(id="outcome").all("p", class_="finding")
    assert sentence.text == (
        "lpl against l2, over 6 measures: better on 3 (sliced Wasserstein; high frequencies; Fréchet distance), "
        "worse on 1 (precision), equal on 2 (log-spectral distance; kernel distance)."
    )


def test_small_differences_are_called_small(make_run, page):
    close = {**RESULTS, "frechet_distance": 48.0, "precision": 0.7}
    (sentence,) = page([make_run("l2"), make_run("lpl", results=close)]).all("p", class_="finding")
    assert sentence.text.endswith("less than 1 % apart on 1 of them (Fréchet distance).")


def test_recipes_and_their_differences_are_whole(two_runs, page):
    section = page(two_runs).one(id="recipes")
    (row,) = section.one("table").one("tbody").all("tr")
    assert row.one("th").text == "objective.perceptual"
    assert [cell.attributes.get("class") for cell in row.all("td")] == [None, "other"]
    texts = ["".join(code.pieces) for code in section.all("code")]
    assert texts == [(folder / "recipe.yaml").read_text() for folder in two_runs]


def test_text_from_files_is_escaped(make_run, page):
    nasty = '<script>alert("x")</script>&amp;'
    folder = make_run("run", perceptual=True)
    recipe = (folder / "recipe.yaml").read_text().replace("name: run", f"name: '{nasty}'")
    (folder / "recipe.yaml").write_text(recipe)
    details = {"labels": [0] * 8, "classes": [nasty], "seed": 0, "settings": {}, "checkpoint": nasty}
    (folder / "samples" / "default" / "samples.json").write_text(json.dumps(details))
    (folder / "run.json").write_text(json.dumps({"status": nasty, nasty: nasty}))
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps({"step": s, "loss": s, nasty: s}) for s in range(9)))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["sets"]["default"] |= {"results": {nasty: 1.0}, "notes": [nasty], "baselines": {nasty: {"results": {}}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    document = page([folder, make_run("other")], title=nasty)
    assert document.one("h1").text == nasty
    assert all("<script>alert" not in "".join(script.pieces) for script in document.all("script"))
    plain = page([make_run("plain", perceptual=True), make_run("other2")])
    assert {element.tag for element in document.all()} <= {element.tag for element in plain.all()}


@pytest.mark.parametrize("missing", ["recipe.yaml", "run.json", "metrics.jsonl", "metrics.json", "samples"])
def test_a_run_that_lacks_a_part_still_has_a_page_that_says_so(make_run, page, missing):
    folder = make_run("run")
    shutil.rmtree(folder / missing) if missing == "samples" else (folder / missing).unlink()
    for runs in ([folder], [make_run("whole"), folder]):
        assert missing in page(runs).one(id="notes").text


def test_a_run_that_has_only_begun(tmp_path, page):
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: begun\n")
    document = page([folder])
    absent = [paragraph.text for paragraph in document.all("p", class_="absent")]
    assert len(absent) == 4
    assert absent[0].startswith("No run has metrics yet")


def test_the_page_stays_under_25_megabytes(tmp_path, make_run):
    runs = [make_run(f"run-{index}", perceptual=True, count=1) for index in range(2)]
    generator = np.random.default_rng(0)
    for folder in runs:
        samples = folder / "samples" / "default"
        for index in range(48):  # noise does not compress: 25 MB in all, 34 as data URIs
            pixels = generator.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(samples / f"{index:06d}.png", compress_level=0)
        (samples / "samples.json").write_text(json.dumps({"labels": [0] * 48, "classes": ["noise"], "seed": 0}))
    target = write_report(runs, tmp_path / "page.html")
    assert 15e6 < target.stat().st_size <= 25e6
    html = target.read_text(encoding="utf-8")
    assert re.search(r"The first \d+ of 48 shared samples are shown", html)


def test_refuses_before_writing_anything(tmp_path, make_run):
    run = make_run("run")
    (tmp_path / "album").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ReportError, match="album is no run and no analysis"):
        write_report([run, tmp_path / "album"], tmp_path / "page.html")
    with pytest.raises(ReportError, match=r"output: .*page\.pdf is neither a folder that exists nor"):
        write_report([run], tmp_path / "page.pdf")
    with pytest.raises(ReportError, match="runs: got 13; one page compares at most 12"):
        write_report([run] * 13, tmp_path / "page.html")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_can_not_be_written_is_named(tmp_path, make_run):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReportError, match=r"page\.html can't be written"):
        write_report([make_run("run")], tmp_path / "file" / "page.html")


def test_replaces_a_page_and_leaves_nothing_beside_it(tmp_path, make_run):
    folder = tmp_path / "pages"
    folder.mkdir()
    assert write_report([make_run("run")], folder) == folder / "report.html"
    first = (folder / "report.html").read_bytes()
    write_report([make_run("other")], folder)
    assert os.listdir(folder) == ["report.html"]
    assert (folder / "report.html").read_bytes() != first


def test_titles(make_run, page):
    runs = [make_run(name) for name in ("l2", "lpl", "matched", "unit")]
    assert page(runs[:1]).one("h1").text == "l2"
    assert page(runs[:3]).one("h1").text == "lpl and matched against l2"
    assert page(runs).one("h1").text == "4 runs compared"
    assert page(runs, title="Own").one("h1").text == "Own"


def test_further_views_slot_in_as_sections(two_runs, page):
    def view(comparison):
        return Section("view", f"{len(comparison.runs)} latents", "Latents", "notes.html.j2", {"notes": []})

    def nothing(comparison):
        return None

    document = page(two_runs, sections=[*SECTIONS[:1], view, nothing])
    assert [section.attributes["id"] for section in document.one("main").all("section")] == ["outcome", "view"]
    assert document.one(id="view").one("h2").text == "2 latents"


def test_templates_are_shipped_with_the_package():
    folder = files("lpl.reports").joinpath("templates")
    names = {entry.name for entry in folder.iterdir()}
    assert names >= {"page.html.j2", "macros.html.j2", "style.css", "dark.css", "theme.js", "report.js", "sections"}


@pytest.mark.parametrize("count", ["8", None, [8]])
def test_a_number_of_samples_that_is_none_is_left_unsaid(make_run, page, count):
    folder = make_run("run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["sets"]["default"]["provenance"]["samples"]["count"] = count
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "Measured on" not in page([folder]).text
    metrics["sets"]["default"]["provenance"]["samples"]["count"] = 8
    metrics["sets"]["default"]["provenance"]["reference"]["count"] = count
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "Measured on 8 samples at" in page([folder]).text
