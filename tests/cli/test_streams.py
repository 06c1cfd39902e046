"""Standard streams that are closed, full or cut off, as a shell leaves them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

LIST = "-m fewvit backbones list"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `python` is this one; its exit code is that of the first program."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "P": sys.executable}
    return subprocess.run(
        ["bash", "-c", line.replace("python", '"$P" -P') + "; exit ${PIPESTATUS[0]}"],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )


def test_the_module_is_the_command():
    done = shell(f"python {LIST}")
    assert done.returncode == 0
    assert "dino_vitb16" in done.stdout


@pytest.mark.parametrize(
    ("streams", "code", "told"),
    [
        ("<&-", 0, ""),
        (">&-", 0, "stdout is closed, so what is printed is lost\n"),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 6, "fewvit: disk full while "),
        ("2>/dev/full", 0, ""),
        ("| true", 0, ""),
        ("| head -1", 0, ""),
    ],
)
def test_a_stream_that_takes_nothing_is_no_fault(streams, code, told):
    done = shell(f"python {LIST} {streams}")
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert (done.stderr == "") == (told == "")


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path):
    """What is written there would stand in the file."""
    code = (
        "import os; from fewvit_cli.streams import open_closed_ones; open_closed_ones(); "
        f"file = open({str(tmp_path / 'x')!r}, 'w'); os.write(2, b'noise'); os.write(1, b'noise'); file.write('mine')"
    )
    assert shell(f'python -c "{code}" <&- >&- 2>&-').returncode == 0
    assert (tmp_path / "x").read_text() == "mine"


def test_an_error_without_a_stream_to_tell_it_keeps_its_code():
    assert shell("python -m fewvit knn --k 0 --data digits 2>&-").returncode == 2
    done = shell("python -m fewvit index remove - --index nowhere <&-")
    assert (done.returncode, "the list on stdin is empty" in done.stderr) == (3, True)
