"""The fixed set of commands, read from commands.txt."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NEEDS_SHARED = "parity"  # the group whose inputs are official checkpoints and photographs
_LINE = re.compile(r"(?P<marks>[*!~^% ]*)(?P<name>[\w-]+): (?P<words>.*)")


@dataclass(frozen=True)
class Command:
    """One command line."""

    name: str  # group/name
    words: tuple[str, ...]  # after `fewvit`
    marks: str = ""

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_quick(self) -> bool:
        return "*" in self.marks

    @property
    def fails(self) -> bool:
        return "!" in self.marks

    @property
    def feeds(self) -> bool:
        """Whether it is run again on what the old checkout left."""
        return not {"!", "~"} & set(self.marks)

    @property
    def has_any_order(self) -> bool:
        """Whether the lines of its stdout come in any order."""
        return "%" in self.marks

    @property
    def run_folder(self) -> str:
        """The run that `fed` is to go on with; empty where it has none."""
        return self.words[self.words.index("--out") + 1] if "^" in self.marks else ""


def all_commands() -> list[Command]:
    """Every command of commands.txt. Raises ValueError for a line that is none."""
    found, group = [], ""
    text = Path(__file__).with_name("commands.txt").read_text(encoding="utf-8")
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif line.strip() and not line.startswith("#"):
            parts = _LINE.fullmatch(line)
            if parts is None:
                raise ValueError(f"no command of commands.txt: {line}")
            found.append(Command(f"{group}/{parts['name']}", tuple(shlex.split(parts["words"])), parts["marks"]))
    return found


def chosen(*, quick: bool, groups: Iterable[str], has_shared: bool) -> list[Command]:
    """The commands that are asked for. `groups`: none means all. Raises ValueError for a group that is not there."""
    found = all_commands()
    there, wanted = {command.group for command in found}, set(groups)
    if unknown := wanted - there:
        raise ValueError(f"no group {', '.join(sorted(unknown))}; there are {', '.join(sorted(there))}")
    wanted = wanted or there
    if not has_shared:
        wanted = wanted - {NEEDS_SHARED}
    return [command for command in found if command.group in wanted and (command.is_quick or not quick)]
