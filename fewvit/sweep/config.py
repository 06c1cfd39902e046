"""A sweep's TOML file, and what flags say in its place."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbones import find_variant
from ..errors import DataError, FewvitError, UnknownName, UsageError, are
from ..extraction.pipeline import check_options
from ..extraction.protocols import find_protocol
from ..files import sha256_of
from ..models.resolve import is_path, is_variant
from ..untrusted.texts import toml_of
from .methods import methods_named
from .settings import BackboneSetting, DataSetting, MethodSetting, SubsetFile, SweepConfig

_BACKBONE = tuple(one.name for one in dataclasses.fields(BackboneSetting))
_READOUT = tuple(name for name in _BACKBONE if name not in ("name", "label", "protocol"))
_OWN = ("backbones", "data", "protocol", "methods", "shots", "percent", "subsets", "trials", "episodes", "seed")
KEYS = (*_OWN, *_READOUT)


def read_config(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Raises DataError for a file that is missing, UsageError naming line and key."""
    try:
        values, text = toml_of(path)
    except UsageError as error:
        raise UsageError(error.what, file=path, fix=_EXAMPLE) from error
    for key in values:
        if key not in KEYS:
            raise UnknownName("key", key, KEYS, fix=f"It stands in {path}, line {_line(text, key)}.")
    return {key: _Placed(value, f"{path}, line {_line(text, key)}, {key}") for key, value in values.items()}


