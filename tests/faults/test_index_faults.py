"""An index under kill -9: readers have the old one or the new one; a killed build, made again, has the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fewvit.retrieval import growth
from fewvit.retrieval.folder import IndexFolder
from fewvit.retrieval.opened import OpenIndex

from made_images import folder_of
from made_indexes import D, built, random_rows

TESTS = Path(__file__).resolve().parents[1]
QUERIES = np.random.default_rng(11).normal(size=(3, D)).astype(np.float32)
# two contents that share ids, so that an answer of mixed parts would show
CONTENTS = (random_rows(1, 331), random_rows(2, 211))

# for each delay a child that rebuilds, now of one content and now of the other, until it is killed
REBUILD = """
import os, signal, sys, time, itertools
sys.path.insert(0, sys.argv[2])
import faiss, numpy as np
from made_indexes import D, asked, built, opened, random_rows
contents = (random_rows(1, 331), random_rows(2, 211))
queries = np.random.default_rng(11).normal(size=(3, D)).astype(np.float32)
print("ready", flush=True)
for delay in map(float, sys.argv[3:]):
    child = os.fork()
    if child == 0:
        for turn in itertools.count():
            built(sys.argv[1], contents[turn % 2])
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    index = opened(sys.argv[1])
    index.verify()
    print(hash(str(asked(index, queries, 5))), len(index), index.manifest.version, flush=True)
"""
SEARCH = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from made_indexes import D, asked, opened
queries = np.random.default_rng(11).normal(size=(3, D)).astype(np.float32)
print("ready", flush=True)
while True:
    index = opened(sys.argv[1])
    found = asked(index, queries, 5)
    print(hash(str(found)), len(index), flush=True)
"""


def start(code: str, *words: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> str:
    """kill -9; what it had written to stdout."""
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, err
    assert err == ""
    return out


def test_while_builds_are_killed_every_search_is_that_of_one_content_or_the_other(tmp_path):
    moments = random.Random(7)
    delays = [round(moments.uniform(0.01, 0.3), 3) for _ in range(20)]
    built(tmp_path / "index", CONTENTS[0])
    searching = start(SEARCH, tmp_path / "index", TESTS)
    building = start(REBUILD, tmp_path / "index", TESTS, *delays)
    out, err = building.communicate(timeout=100)
    found = [line.split() for line in kill(searching).splitlines() if line.count(" ") == 1]
    assert (building.returncode, err) == (0, "")
    after = [line.split() for line in out.splitlines()]
    assert len(after) == 20
    assert int(after[-1][2]) > 20  # versions: several builds came to their end between the kills
    assert {length for _, length in found} == {"331", "211"}
    assert len(found) > 20
    # one answer for each content, while builds went on and after each of them was killed
    assert len({(answer, length) for answer, length, *_ in found + after}) == 2
    built(tmp_path / "index", CONTENTS[1])
    kept = {tmp_path / "index" / file.path for file in OpenIndex.open(tmp_path / "index").manifest.files}
    assert set((tmp_path / "index/data").iterdir()) == kept  # what the killed ones left is gone
    assert not list((tmp_path / "index").rglob(".*.tmp"))


BUILD = """
import sys
from fewvit_cli.main import run
import fewvit.retrieval.growth as growth
import fewvit.extraction.extract
fewvit.extraction.extract._SHARD_BYTES = 4 * 192 * 7  # a shard every seven images
growth.part_rows = lambda dimension: 11
print("ready", flush=True)
sys.exit(run(["index", "build", "-m", "fewvit_tiny", "--img-size", "32", "--device", "cpu", "-q", *sys.argv[1:]]))
"""


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of every file, but for the lock's."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "compact"])
def test_a_build_of_images_that_is_killed_and_started_again_ends_in_the_same_bytes(tmp_path, monkeypatch, kind):
    images, moments = folder_of(tmp_path / "images", {"a": 41, "b": 30}), random.Random(3)
    words = ("--data", images, "--kind", kind)
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache of the whole one"))
    done = start(BUILD, *words, "--index", tmp_path / "whole")
    _, err = done.communicate(timeout=100)
    assert done.returncode == 0, err
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache of the killed one"))
    for _ in range(3):
        building = start(BUILD, *words, "--index", tmp_path / "killed")
        time.sleep(moments.uniform(0.2, 1.2))
        building.kill()
        building.communicate(timeout=30)
    again = start(BUILD, *words, "--index", tmp_path / "killed")
    _, err = again.communicate(timeout=100)
    assert again.returncode == 0, err
    one, other = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    if OpenIndex.open(tmp_path / "killed").manifest.version == 1:  # else a killed one had come to its end
        assert one == other
    assert {name: data for name, data in one.items() if name.startswith("data/")} == {
        name: data for name, data in other.items() if name.startswith("data/")
    }


# changes something, killed at the n-th file that takes its name, for every n in turn; each in a child of a warm process
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from fewvit.retrieval import adding, growth
from fewvit.retrieval.folder import IndexFolder
from fewvit.retrieval.opened import OpenIndex
from made_indexes import PART, built, random_rows, source_of
import faiss, numpy
kind, left, real = sys.argv[3], 0, os.replace

def replace(*names):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*names)

os.replace = replace
do = {
    "build": lambda path: built(path, random_rows(2, 211), kind),
    "add": lambda path: adding.add(IndexFolder(path), source_of(random_rows(3, 23, "n")), None, "", size=PART),
    "compact": lambda path: growth.compact(IndexFolder(path), size=PART),
}[sys.argv[4]]
for number in range(1, 30):
    path = f"{sys.argv[1]}/{number}"
    child = os.fork()
    if child == 0:
        left = number
        do(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    child = os.fork()
    if child == 0:
        if os.path.exists(path + "/CURRENT"):
            OpenIndex.open(path).verify()
        do(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print(number)
"""


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        *(("first build", kind) for kind in ("flat", "hnsw", "ivf", "compact")),
        ("build", "flat"),
        ("add", "hnsw"),
        ("compact", "ivf"),
    ],
)
def test_a_change_killed_at_any_file_and_done_again_ends_in_the_bytes_of_one_that_was_not(
    tmp_path, python, kind, change
):
    if change != "first build":
        built(tmp_path / "0", CONTENTS[0], kind)
        growth.remove(IndexFolder(tmp_path / "0"), ["003", "033", "333"[:2] + "0"])
        for number in range(1, 12):
            shutil.copytree(tmp_path / "0", tmp_path / str(number))
    words = (tmp_path, TESTS, kind, change.split()[-1])
    number = int(python(KILLED, *words, OMP_NUM_THREADS="1").stdout)
    structure = kind != "flat"
    # features, ids, records, structure, classes, manifest, CURRENT
    assert number == 1 + {"first build": 6, "build": 6, "add": 6, "compact": 5}[change] + (
        structure and change != "add"
    )
    whole = contents(tmp_path / str(number))
    for killed in range(1, number):
        assert contents(tmp_path / str(killed)) == whole
