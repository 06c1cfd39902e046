"""Reports: what is read and what is named as damaged, how names tell data apart, tables and the page."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fewvit.errors import DataError, UsageError
from fewvit.evaluate.details import Details
from fewvit.report.looking import DetailsOf
from fewvit.report.read import read
from fewvit.report.report import Report, writer_of
from fewvit.report.rows import lines_of, means
from fewvit.report.sections import sections_of
from fewvit.sweep.folder import SweepFolder

from made_results import cell_of, contents_of, guesses, lowshot_cell, sweep, write

MARKUP = "<img src=x onerror=alert(1)>\n$x_1$ \udcff & |\\"
TOP1 = {"method": "knn", "k": 3, "temperature": 0.07, "metric": "top1", "n_test": 7}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "sweep"
    sweep(folder)
    return folder


def page_of(*places: Path) -> str:
    return writer_of(Path("x.html"))(Report.of(places))


def table_of(*places: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Report.of(places).result.to_csv())))


def result(path: Path, rows, task="knn", **more) -> Path:
    path.write_text(json.dumps({"schema": "fewvit.result/1", "task": task, "rows": rows, "run": {}, **more}))
    return path


# ---- reading


def test_a_finished_sweep_a_run_and_a_commands_json_are_read(swept, tmp_path):
    run = tmp_path / "runs" / "probe"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run / "result.json").write_text(json.dumps({"task": "linear", "rows": [TOP1 | {"value": 50.0}], "run": {}}))
    file = result(tmp_path / "runs" / "x.json", [TOP1 | {"value": 60.0}])
    found = read([swept, run, file])
    assert [record.task for record in found.records].count("lowshot") == 12
    assert [record.task for record in found.records[-2:]] == ["linear", "knn"]
    assert [state.line for state in found.sweeps] == ["sweep sweep: 16 of 16 cells finished"]
    assert {record.path for record in read([tmp_path / "runs"]).records} == {run / "result.json", file}


def test_a_moved_sweep_is_read_with_its_details(swept, tmp_path):
    moved = shutil.copytree(swept, tmp_path / "other" / "sweep")
    assert page_of(moved) == page_of(swept)
    assert any(record.details().predicted for record in read([moved]).records)


def test_a_half_done_sweep_says_how_far_it_is(swept, tmp_path):
    half = shutil.copytree(swept, tmp_path / "half")
    cells = SweepFolder(half).plan()
    gone = {cells[0]["request"], cells[1]["request"]}
    for path in (half / "cells").iterdir():
        if json.loads(path.read_text())["cell"]["request"] in gone:
            path.unlink()
    SweepFolder(half).write_failed(cells[0], "out of memory", 6)
    found = read([half])
    assert [state.line for state in found.sweeps] == ["sweep half: 14 of 16 cells finished, 1 failed, 1 missing"]
    assert found.damaged == []
    page = page_of(half)
    assert "14 of 16 cells finished, 1 failed, 1 missing" in page
    assert ": out of memory." in page


def test_a_damaged_cell_is_named_and_left_out(swept, tmp_path):
    broken = shutil.copytree(swept, tmp_path / "broken")
    cut, changed, *_ = sorted((broken / "cells").iterdir())
    cut.write_bytes(cut.read_bytes()[:100])
    changed.write_text(changed.read_text().replace('"value": ', '"value": 1'))
    made = Report.of([broken])
    assert len(made.found.records) == 14
    assert {Path(str(error.file)) for error in made.found.damaged} == {cut, changed}
    assert made.incomplete is not None
    assert made.incomplete.exit_code == 3
    assert "left out 2 damaged results" in str(made.incomplete)
    assert cut.name in writer_of(Path("x.html"))(made)


def test_damaged_details_leave_the_numbers_and_are_named(swept, tmp_path):
    broken = shutil.copytree(swept, tmp_path / "broken")
    for path in (broken / "details").iterdir():
        path.write_bytes(b"PK" + path.read_bytes())
    made = Report.of([broken])
    assert len(made.found.records) == 16
    writer_of(Path("x.html"))(made)
    assert made.incomplete is not None
    assert "its bytes are not those that were written" in str(made.incomplete)


def test_what_is_no_result_is_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("dataset,value\n")
    (tmp_path / "x.json").write_text('{"a": 1}')
    result(tmp_path / "old.json", [TOP1 | {"value": 1.0}]).write_text('{"schema": "fewvit.result/9", "rows": []}')
    result(tmp_path / "search.json", [{"query": "a", "rank": 1}], "index")
    result(tmp_path / "report.json", [TOP1 | {"value": 1.0}], "report")
    for name, words in {
        "none": "no such file",
        "empty": "no result is here",
        "x.csv": "no manifest",
        "x.json": "not a result",
        "old.json": "another version .'fewvit.result/9'",
        "search.json": "measures nothing",
        "report.json": "the table of a report",
    }.items():
        with pytest.raises(DataError, match=words) as raised:
            Report.of([tmp_path / name])
        assert str(raised.value.file) == str(tmp_path / name)


def test_in_a_folder_what_measures_nothing_is_passed_over_and_what_is_damaged_is_named(tmp_path):
    result(tmp_path / "a.json", [TOP1 | {"value": 60.0}])
    result(tmp_path / "b.json", [{"query": "a"}], "index")
    (tmp_path / "c.json").write_text("[1, 2]")
    (tmp_path / "d.json").write_text('{"schema": ')
    found = read([tmp_path])
    assert [record.path.name for record in found.records] == ["a.json"]
    assert [Path(str(error.file)).name for error in found.damaged] == ["d.json"]
    assert len([note for note in found.notes if note.startswith("passed over")]) == 2


def test_the_same_result_twice_is_read_once_and_a_contradiction_is_named(swept, tmp_path):
    copy = shutil.copytree(swept, tmp_path / "copy")
    found = read([swept, copy])
    assert len(found.records) == 16
    assert [note.partition(" said")[0] for note in found.notes] == ["16 results"]
    one, two = tmp_path / "one", tmp_path / "two"
    cell = cell_of("knn")
    write(one, cell, [TOP1 | {"value": 60.0}])
    write(two, cell, [TOP1 | {"value": 61.0}])
    found = read([one, two])
    assert [record.rows[0]["value"] for record in found.records] == [60.0]
    assert str(two) in str(found.damaged[0].file)


# ---- names and order


def test_data_of_one_name_and_other_contents_are_told_apart(tmp_path):
    cell = cell_of("knn", data="tiny")
    for number, value in ((3, 60.0), (7, 70.0)):
        write(tmp_path / "s", cell, [TOP1 | {"value": value}], contents=contents_of(str(number)))
    rows = table_of(tmp_path / "s")
    assert {row["dataset"]: row["value"] for row in rows} == {
        f"tiny ({contents_of('3')[:6]})": "60.0",
        f"tiny ({contents_of('7')[:6]})": "70.0",
    }


def test_backbones_of_one_name_are_told_apart_by_what_differs_and_protocols_have_rows_of_their_own(tmp_path):
    for number, (pool, protocol) in enumerate((("cls", "mae/1"), ("mean", "mae/1"), ("mean", "mae/2"))):
        result(tmp_path / f"{number}.json", [TOP1 | {"backbone": "own", "value": 60.0 + number}],
               run={"pool": pool, "layers": 1, "protocol": protocol})  # fmt: skip
    rows = [(row["backbone"], row["protocol"], row["value"]) for row in table_of(tmp_path)]
    assert rows == [("own (cls)", "mae/1", "60.0"), ("own (mean)", "mae/1", "61.0"), ("own (mean)", "mae/2", "62.0")]
    heat = next(
        one
        for one in sections_of(lines_of(read([tmp_path]).records), DetailsOf(read([tmp_path])))
        if one.name == "heat"
    )
    for value in ("60.0", "61.0", "62.0"):  # none is averaged away
        assert f">{value}<" in heat.figures[0].svg


def test_rows_stand_in_the_tables_order_whatever_order_the_folders_come_in(swept, tmp_path):
    other = tmp_path / "other"
    lowshot_cell(other, "a_backbone", "logistic", 10, 0.5)
    there, back = table_of(swept, other), table_of(other, swept)
    assert there == back
    shots = [row["shots"] for row in there if row["backbone"] == "fewvit_tiny cls" and row["task"] == "lowshot"]
    assert list(dict.fromkeys(shots)) == ["1", "2", "5"]
    lowshot_cell(tmp_path / "more", "fewvit_tiny cls", "centroid", 10, 0.5)
    more = table_of(swept, tmp_path / "more")
    shots = [row["shots"] for row in more if row["task"] == "lowshot" and row["method"] == "centroid"]
    assert list(dict.fromkeys(shots)) == ["1", "2", "5", "10"]


def test_the_csv_has_nothing_that_varies_between_two_sweeps_of_the_same_numbers(tmp_path):
    for name, seconds, version in (("a", 1.0, "1.0"), ("b", 99.0, "2.0")):
        cell = lowshot_cell(
            tmp_path / name, "own", "centroid", 2, 0.5, seconds=seconds, run={"versions": {"x": version}}
        )
        SweepFolder(tmp_path / name).write_plan({}, [cell])
    assert Report.of([tmp_path / "a"]).result.to_csv() == Report.of([tmp_path / "b"]).result.to_csv()
    assert "seconds" not in Report.of([tmp_path / "a"]).result.to_csv()


def test_every_row_of_the_json_has_the_same_columns(swept):
    rows = Report.of([swept]).result.rows
    assert len({tuple(sorted(set(row) - {"ci95"})) for row in rows}) == 1


# ---- what a backbone has seen


@pytest.mark.parametrize(
    ("backbone", "weights", "data", "expected"),
    [
        ("dino_vits16", None, "imagenet", "yes"),
        ("dino_vits16", None, "Tiny-ImageNet-200", "yes"),
        ("dino_vits16", None, "cifar10", "no"),
        ("dino_vits16", None, "my_photos", "unknown"),
        ("dino_vits16", "random", "imagenet", "no"),
        ("dino_vits16", "/some/file.pth", "imagenet", "unknown"),
        ("dino_vits16_gldv2", None, "imagenet", "no"),
        ("dinov2_vits14", None, "imagenet", "yes"),
        ("dinov2_vits14", None, "cifar10", "unknown"),
        ("augreg_vits16", None, "imagenet22k", "yes"),
        ("deit_vits16", None, "imagenet22k", "no"),
        ("somebody's file.pth", None, "imagenet", "unknown"),
    ],
)
def test_seen_in_pretraining_is_what_is_known(tmp_path, backbone, weights, data, expected):
    cell = cell_of("knn", data=data)
    cell["backbone"] = {"label": "x", "name": backbone, "weights": weights}
    write(tmp_path / "s", cell, [TOP1 | {"value": 60.0}])
    assert [row["seen_in_pretraining"] for row in table_of(tmp_path / "s")] == [expected]


def test_a_run_of_ones_own_has_seen_the_images_whose_digest_it_holds(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "contents.json").write_text(json.dumps({"train": contents_of("seen")}))
    for data, expected in (("seen", "yes"), ("other", "unknown")):
        cell = cell_of("knn", data=data)
        cell["backbone"] = {"label": "own", "name": str(tmp_path / "run"), "weights": None}
        write(tmp_path / data, cell, [TOP1 | {"value": 60.0}])
        assert [row["seen_in_pretraining"] for row in table_of(tmp_path / data)] == [expected]


def test_a_published_number_has_its_delta_and_verdict_from_the_draws(tmp_path):
    cell = cell_of("lowshot", "msn_vits16", "imagenet", shots=1)
    draws = [TOP1 | {"shots": 1, "trial": trial, "value": value} for trial, value in enumerate((46.0, 47.0, 48.0))]
    mean = TOP1 | {"shots": 1, "trial": "mean", "value": 47.0, "std": 1.0, "published": "47.8 ± 0.0"}
    write(tmp_path / "s", cell, [*draws, mean])
    row = table_of(tmp_path / "s")[-1]
    assert float(row["delta"]) == pytest.approx(-0.8)
    assert row["verdict"] == "within the draws' spread"  # of 1.0
    assert "within the draws&#39; spread" in page_of(tmp_path / "s")


# ---- tables


def test_in_rows_markdown_and_latex_hold_the_means_and_escape_their_own_signs(tmp_path):
    write(tmp_path / "s", cell_of("knn", data="a_b|c%"), [TOP1 | {"value": 60.0}, TOP1 | {"k": 7, "value": 61.25}])
    made = Report.of([tmp_path / "s"], layout="rows")
    markdown, latex = (writer_of(Path(f"x.{ending}"))(made) for ending in ("md", "tex"))
    assert "a\\_b\\|c%" in markdown
    assert "61.25" in markdown
    assert "a\\_b\\textbar{}c\\%" in latex
    assert latex.count("\\\\\n") == 3  # header and two rows
    assert latex.index("\\toprule") < latex.index("60.00") < latex.index("\\bottomrule")


def test_an_ending_that_is_not_known_is_refused():
    with pytest.raises(UsageError, match=r"\.html, \.csv, \.json, \.md or \.tex"):
        writer_of(Path("x.xlsx"))


# ---- the page


class Parsed(HTMLParser):
    """Tags, and text outside of scripts and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text, self._open = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data):
        if self._open not in ("script", "style"):
            self.text.append(data)


