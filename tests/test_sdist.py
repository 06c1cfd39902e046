"""The source distribution holds the whole checkout: the code, every test, and what the tests read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "cli", "docs", "fewvit", "recipes", "tests")
FILES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "mkdocs.yml", "pyproject.toml", "setup.py")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The files in the distribution, without its own folder's name."""
    setuptools = pytest.importorskip("setuptools", reason="setuptools is not installed")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools.__version__} is too old to build fewvit")
    copy = tmp_path_factory.mktemp("sdist") / "checkout"
    copy.mkdir()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    (copy / "tests" / "__pycache__").mkdir()
    (copy / "tests" / "__pycache__" / "x.pyc").write_bytes(b"")
    build = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tarfile.open(copy / "dist" / done.stdout.splitlines()[-1]) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def test_every_file_of_the_checkout_is_in_the_source_distribution(names):
    here = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".") and path.suffix != ".so"
    }
    assert len(here) > 500
    assert here | set(FILES) <= names


def test_nothing_else_is_in_it_but_what_setuptools_writes(names):
    others = {name for name in names if name.partition("/")[0] not in FOLDERS and name not in FILES}
    assert {name for name in others if not name.startswith("fewvit.egg-info/")} <= {"PKG-INFO", "setup.cfg"}
    assert not [name for name in names if name.endswith(".pyc")]
