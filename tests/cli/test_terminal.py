"""What a terminal shows: lines that fit it, a bar, and the same digests everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from fewvit_cli import live
from fewvit_cli.fitting import (
    beside,
    cell_lines,
    command_line,
    fitted_widths,
    padded,
    shown_width,
    with_room,
    wrapped,
)

from made_images import folder_of, tiny_weights
from terminal import lines_of, on_terminal

LISTS = (
    "backbones list",
    "backbones info dino_vitb16",
    "backbones info dino_vitb61",
    "cache info",
    "pretrain dino --preset list",
    "lowshot --classifier list",
    "finetune --mode list",
    "doctor",
    "--help",
    "index search --help",
    "finetune --help",
)


@pytest.mark.parametrize("columns", [80, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("line", LISTS, ids=[line.replace(" ", "_") for line in LISTS])
def test_every_line_fits_the_terminal(line, columns, tmp_path):
    _, text = on_terminal(["-m", "fewvit", *line.split()], columns, cwd=tmp_path, FEWVIT_CACHE_DIR="cache")
    lines = lines_of(text)
    assert len(lines) > 1
    assert max(map(len, lines)) <= columns


def test_a_list_in_a_pipe_is_whole(fewvit):
    header, *rows = fewvit("backbones", "list")[1].splitlines()
    assert header.split()[-1] == "note"
    assert max(map(len, rows)) > 100


_PAINTER = """
import sys, time
from fewvit_cli.show import Screen, TrainingLine
from fewvit_cli.shared import Output
from fewvit.extraction.work import Progress
screen = Screen(Output())
assert "rich" not in sys.modules
clock = [0.0]
time.monotonic = lambda: clock[0]
for done in range(1, 1001):
    clock[0] += 0.01
    screen.progress(Progress(done, 1000, done, clock[0] + 1, 0.3 * clock[0], 0.7 * clock[0]))
screen.notify("a note")
"""


@pytest.mark.parametrize("columns", [80, 50])
def test_progress_is_one_line_with_a_bar_ten_times_a_second(columns):
    code, text = on_terminal(["-c", _PAINTER], columns)
    assert code == 0
    drawn = text.split("\r\x1b[K")[1:]
    # 10 s by the clock of the test, and the last
    assert 90 <= len(drawn) <= 101
    assert "\n" not in "".join(drawn[:-1])
    assert all("━" in line for line in drawn)
    assert "\x1b[38;5;" in text  # colours
    lines = lines_of(text)
    assert max(map(len, lines)) < columns
    assert lines[-2] == "a note"
    assert lines[-3].startswith("1000/1000 images")
    assert text.count("1000/1000") == 1
    assert ("the model 70 %" in text) == (columns == 80)


def test_without_colours_where_none_are_wanted():
    _, text = on_terminal(["-c", _PAINTER], 80, TERM="dumb")
    assert "\x1b[3" not in text


def test_rich_waits_until_a_terminal_has_something_to_draw(capsys):
    line = live.LiveLine(quiet=False)
    line.show(("3/7 images", "1 image/s"), 3 / 7, done=False)  # too early for the clock
    line.show(("7/7 images", "1 image/s"), 1.0, done=True)
    assert capsys.readouterr().err == "7/7 images  1 image/s\n"


def test_one_digest_of_the_weights_everywhere(fewvit, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))
    weights, images = tiny_weights(tmp_path / "tiny.pth"), folder_of(tmp_path / "pictures", {"cat": 2})
    assert fewvit("extract", "--data", images, "-m", weights, "--out", tmp_path / "x.npz")[0] == 0
    [stored] = json.loads(fewvit("cache", "info", "--format", "json")[1])["rows"]
    [checked] = json.loads(fewvit("backbones", "check", weights, "--format", "json")[1])["rows"]
    assert len(checked["sha256"]) == 64
    assert stored["weights_sha256"] == checked["sha256"]
    cells = fewvit("cache", "info")[1].split()
    assert checked["sha256"][:12] in cells
    assert checked["sha256"] not in cells


# ---- the layout by itself


def test_lines_wrap_at_words_and_long_words_stay_whole():
    assert wrapped("aaa bbb ccc", 7) == "aaa bbb\n  ccc"
    assert wrapped("aaa " + "b" * 20, 10) == "aaa\n  " + "b" * 20
    assert wrapped("  aaa bbb", 6) == "  aaa\n    bbb"
    assert wrapped("aaa bbb", None) == "aaa bbb"


def test_a_fact_wraps_beside_its_name():
    assert beside("ab   ", "cc dd ee", 10) == "ab   cc dd\n     ee"
    assert beside("ab   ", "cccccccc", 10) == "ab   ccccc\n     ccc"
    assert beside("ab   ", "cccccccc", None) == "ab   cccccccc"


def test_a_command_that_wraps_is_still_one_command():
    assert command_line(["fewvit", "knn", "--data", "x"], 16) == "  fewvit knn \\\n      --data x"


TABLE = [
    ["name", "same", "number", "text"],
    ["a", "s" * 30, "1.5", "one two three four"],
    ["b", "s" * 30, "2", "six"],
]


def test_columns_that_say_one_thing_go_first_then_those_to_the_right():
    assert with_room(TABLE, 200).cells == TABLE
    some = with_room(TABLE, 30)
    assert (some.cells[0], some.shared, some.dropped) == (["name", "number", "text"], {"same": "s" * 30}, [])
    few = with_room(TABLE, 20)
    assert (few.cells, few.dropped) == ([["name", "number"], ["a", "1.5"], ["b", "2"]], ["text"])


def test_text_gives_room_and_numbers_do_not():
    cells = [[line[0], line[2], line[3]] for line in TABLE]
    assert fitted_widths(cells, None) == [4, 6, 18]
    assert fitted_widths(cells, 28) == [4, 6, 14]
    assert cell_lines("one two three four", 14) == ["one two three", "four"]
    assert re.fullmatch(r"x{5}", cell_lines("x" * 10, 5)[0])


def test_start_up_does_not_wait_for_rich():
    code = "import sys; from fewvit_cli.main import run; run(['--version']); sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_wide_letters_take_two_columns_and_marks_over_letters_none():
    assert [shown_width(text) for text in ("cat", "猫", "ネコ猫", "café", "e\u0301", "±…")] == [3, 2, 6, 4, 1, 2]
    assert padded("猫", 5, right=False) == "猫   "
    assert padded("猫", 5, right=True) == "   猫"
    assert fitted_widths([["class"], ["三毛猫の写真"]], None) == [12]
    assert cell_lines("三毛猫の写真", 5) == ["三毛", "猫の", "写真"]
