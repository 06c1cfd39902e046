"""What the whole suite shares: the rebuilt official outputs, and programs run in processes of their own."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FEWVIT_SHARED") or ROOT.parent / "shared")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of facts, images and official outputs that is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder is not here: set FEWVIT_SHARED")
    return SHARED


class Parity:
    """Outputs of the official code on small models, each with the tolerance that its manifest states."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())

    @functools.cache  # noqa: B019  one object per run
    def arrays(self, file: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / file, allow_pickle=False) as archive:
            return dict(archive)

    def check(self, file: str, name: str, found: np.ndarray) -> None:
        """Assert |found - stored| <= atol + rtol |stored|, and equal shapes; exact equality where atol is 0."""
        stored, facts = self.arrays(file)[name], self.manifest["files"][file]["arrays"][name]
        assert "skip" not in facts, f"{name} is not to be compared"
        assert found.shape == stored.shape
        if facts["atol"] == 0:
            np.testing.assert_array_equal(found, stored)
        else:
            np.testing.assert_allclose(found, stored, atol=facts["atol"], rtol=facts.get("rtol", 0))


@pytest.fixture(scope="session")
def parity(shared: Path) -> Parity:
    folder = shared / "parity"
    if not folder.is_dir():
        pytest.skip("the official outputs are not here: set FEWVIT_SHARED to a folder with parity/ in it")
    return Parity(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the caches of whoever runs it, or sends their token."""
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("huggingface")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWVIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HOME", str(home))
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(
            constants, "HF_HUB_CACHE", str(home / "hub")
        )  # read when the package is imported, which it may be by now
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _stand_in_of_tabpfn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The classifier tabpfn is among the plug-ins whose contract is tested; its package and weights are not here."""
    folder = tmp_path_factory.mktemp("tabpfn")
    (folder / "tabpfn-v2-classifier-finetuned-zk73skhh.ckpt").write_bytes(b"weights that stand in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TABPFN_MODEL_CACHE_DIR", str(folder))
        patch.syspath_prepend(str(ROOT / "tests" / "stand_in"))
        yield


Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def python() -> Python:
    """`python(code, *args, check=True, options=(), **env)` runs code in a new interpreter, warnings as errors."""

    def run(
        code: str, *args: object, check: bool = True, options: tuple[str, ...] = (), **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-P",
            "-W",
            "error",
            *options,
            "-c",
            code,
            *map(str, args),
        ]  # -P: not the fewvit of the current folder
        found: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        done = subprocess.run(command, capture_output=True, text=True, env=found, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def no_sockets(monkeypatch):
    """Whoever opens a socket, or asks for an address, fails."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
