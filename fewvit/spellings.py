"""How sources are spelled: what the sets are called that a data set is divided into, and the names of public ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from . import plugins
from .errors import DataError, printable

SPLITS = ("train", "val", "test")  # the order in which they are told
_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development"),
    "test": ("test", "testing"),
}
# what follows the word: `training_set`, `val-images`, `test data`, `train2017`
_NAME = re.compile(r"([a-z]+?)[ _.-]?(set|split|data|dataset|images?|imgs?|\d{4})?")


def split_of(name: str) -> str | None:
    """`train`, `val` or `test` for a folder that is called so in some way, in any case of letters; None for others."""
    match = _NAME.fullmatch(name.strip().casefold())
    return next((split for split, words in _WORDS.items() if match and match[1] in words), None)


def splits_among(source: str, names: Iterable[str]) -> dict[str, str]:
    """Split -> the folder of that split, of those among `names`. Raises DataError where two are of one split."""
    found: dict[str, str] = {}
    for name in sorted(names):
        split = split_of(name)
        if split is not None and found.setdefault(split, name) != name:
            raise DataError(
                f"{printable(found[split])}/ and {printable(name)}/ are both called as the set {split}",
                file=source,
                fix="Give the two that you mean: --train SRC --test SRC.",
            )
    return {split: found[split] for split in SPLITS if split in found}


def public_set(source: str) -> tuple[str, str] | None:
    """The plug-in's name and the place of a source `NAME:PLACE` that names a public data set; None for others."""
    name, colon, place = source.partition(":")
    stem = name.replace("-", "_")
    return (stem, place) if colon and stem in plugins.names("public_sets") else None


def place_of(source: str) -> str:
    """The path in a source: behind the name of a public data set, or all of it."""
    named = public_set(source)
    return source if named is None else os.path.expanduser(named[1])


def absolute(source: str) -> str:
    """The same source from wherever it is read; `digits` is no place."""
    if source.split("/")[0] == "digits":
        return source
    name = f"{source.partition(':')[0]}:" if public_set(source) else ""
    return name + os.path.abspath(place_of(source))
