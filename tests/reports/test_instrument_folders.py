from __future__ import annotations

import json
import shutil

import pytest
from analysis_folders import KINDS, change

from lpl.reports import ReportError, sort_folders, write_report
from lpl.reports.instruments.folders import load_analyses


def test_runs_and_analyses_are_told_apart(analyses, make_run):
    run = make_run("l2")
    folders = [analyses["calibration"], run, analyses["linear"]]  # a calibration's recipe.yaml does not make it a run
    assert sort_folders(folders) == ([run], [analyses["calibration"], analyses["linear"]])


def test_a_folder_may_hold_several_analyses_and_a_run(analyses, make_run, page):
    folder = make_run("l2")
    for kind in ("linear", "features"):
        shutil.copytree(analyses[kind], folder, dirs_exist_ok=True)
    assert sort_folders([folder]) == ([folder], [folder])
    assert [analysis.kind for analysis in load_analyses([folder])] == ["features", "linear"]
    ids = [section.attributes["id"] for section in page([folder]).one("main").all("section")]
    assert ids == [
        *("outcome", "pictures", "curves", "spectrum", "autoencoders", "features", "linear"),
        *("recipes", "machines", "notes"),
    ]


def test_names_come_from_the_autoencoder_else_from_the_folder(analyses, others, tmp_path):
    both = load_analyses([analyses["linear"], others["linear"], analyses["features"]])
    assert [analysis.name for analysis in both] == ["demo", "other", "demo"]
    assert [analysis.colour for analysis in both] == ["run-0", "run-1", "run-0"]
    again = shutil.copytree(analyses["linear"], tmp_path / "more-steps")
    assert [analysis.name for analysis in load_analyses([analyses["linear"], again])] == ["linear", "more-steps"]
    namesake = shutil.copytree(again, tmp_path / "deeper" / "more-steps")
    names = [analysis.name for analysis in load_analyses([again, namesake])]
    assert names == [str(again), str(namesake)]


def test_colours_follow_those_of_the_runs(analyses):
    (analysis,) = load_analyses([analyses["linear"]], colours_taken=2)
    assert analysis.colour == "run-2"


def test_what_is_neither_is_refused(tmp_path, analyses):
    (tmp_path / "album").mkdir()
    with pytest.raises(ReportError, match=r"album is no run and no analysis.*`lpl analyze`"):
        write_report([analyses["linear"], tmp_path / "album"], tmp_path / "page.html")
    with pytest.raises(ReportError, match="given twice"):
        write_report([analyses["linear"], analyses["linear"]], tmp_path / "page.html")
    with pytest.raises(ReportError, match="got none; give at least one run or analysis"):
        write_report([], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_too_many_are_refused(tmp_path, analyses):
    copies = [shutil.copytree(analyses["linear"], tmp_path / f"copy-{index}") for index in range(13)]
    with pytest.raises(ReportError, match="analyses: got 13; one page compares at most 12"):
        write_report(copies, tmp_path / "page.html")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_is_named_with_the_command_that_mends_it(analyses, tmp_path, kind):
    folder = shutil.copytree(analyses[kind], tmp_path / kind)
    path = folder / f"{kind}.json"
    path.write_text(path.read_text(encoding="utf-8")[:500], encoding="utf-8")
    with pytest.raises(ReportError, match=rf"{kind}\.json can't be read.*run `lpl .*` again"):
        write_report([folder], tmp_path / "page.html")


def test_another_format_and_a_missing_number_are_named(analyses, tmp_path):
    newer = change(analyses["linear"], tmp_path / "newer", lambda content: content.update(format=2))
    with pytest.raises(ReportError, match=r"linear\.json is not as .*`lpl analyze linear` writes it \(format: "):
        write_report([newer], tmp_path / "page.html")
    lacking = change(
        analyses["perturbation"], tmp_path / "lacking", lambda content: content["results"].pop("window_radius")
    )
    with pytest.raises(ReportError, match=r"\(results\.window_radius: Field required\)"):
        write_report([lacking], tmp_path / "page.html")


def test_numbers_that_were_not_finite_are_shown_as_absent(analyses, tmp_path, page):
    def edit(content):
        content["images"][0]["metric"] |= {"condition_at_least": None, "bound_over_mean_at_least": None}

    folder = change(analyses["linear"], tmp_path / "linear", edit)
    assert "beyond what rounding lets one see" in page([folder]).one(id="linear").text
    assert json.loads((folder / "linear.json").read_text())["images"][0]["metric"]["condition_at_least"] is None