def test_the_page_is_the_same_bytes_and_needs_nothing_from_elsewhere(swept):
    page = page_of(swept)
    assert page == page_of(swept)
    parsed = Parsed(page)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#\w+\)", "", page)


def test_the_only_script_is_the_one_that_the_policy_names(swept):
    import base64
    import hashlib

    page = page_of(swept)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Parsed(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_ids_of_a_page_are_given_once_and_every_reference_is_there(swept):
    page = page_of(swept)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#(\w+)\)", page)) | set(re.findall(r'href="#([\w-]+)"', page)) <= set(ids)


def test_names_with_markup_newlines_and_odd_bytes_stay_text(tmp_path):
    cell = cell_of("lowshot", MARKUP, "digits", method="centroid", shots=1)
    other = cell_of("lowshot", MARKUP + "2", MARKUP, method="centroid", shots=1)
    rows = [TOP1 | {"shots": shots, "trial": "mean", "value": 50.0 + shots} for shots in (1, 2)]
    write(tmp_path / "s", cell, rows)
    write(tmp_path / "s", other, rows)
    parsed = Parsed(page_of(tmp_path / "s"))
    assert "img" not in [tag for tag, _ in parsed.tags]
    assert any("<img src=x onerror=alert(1)>\\n$x_1$ \\udcff & |\\" in text for text in parsed.text)
    for ending in ("csv", "md", "tex", "json"):
        writer_of(Path(f"x.{ending}"))(Report.of([tmp_path / "s"])).encode("utf-8")


def test_the_pages_figures_draw_the_numbers_of_the_table(tmp_path):
    """Places of the marks, read off the SVG, are an affine image of the values."""
    cell = cell_of("knn")
    values = {5: 60.0, 10: 75.0, 20: 65.0, 40: 90.0}
    write(tmp_path / "s", cell, [TOP1 | {"k": k, "value": value} for k, value in values.items()])
    found = read([tmp_path / "s"])
    section = next(one for one in sections_of(means(lines_of(found.records)), DetailsOf(found)) if one.name == "k")
    marks = re.findall(
        r"<title>([^<]*)</title>.*?<use [^>]*x=\"([\d.]+)\" y=\"([\d.]+)\"", section.figures[0].svg, re.DOTALL
    )
    assert [float(re.search(r": ([\d.]+) %", words)[1]) for words, _, _ in marks] == list(values.values())
    x, y = np.array([[float(x), float(y)] for _, x, y in marks]).T
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.05)  # k doubles: even steps on a logarithmic axis
    slope = np.diff(y) / np.diff(list(values.values()))
    assert np.allclose(slope, slope[0], rtol=0.01)
    assert slope[0] < 0  # up is better


