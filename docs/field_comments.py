"""For the Python reference: what the comments beside a dataclass's fields say becomes a table of its attributes."""

import re
from typing import Any

import griffe

_COMMENT = re.compile(r"^\s*\w+:.*?\s#\s(.+)$")


class FieldComments(griffe.Extension):
    """fewvit documents a field once, in the comment at its line's end; griffe knows docstrings only."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        said = {name: _comment(member) for name, member in cls.members.items() if isinstance(member, griffe.Attribute)}
        lines = [f"    {name}: {text}" for name, text in said.items() if text and not name.startswith("_")]
        if lines and cls.docstring is not None:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)


def _comment(field: griffe.Attribute) -> str:
    """The comment on the field's own line; empty if there is none."""
    found = _COMMENT.match(field.lines_collection[field.filepath][field.lineno - 1]) if field.lineno else None
    return found[1] if found else ""
