"""`--set name=value`: options of plug-ins, read as the types that their constructors declare. No torch."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UnknownName, UsageError
from .plugins import find


@dataclass(frozen=True)
class Setting:
    """One `--set`: `name=value` for every chosen plug-in that has the option, `plugin.name=value` for one of them."""

    plugin: str  # empty: whichever has it
    name: str
    value: str


def parse_setting(text: str) -> Setting:
    """A `Setting` of its text. Raises UsageError."""
    left, equals, value = text.partition("=")
    plugin, _, name = left.strip().rpartition(".")
    if not equals or not name:
        raise UsageError(f"--set {text!r} is not name=value or plugin.name=value")
    return Setting(plugin.replace("-", "_"), name.replace("-", "_"), value.strip())


def options_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a plug-in's constructor takes."""
    return {
        name: p
        for name, p in inspect.signature(factory).parameters.items()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }


def settings_for(kind: str, plugins: Sequence[str], settings: Iterable[Setting]) -> dict[str, dict[str, Any]]:
    """Constructor arguments of each chosen plug-in: {"knn": {"k": 5}, …}.

    Raises UnknownName for a plug-in or an option that is not there, UsageError for a plug-in that was not chosen and
    for values of another type.
    """
    factories = {name.replace("-", "_"): find(kind, name) for name in plugins}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in factories}
    for setting in settings:
        if setting.plugin and setting.plugin not in factories:
            raise UsageError(
                f"--set {setting.plugin}.{setting.name}: {setting.plugin} is not among the chosen "
                f"{', '.join(factories)}"
            )
        named = [setting.plugin] if setting.plugin else list(factories)
        having = [name for name in named if setting.name in options_of(factories[name])]
        if not having:
            raise UnknownName(
                "option", setting.name, sorted({option for name in named for option in options_of(factories[name])})
            )
        for name in having:
            chosen[name][setting.name] = typed(
                setting, typing.get_type_hints(factories[name].__init__).get(setting.name, str)
            )
    return chosen


def typed(setting: Setting, kind: Any) -> Any:
    """The value as the annotation wants it: bool, int, float, str, a Literal, or one of several.

    Raises UsageError, for NaN and Inf too.
    """
    wanted = (
        typing.get_args(kind)
        if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
        else (kind,)
    )
    for one in sorted(wanted, key=lambda one: _READING_ORDER.index(one) if one in _READING_ORDER else 0):
        try:
            value = _read(setting.value, one)
        except ValueError:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--set {setting.name}={setting.value}: not a finite number")
        return value
    names = " or ".join(_name(one) for one in wanted)
    raise UsageError(f"--set {setting.name}={setting.value}: {setting.value!r} is not {names}")


_READING_ORDER = [type(None), bool, int, float, str]
_WORDS: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _read(text: str, kind: Any) -> Any:
    if kind is type(None):
        if text.lower() != "none":
            raise ValueError
        return None
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError
        return _WORDS[text.lower()]
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise ValueError
        return text
    return kind(text)


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    return {type(None): "none", bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
