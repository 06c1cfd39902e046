"""Every extra resolves with wheels alone on every Python that is supported: nobody needs a compiler."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSIONS = [
    one.rpartition(" ")[2] for one in PROJECT["classifiers"] if one.startswith("Programming Language :: Python :: 3.")
]
EXCUSED = {
    "bench-built": "its peer has no wheels: that is why it is apart",
    "mutation": "yattag has no wheel; it is pure Python, and needs no compiler",
}


@pytest.mark.extras
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_an_extra_resolves_with_wheels_alone(extra, version):
    uv = pytest.importorskip("uv", reason="uv is not installed: make test-extras")
    if extra in EXCUSED:
        pytest.skip(EXCUSED[extra])
    words = ["pip", "compile", "-q", "--only-binary", ":all:", "--python-version", version]
    words += ["--python-platform", "x86_64-unknown-linux-gnu", "--extra", extra, "pyproject.toml"]
    done = subprocess.run([uv.find_uv_bin(), *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_extras_that_are_there_are_excused():
    assert set(EXCUSED) <= set(PROJECT["optional-dependencies"])
    assert VERSIONS[0] == PROJECT["requires-python"].removeprefix(">=")
