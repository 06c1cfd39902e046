"""`--classifier` and `--set`, from words to plug-ins and their options."""

from __future__ import annotations

import inspect
from typing import Any

from .shared import Classifiers


def settings_of(classifiers: Classifiers, default: str) -> dict[str, dict[str, Any]]:
    """The chosen classifiers, in their order, each with its options. Raises UsageError."""
    from fewvit.options import parse_setting, settings_for

    names = [name.replace("-", "_") for name in (classifiers.classifier or default).split(",") if name]
    return settings_for("classifiers", names, [parse_setting(text) for text in classifiers.set or ()])


def listed_classifiers() -> list[dict[str, Any]]:
    """Every classifier: its name, whether it looks at all queries together, its options, and what it does."""
    from fewvit.options import options_of
    from fewvit.plugins import find, names

    rows = []
    for name in names("classifiers"):
        kind = find("classifiers", name)
        options = ", ".join(f"{option}={parameter.default}" for option, parameter in options_of(kind).items())
        about = (inspect.getdoc(kind) or "").partition("\n")[0]
        rows.append(
            {
                "classifier": name,
                "transductive": "yes" if getattr(kind, "transductive", False) else "no",
                "options": options,
                "about": about,
            }
        )
    return rows
