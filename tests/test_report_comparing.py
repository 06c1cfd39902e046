"""A comparison as it is shown: the diagram against the ranks it stands for, and the page's section."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fewvit.report.comparing import comparing, critical_difference, names_in
from fewvit.report.comparison import Comparison, Ranked
from fewvit.report.entries import Setting
from fewvit.report.statistics import rank_over_data_sets

pytest.importorskip("matplotlib")

NAMES = ["dino", "msn <b>", "mae", "ibot"]
# mean ranks 1.2, 1.8, 3.2 and 3.8 over five data sets; critical difference 2.1: dino and mae, dino and ibot lie further
SCORES = np.array([[9, 8, 2, 1], [9, 8, 2, 1], [8, 9, 2, 1], [9, 8, 2, 1], [9, 8, 1, 2.0]])
RANKED = Ranked(
    Setting((("task", "lowshot"), ("shots", 5), ("metric", "top1"))), NAMES, list("abcde"), rank_over_data_sets(SCORES)
)


def marks(svg: str) -> dict[str, list[float]]:
    """What is said of each mark that can be pointed at -> the places from left to right of what it is drawn of."""
    found = {}
    for words, drawn in re.findall(r"<g><title>(.*?)</title>(.*?)</g>", svg, re.DOTALL):
        places = re.findall(r'<use [^>]*x="([\d.]+)"', svg[svg.index(words) :])[:1]
        path = re.findall(r"[ML] ([\d.]+) [\d.]+", drawn)
        found[words] = [float(place) for place in (path if words.startswith("cannot") else places)]
    return found


def test_every_system_stands_at_its_mean_rank():
    svg = critical_difference(RANKED)
    at = {words.partition(":")[0]: places[0] for words, places in marks(svg).items() if "mean rank" in words}
    assert list(RANKED.ranking.mean_ranks) == pytest.approx([1.2, 1.8, 3.2, 3.8])
    unit = (at["ibot"] - at["dino"]) / 2.6
    assert at["msn &lt;b&gt;"] == pytest.approx(at["dino"] + 0.6 * unit, abs=0.1)
    assert at["mae"] == pytest.approx(at["dino"] + 2.0 * unit, abs=0.1)


def test_bars_join_the_groups_and_none_else():
    svg = critical_difference(RANKED)
    found = marks(svg)
    at = {words.partition(":")[0]: places[0] for words, places in found.items() if "mean rank" in words}
    bars = {words.partition(": ")[2]: places for words, places in found.items() if words.startswith("cannot")}
    assert set(bars) == {"dino, msn &lt;b&gt;, mae", "msn &lt;b&gt;, mae, ibot"}
    low, high = bars["dino, msn &lt;b&gt;, mae"]
    assert low < at["dino"] < at["mae"] < high < at["ibot"]


def test_names_and_ranks_are_text_and_markup_is_none():
    svg = critical_difference(RANKED)
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    assert {"dino 1.20", "msn &lt;b&gt; 1.80", "mae 3.20", "ibot 3.80", "1", "4"} <= set(texts)
    assert f"critical difference {RANKED.ranking.critical_difference:.2f}" in texts
    assert "<b>" not in svg


def test_the_same_ranks_give_the_same_bytes():
    assert critical_difference(RANKED) == critical_difference(RANKED)
    assert "<dc:date" not in critical_difference(RANKED)


def test_the_section_has_a_diagram_and_says_what_its_bars_mean():
    section = comparing(Comparison(ranked=[RANKED], notes=["missing: mae on f"]))
    assert [figure.title for figure in section.figures] == ["lowshot, shots 5, metric top1, 5 data sets"]
    assert "within Nemenyi's critical difference, 2.10" in section.figures[0].note
    assert section.notes == ["missing: mae on f"]


def test_where_friedman_sees_no_difference_one_bar_joins_all_and_the_note_says_so():
    level = np.array([[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3], [2, 3, 1.0]])
    ranked = Ranked(RANKED.setting, ["a", "b", "c"], list("abcde"), rank_over_data_sets(level))
    assert "cannot be told apart: a, b, c" in critical_difference(ranked)
    assert "no difference" in comparing(Comparison(ranked=[ranked])).figures[0].note


def test_a_long_table_says_how_many_rows_stand_elsewhere():
    rows = [{"dataset": f"d{number}", "a": "x", "b": "y", "metric": "top1", "p": 0.5} for number in range(503)]
    (table,) = comparing(Comparison(pairs=rows)).tables
    assert len(table.rows) == 500
    assert "3 more rows stand in the JSON and CSV" in table.caption


def test_commas_part_names_but_not_within_parentheses():
    assert names_in("dino (cls, 3a4b), msn ,mae") == ["dino (cls, 3a4b)", "msn", "mae"]
    assert names_in(" , ") == []
