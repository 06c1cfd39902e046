"""What the shell completes, and the headings of --help."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from fewvit_cli import main as cli

# what is typed -> some of what is offered, and all of what may not be
LINES = {
    "fewvit k": ({"knn"}, "k"),
    "fewvit index bu": ({"build"}, "bu"),
    "fewvit knn --backbone dino_vits16,msn_vits": ({"dino_vits16,msn_vits16"}, "dino_vits16,msn_vits"),
    "fewvit lowshot --classifier l": ({"logistic", "label-propagation"}, "l"),
    "fewvit pretrain m": ({"mae", "msn"}, "m"),
    "fewvit knn --protocol dino": ({"dino/1", "dinov2/1"}, "dino"),
    "fewvit knn --family ": ({"dino", "mae", "msn"}, ""),
    "fewvit finetune --mode l": ({"lora", "last-block"}, "l"),
    "fewvit knn --format ": ({"table", "json", "csv"}, ""),
    "fewvit knn --leave": ({"--leave-one-out"}, "--leave"),
}


@pytest.fixture(scope="module")
def offered():
    """What bash is offered for each line, and what was imported for all of them that is slow to import."""
    script = (
        "import contextlib, io, json, os, sys\n"
        "from fewvit_cli.main import run\n"
        "answers = {}\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    os.environ |= {'COMP_WORDS': line, 'COMP_CWORD': str(len(line.split(' ')) - 1)}\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit): run([])\n"
        "    answers[line] = text.getvalue().split()\n"
        "print(json.dumps([answers, sorted({'torch', 'timm', 'sklearn', 'faiss'} & set(sys.modules))]))"
    )
    import json

    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(list(LINES))],
        capture_output=True,
        text=True,
        env={**os.environ, "_FEWVIT_COMPLETE": "complete_bash"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", LINES)
def test_the_shell_completes_commands_options_and_names(line, offered):
    wanted, prefix = LINES[line]
    found = offered[0][line]
    assert wanted <= set(found)
    assert all(one.startswith(prefix) for one in found)


def test_completing_imports_nothing_heavy(offered):
    assert offered[1] == []


def test_a_file_is_left_to_the_shell(monkeypatch, capsys):
    for name, value in {"COMP_WORDS": "fewvit knn --train ", "COMP_CWORD": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("_FEWVIT_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit):
        cli.run([])
    assert capsys.readouterr().out.strip() == ""


# ---- headings


def sections_of(text: str) -> dict[str, set[str]]:
    """Heading -> the options under it."""
    found, heading = {}, ""
    for line in text.splitlines():
        if re.fullmatch(r"\w.*:", line):
            heading = line[:-1]
        left = re.split(r" {2,}", line.strip())[0] if line[:3] != "   " else ""
        found.setdefault(heading, set()).update(re.findall(r"--[a-z][a-z-]*", left))
    return {heading: flags for heading, flags in found.items() if heading}  # what stands before is prose


GROUPS = {"backbones", "cache", "data", "export", "index", "inspect"}  # whose commands have the options


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - GROUPS))
def test_every_option_stands_under_one_heading_in_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = cli.LazyCommands.get_command(None, None, name)
    assert cli.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    shown = sections_of(text)
    options = {max(p.opts, key=len) for p in command.params if p.param_type_name == "option" and not p.hidden}
    assert options <= set().union(*shown.values())
    assert sum(len(flags & options) for flags in shown.values()) == len(options)
    assert "--format" in shown["Output"]
    assert "--help" in shown["Advanced"]


def test_the_headings_of_knn_come_in_one_order(fewvit):
    text = fewvit("knn", "--help")[1]
    shown = sections_of(text)
    assert re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE) == [
        "What to read",
        "Options",
        "Backbone",
        "Output",
        "Advanced",
    ]
    assert {"--data", "--train", "--test"} == shown["What to read"]
    assert {"--k", "--temperature"} <= shown["Options"]
    assert {"--backbone", "--weights", "--pool"} <= shown["Backbone"]
