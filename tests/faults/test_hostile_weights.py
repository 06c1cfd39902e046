"""Weights files that want to run code, and hundreds of damaged ones: the process survives and says what is wrong."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

LOADING = """
import json, sys, warnings
from fewvit.checkpoints.reading import read_checkpoint
from fewvit.errors import CheckpointError
warnings.simplefilter("error")
seen = {}
for path in sys.argv[1:]:
    try:
        seen[path] = ["loaded", sorted(map(str, read_checkpoint(path)))]
    except CheckpointError as error:
        seen[path] = ["refused", str(error)]
    except BaseException as error:
        seen[path] = ["escaped", repr(error)]
print(json.dumps(seen))
"""


class Payload:
    """Creates `marker` when it is unpickled by a loader that runs what it is told."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


class Evaluated(Payload):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.marker)!r})",)


def loaded_elsewhere(*paths, **environment):
    """What a fresh process makes of each file. A crash of that process fails the test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_FORCE")}
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", LOADING, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**clean, **environment},
        timeout=240,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout)


def written(path, value):
    """`value` by the route that the file's name says: the zip of torch, its legacy format, or a bare pickle."""
    if path.name.startswith("pickle"):
        path.write_bytes(pickle.dumps(value, 2))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=path.name.startswith("zip"))
    return path


ROUTES = ["zip.pth", "legacy.pth", "pickle.pth", "zip.safetensors", "legacy.safetensors"]


@pytest.mark.parametrize("environment", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}], ids=["clean", "forced"])
def test_a_payload_is_never_run_and_is_named_by_every_route_and_environment(tmp_path, environment):
    markers = {route: tmp_path / f"{route}.marker" for route in ROUTES}
    files = {route: written(tmp_path / route, {"w": torch.ones(3), "x": Payload(markers[route])}) for route in ROUTES}
    hidden = written(tmp_path / "zip-eval.pth", {"x": Evaluated(tmp_path / "eval.marker")})
    seen = loaded_elsewhere(*files.values(), hidden, **environment)
    for route, path in files.items():
        outcome, text = seen[str(path)]
        assert outcome == "refused"
        assert not markers[route].exists()
        if not route.startswith("pickle"):
            assert "posix.mkdir" in text or "nt.mkdir" in text
            assert "never runs" in text
    assert seen[str(hidden)][0] == "refused"
    assert "eval" in seen[str(hidden)][1]
    assert not (tmp_path / "eval.marker").exists()


def test_the_payload_of_these_tests_does_run_in_a_loader_without_protection(tmp_path):
    path = tmp_path / "pickle.pth"
    marker = tmp_path / "marker"
    written(path, {"x": Payload(marker)})
    pickle.loads(path.read_bytes())
    assert marker.exists()


def corrupted(data, number):
    """The file's bytes with one seeded fault.

    Bits flipped, a cut, a run of zeros, or a number of the first KiB replaced.
    """
    generator = torch.Generator().manual_seed(number)

    def draw(most):
        return int(torch.randint(most, (1,), generator=generator))

    changed = bytearray(data)
    fault = number % 5
    if fault == 0:
        return bytes(changed[: draw(len(changed))])
    near = len(changed) if fault == 1 else min(len(changed), 1024)
    for _ in range(1 + draw(7)):
        at = draw(near)
        if fault in (1, 2):
            changed[at] ^= 1 << draw(8)
        elif fault == 3:
            changed[at : at + 16] = bytes(len(changed[at : at + 16]))
        else:
            at = min(at, len(changed) - 4)
            changed[at : at + 4] = struct.pack("<I", draw(1 << 31))
    return bytes(changed)


def good_file(path, kind):
    """The bytes of a good file of this kind."""
    tree = {"model": {f"blocks.{i}.weight": torch.randn(7, 5) for i in range(5)}, "epoch": 3, "note": "text"}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(kind != "zip without crc")
    try:
        if kind == "safetensors":
            save_file(tree["model"], path)
        else:
            torch.save(tree, path, _use_new_zipfile_serialization=kind != "legacy")
    finally:
        torch.serialization.set_crc32_options(before)
    return path.read_bytes()


LEAST_REFUSED = {"zip": 60, "zip without crc": 30, "legacy": 30, "safetensors": 30}  # of 75: the faults do damage


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What one fresh process makes of 75 damaged files of each kind."""
    folder = tmp_path_factory.mktemp("damaged")
    paths = []
    for kind in LEAST_REFUSED:
        data = good_file(folder / kind, kind)
        for number in range(75):
            paths.append(folder / f"{kind}-{number}.{'safetensors' if kind == 'safetensors' else 'pth'}")
            paths[-1].write_bytes(corrupted(data, number))
    seen = loaded_elsewhere(*paths)
    return {kind: [seen[str(path)] for path in paths if path.name.startswith(f"{kind}-")] for kind in LEAST_REFUSED}


@pytest.mark.parametrize("kind", LEAST_REFUSED)
def test_seventy_five_damaged_files_end_in_success_or_in_a_checkpoint_error(outcomes, kind):
    found = outcomes[kind]
    assert len(found) == 75
    assert [text for outcome, text in found if outcome == "escaped"] == []
    assert sum(outcome == "refused" for outcome, _ in found) >= LEAST_REFUSED[kind]
