"""`--classifier` and `--set`, from words to plug-ins and their options."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from .shared import Classifiers

if TYPE_CHECKING:
    from fewvit.options import Setting


def settings_of(classifiers: Classifiers, default: str) -> dict[str, dict[str, Any]]:
    """The chosen classifiers, in their order, each with its options. Raises UsageError."""
    from fewvit.options import parse_setting, settings_for

    names = [name.replace("-", "_") for name in (classifiers.classifier or default).split(",") if name]
    return settings_for("classifiers", names, [parse_setting(text) for text in classifiers.set or ()])


def settings_with_last_block(
    classifiers: Classifiers, default: str
) -> tuple[dict[str, dict[str, Any]], list[Setting] | None]:
    """As `settings_of`, and what --set says of the last block's training.

    None where `last-block` is not among the classifiers.
    """
    names = [name.replace("-", "_") for name in (classifiers.classifier or default).split(",") if name]
    if "last_block" not in names:
        return settings_of(classifiers, default), None
    from fewvit.finetune.request import OPTIONS
    from fewvit.options import options_of, parse_setting, settings_for
    from fewvit.plugins import find

    others = [name for name in names if name != "last_block"]
    given = [parse_setting(text) for text in classifiers.set or ()]
    theirs = {option for name in others for option in options_of(find("classifiers", name))}
    own = [
        one
        for one in given
        if one.plugin == "last_block" or (not one.plugin and (one.name in OPTIONS or one.name not in theirs))
    ]
    left = [one for one in given if one not in own or (not one.plugin and one.name in theirs)]
    return settings_for("classifiers", others, left), own


def listed_classifiers() -> list[dict[str, Any]]:
    """Every classifier: its name, whether it looks at all queries together, its options, and what it does."""
    from fewvit.classifiers import classifiers, traits_of
    from fewvit.options import options_of

    rows = []
    for name, kind in classifiers().items():
        options = ", ".join(f"{option}={parameter.default}" for option, parameter in options_of(kind).items())
        about = (inspect.getdoc(kind) or "").partition("\n")[0]
        extra = traits_of(kind).extra
        rows.append(
            {
                "classifier": name,
                "transductive": "yes" if traits_of(kind).transductive else "no",
                "options": options,
                "about": f"{about} Needs the extra {extra}." if extra else about,
            }
        )
    about = (
        "The last transformer block and a classifier, trained on the labelled images; of `lowshot` alone. "
        "Source: Assran et al. 2022."
    )
    options = "those of `fewvit finetune --mode last-block`: epochs, lr, batch_size, weight_decay, …"
    rows.append({"classifier": "last-block", "transductive": "no", "options": options, "about": about})
    return rows
