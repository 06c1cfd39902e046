"""`fewvit demo` and `fewvit doctor`, from outside."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from fewvit.evaluate import doctor
from fewvit_cli import main as cli


@pytest.fixture
def fewvit(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWVIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a socket was opened"))

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.run(words)
        return code, *capsys.readouterr()

    return run


def test_the_demo_runs_the_backbone_that_comes_along_and_computes_nothing_twice(fewvit):
    code, out, err = fewvit("demo", "--format", "json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    value = {(r["backbone"], r["k"]): r["value"] for r in rows if r["metric"] == "top1" and "k" in r}
    assert not any(r.get("weights") for r in rows)
    assert "1797 computed now" in err
    assert value["raw pixels", 1] > 90  # digits are easy; 1-NN on pixels by brute force gives the same number below
    assert value["fewvit_tiny", 20] > 80  # random weights give about 40, chance is 10
    code, again, err = fewvit("demo", "--format", "json")
    assert "0 computed now" in err
    assert json.loads(again)["rows"] == rows
    few = {
        r["shots"]: r["value"]
        for r in rows
        if r["method"] == "logistic" and (r["metric"], r["trial"]) == ("top1", "mean")
    }
    assert few.keys() == {1, 2, 5}
    assert f"a logistic regression gets {few[1]:.1f} ± " in err
    assert "test digits, of which " in err
    page = json.loads(again)["run"]["page"]
    assert f"7. The report: {page}" in err
    assert "<title>The tour" in Path(page).read_text()


@pytest.mark.slow
def test_the_demo_s_pixel_row_is_nearest_neighbours_by_brute_force(fewvit):
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).reshape(1797, 64)
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    nearest = (unit[1198:] @ unit[:1198].T).argmax(axis=1)
    expected = 100 * np.mean(digits.target[:1198][nearest] == digits.target[1198:])
    rows = json.loads(fewvit("demo", "--format", "json")[1])["rows"]
    assert next(r["value"] for r in rows if r["backbone"] == "raw pixels" and r.get("k") == 1) == pytest.approx(
        expected, abs=0.2
    )


def test_the_doctor_finds_this_machine_fit(fewvit):
    code, out, _ = fewvit("doctor", "--format", "json")
    found = {row["what"]: row for row in json.loads(out)["rows"]}
    assert code == 0
    assert {
        "python",
        "versions",
        "cache folder",
        "decoder fast",
        "decoder pil",
        "torch",
        "faiss",
        "faiss on cpu",
        "OpenMP",
    } <= set(found)
    assert found["faiss on cpu"]["state"] == "ok"


def test_the_doctor_exits_6_when_faiss_finds_the_wrong_neighbours(fewvit, monkeypatch):
    from fewvit.neighbors import Bank, Neighbors

    monkeypatch.setattr(
        Bank,
        "search",
        lambda self, queries, k: Neighbors(
            np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
        ),
    )
    code, out, _ = fewvit("doctor")
    assert code == 6
    assert "FAIL" in out


def test_a_check_that_breaks_is_itself_a_finding(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError("no kernel image")
        yield

    monkeypatch.setattr(doctor, "_torch", broken)
    failed = [f for f in doctor.examine(tmp_path) if f.state == "FAIL"]
    assert [(f.what, f.detail) for f in failed] == [("broken", "RuntimeError: no kernel image")]


def test_the_doctor_says_when_a_variable_keeps_faiss_from_wide_kernels(monkeypatch):
    monkeypatch.setattr(
        "fewvit.cpu.cpu_flags",
        lambda: frozenset({"AuthenticAMD", *(f"avx512{part}" for part in ("f", "cd", "bw", "dq", "vl"))}),
    )
    for kernels, told in (("Haswell", True), ("SkylakeX", False), ("", False)):
        monkeypatch.setenv("OPENBLAS_CORETYPE", kernels)
        assert ("faiss kernels" in [finding.what for finding in doctor._faiss()]) is told