def test_the_worst_class_has_pictures_of_what_went_wrong_and_a_line_where_there_are_none(swept, tmp_path):
    found = read([swept])
    classes = next(one for one in sections_of(lines_of(found.records), DetailsOf(found)) if one.name == "classes")
    worst = classes.galleries[0]
    assert worst.title == "digits: 1"  # made so
    assert len(worst.pictures) == 8
    assert all(picture.jpeg.startswith(b"\xff\xd8") for picture in worst.pictures)
    assert not [picture for picture in worst.pictures if picture.words.startswith("1 ")]  # taken for what it is
    cell = cell_of("lowshot", method="centroid", shots=1)
    cell["data"] = {"label": "gone", "data": None, "train": "a.npz", "test": "b.npz"}
    centroids = (one.details().predicted for one in found.records if one.asked["method"] == "centroid")
    draws = next(draws for draws in centroids if draws)  # the episodes have none, and cells come in any order
    rows = [{"method": "centroid", "shots": draws[0].which["shots"], "metric": "top1", "value": 50.0}]
    write(tmp_path / "s", cell, rows, details=Details(draws))
    assert "features were given, and no images" in page_of(tmp_path / "s")


def test_confusion_and_class_bars_are_those_of_the_best_results_predictions(swept):
    found = read([swept])
    sections = {one.name: one for one in sections_of(lines_of(found.records), DetailsOf(found))}
    best = max(
        (
            line
            for line in means(lines_of(found.records))
            if line.row["metric"] == "top1" and line.row["task"] == "lowshot"
        ),
        key=lambda line: line.row["value"],
    )
    draws = best.record.details().predicted
    counts = np.zeros((10, 10), int)
    for draw in draws:  # by hand
        for label, guess in zip(draw.labels.tolist(), draw.predictions.tolist(), strict=True):
            counts[label, guess] += 1
    svg = sections["confusion"].figures[0].svg
    for count in counts[counts > 0].tolist():
        assert f">{count}<" in svg
    tips = re.findall(r"<title>(\d): (\d+) of (\d+) right</title>", sections["classes"].figures[0].svg)
    assert {int(c): (int(right), int(n)) for c, right, n in tips} == {
        c: (counts[c, c], counts[c].sum()) for c in range(10)
    }


