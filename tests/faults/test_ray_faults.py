"""A sweep on a Ray cluster of two nodes, one of which is killed in the middle: the table is that of one process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_images import folder_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make test-ray"),
    pytest.mark.timeout(900),
]

# two nodes; after a line on stdin the second one is gone, without a word to anyone
CLUSTER = """
import os, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "200"}  # a busy machine
from ray.cluster_utils import Cluster
size = {"num_cpus": 1, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args=size)
second = cluster.add_node(**size)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
print("killed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""
FEWVIT = "import sys; from fewvit_cli.main import run; code = run(sys.argv[1:]); sys.stdout.flush(); sys.exit(code)"


@pytest.fixture
def cluster(tmp_path):
    """A cluster's process, and its address."""
    with open(tmp_path / "cluster.err", "w") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True
        )
        address = process.stdout.readline().strip()
        assert address, (tmp_path / "cluster.err").read_text()
        yield process, address
        process.communicate("\n\n", timeout=120)


def start(cache: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FEWVIT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FEWVIT_CACHE_DIR": str(cache), **environment},
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def test_a_node_that_dies_in_the_middle_changes_no_byte_of_the_table(cluster, tmp_path):
    process, address = cluster
    images = tmp_path / "images"
    folder_of(images / "train", {"c3": 71, "c7": 43, "c8": 29})
    folder_of(images / "val", {"c3": 13, "c7": 19, "c8": 11}, first_seed=500)
    words = ("-m", "fewvit_tiny", "--img-size", 32, "--data", images, "--shots", "1,2,3,5", "--trials", 3)
    words = ("sweep", *words, "--methods", "knn,logistic,centroid,ridge,label_propagation,pt_map", "--format", "csv")
    cells = tmp_path / "spread" / "cells"
    # where more threads than one compute here: what is computed must not hang on the node's one core
    spread = start(
        tmp_path / "spread-cache",
        *(*words, "--out", tmp_path / "spread", "--launcher", "ray", "--ray-address", address),
    )
    while spread.poll() is None and len(list(cells.glob("*.json"))) < 3:
        time.sleep(0.02)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "killed\n"
    there = len(list(cells.glob("*.json")))
    found = finish(spread)
    assert there < len(list(cells.glob("*.json"))) == 1 + 6 * 4  # it was the middle; k-NN of all images, and of few
    assert found == finish(start(tmp_path / "cache", *words, "--out", tmp_path / "local"))
    assert [path.name for path in sorted(cells.iterdir())] == [
        path.name for path in sorted((tmp_path / "local" / "cells").iterdir())
    ]
