"""What every test of the command line needs."""

from __future__ import annotations

import numpy as np
import pytest

from fewvit_cli import main as cli


@pytest.fixture
def fewvit(capsys):
    """Runs a command line; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.run([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def files(tmp_path):
    """Feature files of five classes: 11 train images and 7 test images of each."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(5, 13))
    for name, per_class in (("train", 11), ("test", 7)):
        labels = np.repeat(np.arange(5), per_class)
        rows = (centres[labels] + random.normal(size=(len(labels), 13))).astype(np.float32)
        ids = [f"{name}/{i}" for i in range(len(labels))]
        np.savez(tmp_path / f"{name}.npz", features=rows, labels=labels, ids=ids, classes=[f"c{i}" for i in range(5)])
    return ("--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz")
