"""What is no input is refused at once, by every command that takes pictures: pipes, devices, what the kernel makes up.

Nothing here may wait: a test that hangs fails by its time limit.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from made_images import folder_of, jpeg, tiny_weights

pytestmark = pytest.mark.timeout(60)
SUFFIXES = ("jpg", "csv", "parquet", "npz", "tar", "zip")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with images, a bundle and an index of them."""
    from fewvit_cli import main as cli

    root = tmp_path_factory.mktemp("made")
    weights, images = tiny_weights(root / "tiny.pth"), folder_of(root / "images", {"a": 3, "b": 4})
    cache = ["--cache-dir", str(root / "cache")]
    assert cli.run(["fit", "-m", str(weights), "--data", str(images), "--out", str(root / "b.bundle"), *cache]) == 0
    assert (
        cli.run(["index", "build", "-m", str(weights), "--data", str(images), "--index", str(root / "ix"), *cache]) == 0
    )
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path / "cache"))


def commands(made: Path, source: object) -> dict[str, list[object]]:
    model = ["-m", made / "tiny.pth"]
    return {
        "predict": ["predict", made / "b.bundle", source],
        "search": ["index", "search", source, "--index", made / "ix"],
        "search not": ["index", "search", made / "images/a/000.jpg", "--not", source, "--index", made / "ix"],
        "extract": ["extract", *model, "--data", source],
        "knn": ["knn", *model, "--train", made / "images", "--test", source, "--k", "1"],
        "add": ["index", "add", "--index", made / "ix", "--data", source],
    }


COMMANDS = list(commands(Path(), ""))
KINDS = ["pipe", "device", "made up"]


def no_file(folder: Path, kind: str, suffix: str) -> Path:
    path = folder / f"x.{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/proc/self/environ")
    return path


@pytest.mark.parametrize("suffix", [SUFFIXES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in SUFFIXES[1:])])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_has_no_end_is_no_input(command, kind, suffix, fewvit, made, tmp_path):
    path = no_file(tmp_path, kind, suffix)
    code, out, err = fewvit(*commands(made, path)[command])
    assert code == 3, err
    assert f"{path}: not a regular file" in err
    assert out == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [[], ["--follow-links"]], ids=["", "followed"])
def test_in_a_folder_it_is_left_out_and_counted(kind, flags, fewvit, made, tmp_path):
    folder = folder_of(tmp_path / "f", {"a": 2, "b": 3})
    no_file(folder / "a", kind, "jpg")
    code, _, err = fewvit("extract", "-m", made / "tiny.pth", "--data", folder, *flags)
    assert code == 0, err
    assert "1 left out (" in err


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_names_it_has_a_bad_image(kind, fewvit, made, tmp_path):
    shutil.copy(made / "images/a/000.jpg", tmp_path / "good.jpg")
    path = no_file(tmp_path, kind, "jpg")
    (tmp_path / "t.csv").write_text(f"path,label\ngood.jpg,a\n{path.name},b\n")
    code, _, err = fewvit(
        "knn", "-m", made / "tiny.pth", "--train", made / "images", "--test", tmp_path / "t.csv", "--k", "1"
    )
    assert code == 3
    assert "not a regular file" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_picture_beyond_the_limit_is_refused_by_its_size(command, fewvit, made, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(1)[:4])
    os.truncate(path, 8 << 30)  # sparse
    code, _, err = fewvit(*commands(made, path)[command])
    assert code == 3, err
    if command == "knn":  # a test image needs a label, and no image is read before
        assert "the test images have no labels" in err
        return
    assert "8589934592 bytes, more than --max-bytes 268435456" in err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name",
    [
        "{000000..999999999}.tar",
        f"{{0..{'9' * 4400}}}.tar",
        "x-{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar",
        "{9..0}.tar",
    ],
    ids=["a range", "digits", "many", "backwards"],
)
def test_a_range_of_shards_is_counted_before_it_is_opened(command, name, fewvit, made, tmp_path):
    code, _, err = fewvit(*commands(made, tmp_path / name)[command])
    assert code in (2, 3), err
    assert len(err) < len(name) + 500


# ---- the pictures that were taken wrongly, as they are shared

CASES = Path(os.environ.get("FEWVIT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "cases" / "make.py"


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """What the cases' own program writes."""
    if not CASES.exists():
        pytest.skip("no cases/make.py: set FEWVIT_SHARED")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(CASES), str(folder)], check=True, capture_output=True)
    return folder / "pictures"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("idat_crc_wrong.png", "damaged: a checksum (CRC)"),
        ("sparse_8GB.jpg", "8589934592 bytes, more than --max-bytes"),
    ],
)
@pytest.mark.parametrize("policy", ["fast", "pil"])
def test_the_shared_pictures_are_skipped_and_named(name, reason, policy, fewvit, made, cases, tmp_path):
    folder = folder_of(tmp_path / "f", {"a": 2, "b": 3})
    os.rename(cases / name, folder / "a" / name)
    try:
        words = ("extract", "-m", made / "tiny.pth", "--data", folder, "--decode", policy, "--out", tmp_path / "x.npz")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code, _, err = fewvit(*words, "--max-bad", "1")
        assert code == 0, err
        assert f"skipped a/{name}: {reason}" in err
        assert len(np.load(tmp_path / "x.npz")["ids"]) == 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kB: nothing of 8 GB was read
        assert fewvit(*words)[0] == 3
    finally:
        os.rename(folder / "a" / name, cases / name)
