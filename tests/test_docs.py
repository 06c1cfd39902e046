"""The README cannot rot: its commands and its Python run, its tables name what is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewvit import backbones, plugins
from fewvit.extraction import protocols
from fewvit.models.vit import VisionTransformer, randomise

from pictures import folder_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RUN = "import sys; from fewvit_cli.main import run; code = run(sys.argv[1:]); sys.stdout.flush(); sys.exit(code)"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the README supposes it: images, and DINO's ViT-B/16 file (untrained) where weights are looked for."""
    root = tmp_path_factory.mktemp("readme")
    folder_of(root / "images/train", {"cat": 3, "dog": 4})
    folder_of(root / "images/val", {"cat": 2, "dog": 1}, first_seed=50)
    model = VisionTransformer(backbones.find_variant("dino_vitb16")[1].architecture)
    randomise(model, 1)
    (root / "weights").mkdir()
    torch.save(model.state_dict(), root / "weights/dino_vitbase16_pretrain.pth")
    return root


@pytest.fixture(scope="module")
def environment(place):
    return {**os.environ, "FEWVIT_CACHE_DIR": str(place / "cache"), "FEWVIT_WEIGHTS_DIR": str(place / "weights"), "FEWVIT_OFFLINE": "1"}


def test_every_command_of_the_readme_runs(place, environment):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) >= 10
    for line in commands:
        words = shlex.split(line)
        assert words[0] == "fewvit"
        done = subprocess.run(
            [sys.executable, "-c", RUN, *words[1:]], cwd=place, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout or "wrote" in done.stderr, line


def test_the_python_of_the_readme_runs(place, environment):
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=place, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, (block, done.stderr)


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", "\n".join(blocks("text")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_protocol_and_layer_module_that_the_readme_names_is_there():
    assert {"dino/1", "msn/1", "mae/1"} <= set(re.findall(r"`(\w+/\d)`", README)) <= set(protocols.protocols())
    table = README[README.index("| layer | modules |") :]
    named = set(re.findall(r"`(\w+)/?`", table[: table.index("\n\n")]))
    present = {p.stem for p in (ROOT / "fewvit").glob("*.py")} | {
        p.name for p in (ROOT / "fewvit").iterdir() if (p / "__init__.py").exists()
    }
    assert named == present - {"__init__"}


def test_the_licence_and_the_changelog_are_there():
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert f"## {__import__('fewvit').__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_plug_in_kind_that_the_readme_names_has_plug_ins():
    for kind in set(re.findall(r"`fewvit/(\w+)/NAME\.py`", README)):
        assert plugins.names(kind)