_EXAMPLE = 'Such as: backbones = ["dino_vits16"], data = ["digits"], methods = ["knn", "logistic"], shots = [1, 5].'


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A value, and where it stands."""

    value: Any
    place: str


def _line(text: str, key: str) -> int:
    found = re.search(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[\]=.]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start(0) + len(found.group(0)) - len(found.group(0).lstrip())) + 1 if found else 1


def settled(given: Mapping[str, Any], flags: Mapping[str, Any]) -> SweepConfig:
    """What a file and flags ask for together; a flag wins over the file.

    `given`: as `read_config`; `flags`: key -> value, without those that were not given. Raises UsageError, which says
    where, for values that make no sense, UnknownName for unknown backbones, protocols, methods and options.
    """
    flagged = {key: _Placed(value, _flag(key)) for key, value in flags.items()}
    values = {**given, **flagged}

    def each(key: str, take: Callable[[Any], Any]) -> list[Any]:
        if key not in values:
            return []
        placed = values[key]
        items = placed.value if isinstance(placed.value, list | tuple) else [placed.value]
        return [_at(placed.place, take, item) for item in items]

    def single(key: str, take: Callable[[Any], Any]) -> Any:
        found = each(key, take)
        if len(found) != 1:
            raise UsageError(f"{values[key].place} takes one value, and here {are(len(found))} {len(found)}")
        return found[0]

    values = {key: dataclasses.replace(one, value=_joined(key, one.value)) for key, one in values.items()}
    common = {key: single(key, _single_text) for key in _READOUT if key in values}
    protocols = each("protocol", _protocol) or [None]
    backbones = [
        dataclasses.replace(backbone, protocol=backbone.protocol or protocol)
        for backbone in each("backbones", lambda item: _backbone(item, common))
        for protocol in protocols
    ]
    data = each("data", _data)
    few = any(values[key].value for key in ("shots", "percent", "subsets") if key in values)
    methods: list[MethodSetting] = [one for found in each("methods", lambda item: _methods(item, few)) for one in found]
    counts = (("trials", 1), ("episodes", 1), ("seed", 0))
    config = SweepConfig(
        tuple(dict.fromkeys(backbones)),
        tuple(dict.fromkeys(data)),
        _once(methods),
        tuple(dict.fromkeys(each("shots", _whole(1)))),
        tuple(dict.fromkeys(each("percent", _percent))),
        tuple(dict.fromkeys(each("subsets", _subset))),
        **{key: single(key, _whole(least)) for key, least in counts if key in values},
    )
    _require_whole(config)
    return config


def _flag(key: str) -> str:
    return {"backbones": "--backbone", "subsets": "--subset"}.get(key, "--" + key.replace("_", "-"))


def _at(place: str, take: Callable[[Any], Any], item: Any) -> Any:
    """What `take` makes of an item; an error says where it stands."""
    try:
        return take(item)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except FewvitError as error:
        raise UsageError(f"{place}: {error}") from error


def _require_whole(config: SweepConfig) -> None:
    for name, values in (("data", config.data), ("methods", config.methods)):
        if not values:
            raise UsageError(f"a sweep without {name}", fix=_EXAMPLE)
    if not config.backbones and not all(one.has_features for one in config.data):
        raise UsageError("a sweep without backbones", fix=_EXAMPLE)
    for kind, shown in (
        ("backbones", [one.shown for one in config.backbones]),
        ("methods", [one.shown for one in config.methods]),
        ("data", [one.shown for one in config.data]),
    ):
        twice = [name for name in shown if shown.count(name) > 1]
        if twice:
            raise UsageError(
                f"{kind}: two are called {twice[0]!r}, so their rows could not be told apart",
                fix='Give one a name of its own: {name = "…", label = "…"}.',
            )


def _once(methods: Sequence[MethodSetting]) -> tuple[MethodSetting, ...]:
    """Each method once; their options cannot be hashed."""
    found: list[MethodSetting] = []
    for method in methods:
        if method not in found:
            found.append(method)
    return tuple(found)


# ---- one item of a list


def _backbone(item: Any, common: Mapping[str, str]) -> BackboneSetting:
    values = _table(item, "name", _BACKBONE)
    name = str(values["name"])
    if is_variant(name):
        find_variant(name)
    elif is_path(name) and not Path(name).exists():
        raise DataError("no such file or run", file=name)
    texts = {key: _single_text(_joined(key, value)) for key, value in values.items() if key != "name"}
    if "protocol" in texts:
        find_protocol(texts["protocol"])
    setting = BackboneSetting(name, **{**common, **texts}).absolute
    check_options(setting.options("auto"))
    _ = setting.told  # what makes no sense is told at once
    return setting


def _data(item: Any) -> DataSetting:
    values = _table(item, "data", ("data", "train", "test", "label", "name"))
    texts = {key: _single_text(value) for key, value in values.items()}
    label = texts.pop("label", None) or texts.pop("name", "")
    setting = DataSetting(**texts, label=label).absolute
    _ = setting.sides  # a folder that is not there is told at once
    return setting


def _methods(item: Any, few: bool) -> list[MethodSetting]:
    if isinstance(item, Mapping):
        values = dict(item)
        if not isinstance(values.get("name"), str):
            raise UsageError(f"{item!r} has no name")
        label = _single_text(values.pop("label", ""))
        return methods_named(values.pop("name"), values, label)
    return methods_named(_single_text(item), {}, "", few=few)


def _table(item: Any, main: str, known: Sequence[str]) -> dict[str, Any]:
    """A table's values; a text alone is its main one."""
    if isinstance(item, str):
        return {main: item}
    if not isinstance(item, Mapping):
        raise UsageError(f"{item!r} is neither a name nor a table")
    for key in item:
        if key not in known:
            raise UnknownName("key", key, known)
    if main == "name" and not isinstance(item.get("name"), str):
        raise UsageError(f"{dict(item)!r} has no name")
    return dict(item)


def _joined(key: str, value: Any) -> Any:
    """The three channels of a statistic, and both sides of a grid, as their flags take them."""
    between = {"mean": ",", "std": ",", "grid": "x"}.get(key)
    return between.join(map(str, value)) if between and isinstance(value, list | tuple) else value


def _single_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{value!r} is not one word or number")
    return str(value)


def _protocol(value: Any) -> str:
    return find_protocol(_single_text(value)).name


def _whole(least: int) -> Callable[[Any], int]:
    def take(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{value!r} is not a whole number from {least} on")
        return value

    return take


def _subset(value: Any) -> SubsetFile:
    path = os.path.abspath(_single_text(value))
    if not os.path.isfile(path):
        raise DataError("no such file", file=path)
    return SubsetFile(path, sha256_of(path))


def _percent(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= 100 and math.isfinite(value)):
        raise UsageError(f"{value!r} is not a percentage")
    return float(value)
