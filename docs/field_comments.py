"""For the Python reference: what the comments beside a dataclass's fields say becomes a table of its attributes."""

import itertools
import re
from typing import Any

import griffe

_COMMENT = re.compile(r"^\s*\w+:.*?\s#\s(.+)$")


class FieldComments(griffe.Extension):
    """fewvit documents a field once, in the comment at its line's end or above it; griffe knows docstrings only."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        texts = {name: _comment(member) for name, member in cls.members.items() if isinstance(member, griffe.Attribute)}
        lines = [f"    {name}: {text}" for name, text in texts.items() if text and not name.startswith("_")]
        if lines and cls.docstring is not None:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)


def _comment(field: griffe.Attribute) -> str:
    """The comment at the end of the field's line, or else the lines of comment above it; empty if there is none."""
    if not field.lineno:
        return ""
    lines, at = field.lines_collection[field.filepath], field.lineno - 1
    if found := _COMMENT.match(lines[at]):
        return found[1]
    above = list(itertools.takewhile(lambda line: line.strip().startswith("# "), reversed(lines[:at])))
    return " ".join(line.strip()[2:] for line in reversed(above) if not line.strip().startswith("# --"))
