"""Results as JSON, CSV and a table: which columns, which order, and which text."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import platform
import sys

import pytest

import fewvit
from fewvit import results
from fewvit.results import Result, manifest, versions

ROW = {"value": 37.5, "n_test": 11, "method": "knn", "k": 20, "metric": "top1", "dataset": "toy"}
TRIAL = {**ROW, "shots": 1, "trial": 0, "n_train": 7}
MEAN = {**TRIAL, "trial": "mean", "std": 0.5, "ci95": [36.25, 38.75]}


def table_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_json_is_one_object_with_schema_task_rows_and_run():
    found = json.loads(Result("knn", (ROW, MEAN), {"seed": 3}).to_json())
    assert found == {"schema": "fewvit.result/1", "task": "knn", "rows": [ROW, MEAN], "run": {"seed": 3}}
    assert json.loads(Result("knn", [ROW]).to_json())["run"] == {}


def test_json_escapes_what_is_not_ascii_and_gives_odd_file_names_back_whole():
    text = Result("extract", [{**ROW, "dataset": "b\udcff/ü"}]).to_json()
    assert text.isascii()
    assert json.loads(text)["rows"][0]["dataset"] == "b\udcff/ü"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["rows", "run"])
def test_a_number_that_json_has_not_is_refused(place, value):
    result = Result("knn", [{**ROW, "value": value}]) if place == "rows" else Result("knn", [ROW], {"x": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.to_json()


def test_csv_has_one_column_for_every_key_of_any_row_in_the_documented_order():
    text = Result("knn", [{**TRIAL, "colour": "red"}, {**MEAN, "layer": 2}]).to_csv()
    header = text.split("\n", 1)[0].split(",")
    assert header == [
        *(
            "dataset",
            "method",
            "layer",
            "k",
            "shots",
            "trial",
            "metric",
            "value",
            "std",
            "ci95_low",
            "ci95_high",
            "n_train",
            "n_test",
        ),
        "colour",
    ]


def test_every_column_has_its_place():
    columns = [
        "dataset",
        "backbone",
        "method",
        "layer",
        "k",
        "temperature",
        "shots",
        "trial",
        "metric",
        "value",
        "std",
        "n_train",
        "n_test",
    ]
    text = Result("knn", [{"zeta": 1, **dict.fromkeys(reversed(columns), 3), "ci95": [1.5, 2.5], "alpha": 2}]).to_csv()
    assert text.split("\n")[0].split(",") == [*columns[:11], "ci95_low", "ci95_high", *columns[11:], "zeta", "alpha"]


def test_csv_holds_numbers_in_full_intervals_in_two_columns_and_nothing_for_nothing():
    third = 100 / 3
    first, second = table_of(Result("knn", [{**TRIAL, "value": third}, MEAN]).to_csv())
    assert (float(first["value"]), first["trial"], first["std"], first["ci95_low"]) == (third, "0", "", "")
    assert (second["trial"], second["std"], second["ci95_low"], second["ci95_high"]) == (
        "mean",
        "0.5",
        "36.25",
        "38.75",
    )
    assert "ci95" not in first


def test_csv_keeps_a_row_on_a_line_and_odd_bytes_legible():
    text = Result("extract", [{**ROW, "dataset": 'a\nb,"c"\udcff\x1bü'}]).to_csv()
    assert text.count("\n") == 2
    assert "\r" not in text
    assert table_of(text)[0]["dataset"] == 'a\\nb,"c"\\udcff\\x1bü'
    text.encode("utf-8")


def test_no_rows_are_an_empty_table_and_an_empty_list():
    assert json.loads(Result("knn", []).to_json())["rows"] == []
    assert Result("knn", []).to_csv().strip() == ""
    assert Result("knn", []).to_table() == [[]]


def test_a_table_shows_every_column_that_has_room():
    rows = [{**ROW, "k": k, "value": value} for k, value in ((10, 37.512), (20, 0.5))]
    assert Result("knn", rows).to_table() == [
        ["dataset", "method", "k", "metric", "value", "n_test"],
        ["toy", "knn", "10", "top1", "37.51", "11"],
        ["toy", "knn", "20", "top1", "0.50", "11"],
    ]
    assert Result("knn", rows[:1]).left_out(Result("knn", rows[:1]).to_table()) == {}


def test_a_table_without_room_leaves_out_the_widest_column_that_never_varies_and_tells_it():
    rows = [
        {**ROW, "k": k, "dataset": "d" * 71, "note": "n" * k, "value": value} for k, value in ((10, 37.5), (20, 1.5))
    ]
    result = Result("knn", rows)
    widths = [max(len(cell) for cell in column) for column in zip(*result.to_table(1000), strict=True)]
    exact = sum(widths) + 2 * (len(widths) - 1)
    assert exact > 100
    assert "dataset" in result.to_table(exact)[0]
    for table in (result.to_table(exact - 1), result.to_table()):
        assert table[0] == ["method", "k", "metric", "value", "n_test", "note"]
        assert result.left_out(table) == {"dataset": "d" * 71}
    assert result.to_table(1)[0] == ["k", "metric", "value", "note"]  # what varies stays, whatever its width
    assert result.left_out(result.to_table(1)) == {"dataset": "d" * 71, "method": "knn", "n_test": "11"}


COMPARED = {
    **{"dataset": "toy", "method": "knn", "shots": 5, "metric": "top1", "a": "dino", "b": "mae", "difference": 1.5},
    **{"verdict": "cannot be told apart", "p_holm": 0.25, "p": 0.125, "p_mcnemar": 0.5, "resampled": "images"},
}


def width_of(table) -> int:
    return max(sum(max(map(len, column)) + 2 for column in zip(*table, strict=True)) - 2, 0)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130, 1000])
def test_a_fitted_table_keeps_to_its_width_and_loses_nothing_unsaid(width):
    rows = [{**COMPARED, "shots": n, "p": n / 7, "difference": n / 3, "ci95": [n / 9, n / 5]} for n in (1, 2, 5)]
    fitted = Result("report", rows).fitted(width)
    assert width_of(fitted.cells) <= width
    every = set(COMPARED) | {"ci95_low", "ci95_high"}
    assert set(fitted.cells[0]) | set(fitted.shared) | set(fitted.dropped) == every
    assert len(fitted.cells[0]) + len(fitted.shared) + len(fitted.dropped) == len(every)
    assert {"shots", "difference"} <= set(fitted.cells[0])
    assert ("ci95_low" in fitted.dropped) == ("ci95_high" in fitted.dropped)
    assert set(fitted.dropped) <= {"p", "verdict", "p_holm", "ci95_low", "ci95_high"}


def test_what_has_no_room_goes_from_the_right_and_what_decides_stays_longest():
    rows = [{**COMPARED, "shots": n, "p": n / 7, "p_holm": n / 8, "verdict": "v" * n} for n in (1, 2, 5)]
    whole = width_of([["shots", "difference", "verdict", "p_holm", "p"], ["", "", "", "0.125", "0.1429"]])
    shown = [Result("report", rows).fitted(width) for width in (whole, whole - 1, whole - 9)]
    assert [fitted.cells[0] for fitted in shown] == [
        ["shots", "difference", "verdict", "p_holm", "p"],
        ["shots", "difference", "verdict", "p_holm"],
        ["shots", "difference", "verdict"],
    ]
    assert [fitted.dropped for fitted in shown] == [[], ["p"], ["p_holm", "p"]]


def test_a_value_that_some_rows_have_is_said_once_before_a_column_is_dropped():
    knn = {"method": "knn", "temperature": 0.07, "metric": "top1", "value": 1.0}
    rows = [knn, {"method": "ridge", "metric": "top1", "value": 2.0, "std": 0.5}]
    fitted = Result("sweep", rows).fitted(28)
    assert fitted.shared["temperature"] == "0.07 (where there is one)"
    assert (fitted.cells[0], fitted.dropped) == (["method", "metric", "value", "std"], [])


def test_a_listing_has_all_its_columns_whatever_the_width():
    rows = [{"query": "a" * 50, "rank": n, "id": "b" * 50 + str(n), "label": str(n)} for n in (1, 2)]
    assert Result("index", rows).fitted(40).cells == Result("index", rows).to_table(40)


def test_a_digest_is_shown_by_its_first_digits():
    rows = [{**ROW, "value": 1.0, "weights_sha256": digit * 64} for digit in "ab"]
    result = Result("sweep", rows)
    assert [line[-1] for line in result.to_table()] == ["weights_sha256", "a" * 12, "b" * 12]
    assert "a" * 64 in result.to_csv()


@pytest.mark.parametrize("left_away", range(3))
def test_columns_stand_in_one_order_whichever_rows_are_there_and_the_same_in_table_and_csv(left_away):
    rows = [
        {**COMPARED, "p_corrected_t": 0.5},
        {**COMPARED, "ci95": [1.0, 2.0], "p_corrected_t": None, "draws": 3},
        {**MEAN, "shots": 1, "seed": 0, "protocol": "dino/1", "trials": 3},
    ]
    whole = Result("report", rows).to_csv().partition("\n")[0].split(",")
    some = Result("report", [row for at, row in enumerate(rows) if at != left_away][::-1])
    header = some.to_csv().partition("\n")[0].split(",")
    assert header == [name for name in whole if name in header]
    assert some.to_table(1000)[0] == [name for name in whole if name in some.to_table(1000)[0]]


def test_data_and_backbone_leave_a_table_before_what_says_how_was_measured():
    rows = [{**ROW, "backbone": "b", "selected_on": "a tenth of train, held out", "k": k} for k in (1, 3)]
    whole = Result("linear", rows).to_table()
    full = sum(max(len(cell) for cell in column) + 2 for column in zip(*whole, strict=True)) - 2
    assert [name for name in whole[0] if name not in Result("linear", rows).to_table(full - 1)[0]] == ["backbone"]
    assert [name for name in whole[0] if name not in Result("linear", rows).to_table(full - 11)[0]] == [
        "dataset",
        "backbone",
    ]


def test_what_was_found_stays_in_a_table_even_where_it_never_varies_and_nothing_fits():
    rows = [{**MEAN, "published": "47.1", "weights": "random", "skipped": 3, "shots": shots} for shots in (1, 2)]
    wanted = ["shots", "metric", "value", "std", "ci95_low", "ci95_high", "skipped", "weights", "published"]
    assert set(Result("lowshot", rows).to_table(1)[0]) == set(wanted)
    assert set(Result("lowshot", rows[:1]).to_table(1)[0]) == set(wanted) - {"shots"}


def test_a_table_says_how_many_images_were_skipped_where_some_were():
    skipped = Result("knn", [{**ROW, "skipped": 3}, {**ROW, "skipped": 3}])
    assert skipped.to_table(1)[1] == ["top1", "37.50", "3"]
    assert "skipped" not in Result("extract", [{**ROW, "skipped": 0}]).to_table(1)[0]
    assert list(table_of(skipped.to_csv())[0])[-1] == "skipped"


def test_a_table_has_an_empty_cell_where_a_row_has_no_value_and_no_column_of_nothing():
    rows = Result("knn", [TRIAL, {**MEAN, "published": None}]).to_table()
    assert rows[0] == [
        "dataset",
        "method",
        "k",
        "shots",
        "trial",
        "metric",
        "value",
        "std",
        "ci95_low",
        "ci95_high",
        "n_train",
        "n_test",
    ]
    assert [row[4:10] for row in rows[1:]] == [
        ["0", "top1", "37.50", "", "", ""],
        ["mean", "top1", "37.50", "0.50", "36.25", "38.75"],
    ]


@pytest.mark.parametrize("metric", ["top1", "top5", "accuracy", "ece"])
def test_percentages_have_two_decimals_in_tables_and_all_of_them_in_files(metric):
    rows = [
        {**MEAN, "metric": metric, "value": value, "std": 4.967e-07, "ci95": [0.0, 1.92]}
        for value in (0.9623, 1.92, 100.0)
    ]
    result = Result("lowshot", rows)
    columns = dict(zip(result.to_table()[0], zip(*result.to_table()[1:], strict=True), strict=True))
    assert columns["value"] == ("0.96", "1.92", "100.00")
    assert (columns["std"][0], columns["ci95_low"][0], columns["ci95_high"][0]) == ("0.00", "0.00", "1.92")
    assert [row["value"] for row in table_of(result.to_csv())] == ["0.9623", "1.92", "100.0"]
    assert json.loads(result.to_json())["rows"][0]["std"] == 4.967e-07


def test_numbers_that_are_no_percentages_keep_their_digits():
    rows = [{"metric": "calibration_temperature", "value": 0.0034, "temperature": 0.07}]
    assert Result("fit", rows).to_table()[1] == ["0.07", "calibration_temperature", "0.0034"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (100.0, "100.00"),
        (1.0, "1.00"),
        (0.07, "0.07"),
        (0.123456, "0.1235"),
        (-3.14159, "-3.14"),
        (-0.5, "-0.5"),
        (7, "7"),
        (0.0, "0"),
        ("x\ny", "x\\ny"),
        (True, "True"),
    ],
)
def test_numbers_are_shown_short(value, shown):
    [_, [cell]] = Result("knn", [{"value": value}]).to_table()
    assert cell == shown


def test_versions_are_those_that_are_installed(monkeypatch):
    found = versions()
    assert found["fewvit"] == fewvit.__version__
    assert found["python"] == platform.python_version()
    assert found["numpy"] == importlib.metadata.version("numpy")
    monkeypatch.setattr(results, "PACKAGES", ("numpy", "no-such-package-of-any-kind"))
    assert set(versions()) == {"fewvit", "python", "numpy"}


def test_versions_import_nothing(python):
    code = (
        "import sys; from fewvit.results import versions; versions(); "
        "print(sorted({'torch', 'numpy', 'faiss'} & set(sys.modules)))"
    )
    assert python(code).stdout.strip() == "[]"


def test_a_manifest_holds_its_facts_versions_platform_and_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fewvit", "knn", "--k", "7"])
    found = manifest(seed=3, seconds={"extract": 1.5})
    assert found == {
        "seed": 3,
        "seconds": {"extract": 1.5},
        "versions": versions(),
        "platform": platform.platform(),
        "argv": ["fewvit", "knn", "--k", "7"],
    }
