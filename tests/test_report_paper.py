"""The tables for a paper: what is a row, a column and a caption, which number is bold, and that LaTeX can read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewvit.errors import UnknownName, UsageError
from fewvit.report.report import Report, writer_of

from made_results import cell_of, write

VALUES = {("a_1", "centroid"): (40.0, 50.0), ("a_1", "ridge"): (45.0, 48.0), ("b", "centroid"): (45.0, 47.5)}


def lowshot(folder: Path, backbone: str, method: str, values, data: str = "pets_&", **more) -> None:
    """Cells of 1, 5, … shots with three draws around each value, and their calibration error 10 times less."""
    for shots, value in zip((1, 5, 10), values, strict=False):
        cell = cell_of("lowshot", backbone, data, method=method, shots=shots)
        same = {"method": method, "shots": shots, "n_test": 7, **more}
        rows = [
            {**same, "metric": metric, "trial": trial, "value": of + step}
            for metric, of in (("top1", value), ("ece", value / 10))
            for trial, step in ((0, -1.0), (1, 0.0), (2, 1.0), ("mean", 0.0))
        ]
        write(folder, cell, [row | ({"std": 1.0} if row["trial"] == "mean" else {}) for row in rows])


@pytest.fixture
def results(tmp_path) -> Path:
    for (backbone, method), values in VALUES.items():
        lowshot(tmp_path / "s", backbone, method, values)
    return tmp_path / "s"


def written(ending: str, *places: Path, **options) -> str:
    return writer_of(Path(f"x.{ending}"))(Report.of(places, **options))


def cells(markdown: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]


def test_backbones_and_methods_are_rows_shots_are_columns_and_the_best_of_a_column_is_bold(results):
    head, _, *rows = cells(written("md", results))
    assert head == ["backbone", "method", "1 shot", "5 shots"]
    assert rows == [
        ["a\\_1", "centroid", "40.00 ± 1.00", "**50.00 ± 1.00**"],
        ["a\\_1", "ridge", "**45.00 ± 1.00**", "48.00 ± 1.00"],
        ["b", "centroid", "**45.00 ± 1.00**", "47.50 ± 1.00"],
    ]


def test_the_caption_says_what_all_numbers_share(results):
    caption = written("md", results).splitlines()[2]
    assert caption == (
        "Top-1 accuracy (%) on pets\\_&amp;, lowshot: protocol mae/1, seed 0, n\\_test 7, 3 draws. "
        "Mean ± standard deviation over draws."
    )


def test_of_calibration_errors_the_least_is_bold_and_the_caption_says_so(results):
    text = written("md", results, metric="ece")
    assert "less being better" in text
    assert cells(text)[2:] == [
        ["a\\_1", "centroid", "**4.00 ± 1.00**", "5.00 ± 1.00"],
        ["a\\_1", "ridge", "4.50 ± 1.00", "4.80 ± 1.00"],
        ["b", "centroid", "4.50 ± 1.00", "**4.75 ± 1.00**"],
    ]


def test_latex_has_a_table_environment_with_booktabs_rules_and_as_many_cells_in_every_line(results):
    text = written("tex", results)
    assert text.startswith("% fewvit report: needs \\usepackage{booktabs}\n")
    spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert spec == "llrr"
    body = [line for line in text.splitlines() if line.endswith(" \\\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(spec) - 1}
    assert "a\\_1 & ridge & \\textbf{45.00} $\\pm$ 1.00 & 48.00 $\\pm$ 1.00 \\\\" in body
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")
    assert text.count("\\caption{Top-1 accuracy (\\%) on pets\\_\\&") == 1
    without = re.sub(r"\\[{}$]|\\\w+", "", text)
    assert without.count("{") == without.count("}")
    assert without.count("$") % 2 == 0


def test_each_data_set_and_task_has_a_table_and_a_missing_number_a_dash(results, tmp_path):
    lowshot(results, "b", "ridge", (44.0,))
    lowshot(results, "b", "ridge", (90.0, 91.0), data="cars")
    rows = [{"method": "knn", "k": k, "temperature": 0.07, "metric": "top1", "value": 60.0 + k} for k in (5, 20)]
    write(results, cell_of("knn", "b", "cars"), rows)
    text = written("md", results)
    assert [line for line in cells(text) if line[0] == "backbone"] == [
        ["backbone", "k 5", "k 20"],
        ["backbone", "1 shot", "5 shots"],
        ["backbone", "method", "1 shot", "5 shots"],
    ]
    assert ["b", "65.00", "80.00"] in cells(text)
    assert ["b", "ridge", "44.00 ± 1.00", "–"] in cells(text)


def test_more_rows_than_a_page_has_are_a_longtable_and_a_comment_says_so(tmp_path):
    for number in range(51):
        lowshot(tmp_path / "s", f"backbone{number:02d}", "ridge", (40.0 + number / 10,))
    text = written("tex", tmp_path / "s")
    assert text.startswith("% fewvit report: needs \\usepackage{booktabs,longtable}\n")
    assert "% 51 rows: a longtable" in text
    assert "\\begin{table}" not in text
    assert text.count("\\begin{longtable}{lr}") == text.count("\\end{longtable}") == 1
    assert len([line for line in text.splitlines() if line.startswith("backbone") and "$" in line]) == 51


def test_more_columns_than_a_page_has_are_several_tables(tmp_path):
    rows = [{"method": "knn", "k": k, "metric": "top1", "value": 50.0 + k} for k in range(1, 15)]
    write(tmp_path / "s", cell_of("knn"), rows)
    text = written("md", tmp_path / "s")
    assert [len(line) for line in cells(text) if line[0] == "backbone"] == [13, 3]
    assert "Columns 13 to 14 of 14." in text


def test_numbers_of_two_protocols_and_untrained_weights_have_rows_of_their_own(tmp_path):
    for protocol in ("mae/1", "mae/2"):
        row = {"method": "knn", "k": 5, "metric": "top1", "value": 60.0}
        cell = cell_of("knn", asked=protocol)
        write(tmp_path / "s", cell, [row], {"protocol": protocol})
    cell = cell_of("knn", "fewvit_tiny mean", asked="random")
    write(tmp_path / "s", cell, [{**row, "weights": "random"}])
    found = cells(written("md", tmp_path / "s"))
    assert found[0] == ["protocol", "weights", "k 5"]
    assert sorted(found[2:]) == [
        ["mae/1", "", "**60.00**"],
        ["mae/1", "random", "**60.00**"],
        ["mae/2", "", "**60.00**"],
    ]


def test_a_metric_that_no_result_has_is_refused_with_those_that_are_known(results):
    with pytest.raises(UnknownName, match="top1, ece"):
        _ = Report.of([results], metric="f1").for_paper


def test_a_metric_goes_with_the_layout_for_a_paper_alone(results):
    for options in ({"layout": "rows"}, {"names": ("a_1", "b")}):
        with pytest.raises(UsageError, match="--metric"):
            Report.of([results], metric="top1", **options)
    with pytest.raises(UnknownName, match="paper, rows"):
        Report.of([results], layout="wide")


def test_csv_and_json_are_the_same_whatever_the_paper_shows(results):
    assert written("csv", results) == written("csv", results, metric="ece") == written("csv", results, layout="rows")