def sections(folder: Path) -> dict:
    found = read([folder])
    return {one.name: one for one in sections_of(means(lines_of(found.records)), DetailsOf(found))}


def test_of_more_heat_maps_than_have_room_the_best_of_each_number_of_labels_are_shown(tmp_path):
    for backbone in ("a", "b"):
        for method, value in (("centroid", 40.0), ("knn", 30.0), ("ridge", 50.0)):
            for shots in (1, 5):
                row = {"method": method, "shots": shots, "trial": "mean", "metric": "top1", "value": value + shots}
                write(tmp_path / "s", cell_of("lowshot", backbone, method=method, shots=shots), [row])
        rows = [TOP1 | {"k": k, "value": value} for k, value in ((5, 60.0), (10, 70.0), (20, 65.0))]
        write(tmp_path / "s", cell_of("knn", backbone), rows)
    heat = sections(tmp_path / "s")["heat"]
    assert [figure.title for figure in heat.figures] == [
        "knn · knn · k 10 · temperature 0.07 · top1",
        "lowshot · centroid · shots 5 · top1",
        "lowshot · ridge · shots 1 · top1",
        "lowshot · ridge · shots 5 · top1",
    ]
    assert heat.notes[0].startswith("Shown are 4 of 7 settings")


def test_with_few_labels_and_with_all_of_them_a_data_set_has_a_figure_each_that_says_which_result_it_is(tmp_path):
    lowshot_cell(tmp_path / "s", "own", "ridge", 5, 0.6)
    lowshot_cell(tmp_path / "s", "own", "centroid", 5, 0.4)
    for k, share in ((5, 0.9), (20, 0.8)):
        draw = guesses({"method": "knn", "k": k}, share, k)
        value = 100 * float((draw.predictions == draw.labels).mean())
        write(tmp_path / "s", cell_of("knn", "own", options={"k": k}), [TOP1 | {"k": k, "value": value}],
              details=Details([draw]))  # fmt: skip
    found = sections(tmp_path / "s")
    for name in ("classes", "confusion"):
        titles = [figure.title.partition(": ")[0] for figure in found[name].figures]
        assert titles == ["digits, few labels", "digits, all labels"]
        few, whole = (figure.note for figure in found[name].figures)
        assert few.startswith("own · ridge · 5 per class · 3 draws")
        assert whole.startswith("own · knn · all labels · k 5")


