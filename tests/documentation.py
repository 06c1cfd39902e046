"""The documentation as a test sees it: pages, blocks, commands with their output, links and anchors.

`python tests/documentation.py --write` runs the commands that stand with their output and writes what they print now.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
ELIDED = "…"  # a line of nothing else stands for any number of lines
_SHIM = "import sys; from fewvit_cli.main import run; code = run(sys.argv[1:]); sys.stdout.flush(); sys.exit(code)"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_DECIMAL = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Step:
    """A command of a `console` block, and what it is shown to print."""

    command: str
    shown: str


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def fenced(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block, in their order."""
    return _FENCE.findall(page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in their order."""
    return [text for kind, text in fenced(page) if kind == language]


def command_lines(block: str) -> list[str]:
    """The lines of a block but for comments, those that a backslash continues in one piece."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def commands(page: Path, language: str) -> list[str]:
    """The command lines of all blocks of a language."""
    return [line for block in blocks(page, language) for line in command_lines(block)]


def spans(page: Path) -> list[str]:
    """The code spans of a page's prose, on one line each."""
    return [
        " ".join(span.split()) for span in re.findall(r"`([^`]+)`", _FENCE.sub("", page.read_text(encoding="utf-8")))
    ]


def steps(block: str) -> list[Step]:
    """The commands of a `console` block (lines that begin with `$ `), each with the lines up to the next one."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [Step(*(text.strip("\n") for text in (part.partition("\n")[0], part.partition("\n")[2]))) for part in parts]


# ---- running ---------------------------------------------------------------------------------------------------------


def run(command: str, place: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """One line in a shell, whose `fewvit` and `python` are this checkout's."""
    programs = place / ".programs"
    if not programs.exists():
        programs.mkdir(parents=True)
        (programs / "shim.py").write_text(_SHIM)
        for name, words in (
            ("fewvit", f'"{sys.executable}" -P "{programs}/shim.py"'),
            ("python", f'"{sys.executable}"'),
        ):
            (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            (programs / name).chmod(0o755)
    found = {
        **os.environ,
        **environment,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=found,
        capture_output=True,
        text=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """What a page shows of a command: its standard output, or the error it ended with."""
    return "\n".join(line.rstrip() for line in (done.stdout or done.stderr).strip("\n").splitlines())


def agrees(shown: str, found: str) -> bool:
    """Whether the output is the one shown: the same words, and nearly the same decimals.

    CPUs round differently, and one test image that changes sides moves an interval's end by some tenths: decimals may
    differ by 0.5 and 1 %, those below 1 by 0.05.
    """
    return _lines_agree(*([re.split(r"[\s,]+", line.strip()) for line in text.splitlines()] for text in (shown, found)))


def _lines_agree(pattern: list[list[str]], lines: list[list[str]]) -> bool:
    if not pattern:
        return not lines
    if pattern[0] == [ELIDED]:
        return any(_lines_agree(pattern[1:], lines[i:]) for i in range(len(lines) + 1))
    return bool(lines) and _words_agree(pattern[0], lines[0]) and _lines_agree(pattern[1:], lines[1:])


def _words_agree(shown: list[str], found: list[str]) -> bool:
    return len(shown) == len(found) and all(map(_word_agrees, shown, found))


def _word_agrees(shown: str, found: str) -> bool:
    if shown == found:
        return True
    if not (_DECIMAL.fullmatch(shown) and _DECIMAL.fullmatch(found)):
        return False
    one, other = float(shown), float(found)
    largest = max(abs(one), abs(other))
    return abs(one - other) <= (0.5 + 0.01 * largest if largest >= 1 else 0.05)


# ---- options ---------------------------------------------------------------------------------------------------------


def _command(name: str) -> Any:
    """The click command of a name; None if there is none."""
    import click
    import typer

    from fewvit_cli.main import app

    group = typer.main.get_command(app)
    return group.get_command(click.Context(group), name)  # type: ignore[attr-defined]


def _flags(command: Any) -> set[str]:
    found = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return found.union(*map(_flags, getattr(command, "commands", {}).values())) | {"--help"}


def known_flags() -> set[str]:
    """Every option of every command, and what the tools that the pages name take."""
    from fewvit_cli.main import COMMANDS

    return {"--version", "--install-completion"}.union(*(_flags(_command(name)) for name in COMMANDS)) | {
        "--nproc-per-node",
        "--sample",
    }  # torchrun, tests/mutation.py


def unknown_words(line: str) -> list[str]:
    """The command and options of a `fewvit ...` line that fewvit does not have."""
    words = re.split(r"\s[|>]\s|\s+#", line)[0].split()[1:]
    if words[0].startswith("-") or not words[0].islower() or "|" in words[0]:
        return []
    command = _command(words[0])
    if command is None:
        return words[:1]
    return [word for word in words[1:] if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in _flags(command)]


# ---- links -----------------------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """A page's text without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    """The targets of all Markdown links and images of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, on the site and on a forge alike; a heading where the two differ has none."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE):
        plain = html.unescape(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading))
        site = re.sub(
            r"[-\s]+",
            "-",
            re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode())
            .strip()
            .lower(),
        )
        forge = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain.strip().lower()))
        if site == forge:
            found.add(site)
    return found


def broken_links(page: Path) -> Iterator[str]:
    """Every link of a page whose file or heading is not there. Addresses outside the repository are not looked up."""
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


# ---- what the commands of the pages suppose to be there --------------------------------------------------------------


def furnish(place: Path) -> dict[str, str]:
    """The environment that commands run in: DINO's ViT-B/16 file, untrained, lies where weights are looked for."""
    import torch

    from fewvit import backbones
    from fewvit.models.backbone import randomise
    from fewvit.models.vit import VisionTransformer

    model = VisionTransformer(backbones.find_variant("dino_vitb16")[1].architecture)
    randomise(model, 1)
    (place / "weights").mkdir(parents=True)
    torch.save(model.state_dict(), place / "weights/dino_vitbase16_pretrain.pth")
    return {
        "FEWVIT_CACHE_DIR": str(place / "cache"),
        "FEWVIT_WEIGHTS_DIR": str(place / "weights"),
        "FEWVIT_OFFLINE": "1",
    }


def images(place: Path, environment: Mapping[str, str]) -> Path:
    """A page's own folder, with `images/train`, `images/val` and the folders `weights` and `recipes` in it."""
    from made_images import folder_of

    folder_of(place / "images/train", {"cat": 3, "dog": 4})
    folder_of(place / "images/val", {"cat": 2, "dog": 1}, first_seed=50)
    (place / "weights").symlink_to(environment["FEWVIT_WEIGHTS_DIR"])
    (place / "recipes").symlink_to(ROOT / "recipes")
    return place


def refreshed(page: Path, place: Path, environment: Mapping[str, str]) -> str:
    """A page whose `console` commands have their output of now; a block with an elided line is left alone."""

    def again(match: re.Match[str]) -> str:
        kind, text = match.groups()
        if kind != "console" or ELIDED in text.splitlines():
            return match.group()
        ran = [f"$ {step.command}\n{printed(run(step.command, place, environment))}\n" for step in steps(text)]
        return f"```console\n{''.join(ran)}```"

    return _FENCE.sub(again, page.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="replace the outputs in the pages")
    parser.add_argument("pages", nargs="*", type=Path, help="only these pages; default: all that have such commands")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = furnish(Path(folder) / "shared")
        for page in [path.resolve() for path in options.pages] or PAGES:
            if blocks(page, "console"):
                page.write_text(
                    refreshed(page, images(Path(folder) / page.stem, environment), environment), encoding="utf-8"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
