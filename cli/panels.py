"""Options of `--help` under headings, and the names that the shell completes: one table for each."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

from typer.core import TyperCommand

READ, BACKBONE, OUTPUT, ADVANCED = "What to read", "Backbone", "Output", "Advanced"
OWN = "Options"  # what a command has by itself
_ORDER = (READ, OWN, BACKBONE, OUTPUT, ADVANCED)
_SOURCES = ("data", "train", "test", "index")  # a command's own sources stand with what all read
_RARE = ("precision", "decode", "device", "config", "debug", "max_pixels", "save_every", "workers")


class Grouped(TyperCommand):
    """A command whose help shows its options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, those of one heading together, the headings in one order everywhere."""
        shown: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                heading = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or OWN
                shown.setdefault(ADVANCED if parameter.name == "help" else heading, []).append(record)
        for heading in ("Arguments", *_ORDER):
            if heading in shown:
                with formatter.section(heading if set(shown) != {ADVANCED} else OWN):
                    formatter.write_dl(shown[heading])


def placed(name: str, annotation: Any, heading: str | None) -> Any:
    """A parameter's annotation with its heading, and with what the shell may complete."""
    if not hasattr(annotation, "__metadata__"):
        return annotation
    kind, info = get_args(annotation)[0], copy.copy(annotation.__metadata__[0])
    if name in _SOURCES:
        heading = READ
    info.rich_help_panel = ADVANCED if name in _RARE else heading
    if info.autocompletion is None:
        info.autocompletion = _completion(name, info.metavar or "")
    return Annotated[kind, info]


# ---- completion


def completion(value: str, about: str) -> Any:
    """One thing that the shell may complete, as the click that typer is built on has it; newer ones bring their own."""
    click = next(one.__module__ for one in TyperCommand.__mro__ if one.__name__ == "Command").rpartition(".")[0]
    return importlib.import_module(f"{click}.shell_completion").CompletionItem(value, help=about)


def _completion(name: str, metavar: str) -> Callable[..., list[str]] | None:
    """What completes a parameter's value: names of its kind, or the words that its metavar spells; None: files."""
    words = [word for word in re.split(r"[|]", metavar) if re.fullmatch(r"[a-z0-9][a-z0-9+:\-]*", word)]
    known = _NAMES.get(name, lambda: ())

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + one for one in (*known(), *words) if one.startswith(last)]

    return complete if name in _NAMES or words else None


def _backbones() -> Sequence[str]:
    from fewvit.backbones import variants

    return sorted(variants())


def _families() -> Sequence[str]:
    from fewvit.backbones import recognisable

    return recognisable()


def _protocols() -> Sequence[str]:
    from fewvit.backbones import families

    return [protocol.name for family in families().values() for protocol in family.protocols]


def _plugins(kind: str) -> Callable[[], Sequence[str]]:
    def found() -> Sequence[str]:
        from fewvit.plugins import names

        return [name.replace("_", "-") for name in names(kind)]

    return found


def _modes() -> Sequence[str]:
    from fewvit.finetune.modes import MODES

    return list(MODES)


# parameter -> what is known under its name; nothing here waits for torch
_NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "backbone": _backbones,
    "init": _backbones,
    "family": _families,
    "protocol": _protocols,
    "classifier": _plugins("classifiers"),
    "method": _plugins("methods"),
    "mode": _modes,
    "strangeness": _plugins("strangeness"),
}