def test_the_calibration_table_agrees_with_the_rows(swept):
    """One draw's error of the rows is the table's, if the table is made of that draw alone."""
    found = read([swept])
    section = next(one for one in sections_of(lines_of(found.records), DetailsOf(found)) if one.name == "calibration")
    by_result = {row[1]: row for row in section.tables[0].rows}
    assert len(by_result) == 4
    for row in by_result.values():
        ece, rms, mce = map(float, row[2:5])
        assert 0 < ece <= rms <= mce
        assert int(row[5]) == 3 * 599


def test_ten_sweeps_of_many_rows_stay_within_the_pages_size(tmp_path):
    for backbone in range(5):
        cell = cell_of("knn", f"backbone{backbone}")
        rows = [TOP1 | {"k": k, "temperature": t / 100, "value": 50 + k % 40} for k in range(1, 101) for t in range(10)]
        write(tmp_path / "s", cell, rows)
    page = page_of(tmp_path / "s")
    assert page.count("<tr><td>") == 5000
    assert len(page.encode()) < 2.5e6


# ---- what a hostile or damaged file may hold


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("value", odd) for odd in (float("nan"), float("inf"), 10**400, "60", True, [60.0])),
        *(("ci95", odd) for odd in (None, 3, [1.0], ["a", "b"], [float("nan"), 1.0])),
        *[("std", "x"), ("k", "20"), ("n_test", [7]), ("trial", True), ("trial", 0.5), ("dataset", ["a"])],
        *[("method", {"a": 1}), ("setting", [1]), ("shots", 10**400)],
    ],
)
def test_a_row_that_no_command_writes_is_named_with_its_column(tmp_path, column, value):
    result(tmp_path / "good.json", [TOP1 | {"value": 60.0}])
    result(tmp_path / "odd.json", [TOP1 | {"value": 60.0} | {column: value}])
    found = read([tmp_path])
    assert [record.path.name for record in found.records] == ["good.json"]
    assert f"odd.json: {column} of one of its rows cannot be " in str(found.damaged[0])
    assert len(str(found.damaged[0]).splitlines()[0]) < 160 + len(str(tmp_path))


def test_a_cell_whose_digest_is_right_and_whose_parts_are_not_is_named(swept, tmp_path):
    from fewvit.sweep.folder import _digest

    copy = shutil.copytree(swept, tmp_path / "copy")
    odd = [{"cell": 3}, {"cell": {}}, {"rows": 5}, {"run": None}, {"seconds": "x"}, {"task": ...}]
    for path, change in zip(sorted((copy / "cells").iterdir()), odd, strict=False):
        body = {key: one for key, one in json.loads(path.read_text()).items() if key != "sha256"}
        change = {"cell": {**body["cell"], **change}} if "seconds" in change else change
        body = {key: one for key, one in {**body, **change}.items() if one is not ...}
        path.write_text(json.dumps({**body, "sha256": _digest(body)}))
    found = read([copy])
    assert (len(found.records), len(found.damaged)) == (16 - len(odd), len(odd))


def test_pipes_folders_and_links_in_a_circle_in_place_of_cells_are_named(swept, tmp_path):
    copy = shutil.copytree(swept, tmp_path / "copy")
    one, two, three, *_ = sorted((copy / "cells").iterdir())
    for path in (one, two, three):
        path.unlink()
    os.mkfifo(one)
    two.mkdir()
    three.symlink_to(three)
    (copy / "failed").mkdir()
    os.mkfifo(copy / "failed" / "x.json")
    (copy / "failed" / "y.json").write_text('{"cell": {}, "error": "", "exit_code": 3}')
    found = read([copy])
    assert (len(found.records), len(found.damaged)) == (13, 3)


def test_results_of_equal_numbers_and_other_protocols_or_seeds_are_two(tmp_path):
    """A classifier that gets everything right does so under any protocol."""
    for number, run in enumerate(({"protocol": "dino/1"}, {"protocol": "msn/1"}, {"protocol": "dino/1", "seed": 3})):
        result(tmp_path / f"{number}.json", [TOP1 | {"value": 100.0}], run=run)
    found = {(row["protocol"], row["seed"]) for row in table_of(tmp_path)}
    assert found == {("dino/1", ""), ("dino/1", "3"), ("msn/1", "")}


def test_numbers_colours_and_ids_in_names_stand_in_figures_as_they_are(tmp_path):
    """What makes the drawing smaller works on tags alone: two names that differ in a third decimal stay two."""
    names = ["ridge 0.00125", "ridge 0.00199", "a #010101 b", 'x id="a_1" y']
    for at, name in enumerate(names):
        for data in ("one", "two"):
            write(tmp_path / "s", cell_of("knn", name, data), [TOP1 | {"value": 60.0 + at}])
    figures = " ".join(re.findall(r"<svg.*?</svg>", page_of(tmp_path / "s"), re.DOTALL))
    text = Parsed(figures).text
    assert all(name in text for name in names)


def test_a_name_that_begins_with_a_bracket_or_a_star_is_no_argument_of_latex(tmp_path):
    for name in ("[1] pets", "*"):
        write(tmp_path / "s", cell_of("knn", "b", name), [TOP1 | {"value": 60.0}])
    latex = writer_of(Path("x.tex"))(Report.of([tmp_path / "s"]))
    assert not re.search(r"(\\\\|\\\w*rule)\s*[\[*]", latex)
    assert "{[}1] pets" in latex


def test_a_verdict_is_the_reports_own_whatever_a_row_says(tmp_path):
    row = TOP1 | {"value": 60.0, "verdict": "far above", "delta": 99.0, "seen_in_pretraining": "no"}
    [found] = table_of(result(tmp_path / "x.json", [row]))
    assert {"verdict", "delta"}.isdisjoint(found)
    assert found["seen_in_pretraining"] == "unknown"
    assert "far above" not in page_of(tmp_path / "x.json")
