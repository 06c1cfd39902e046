"""A public data set in the layout that it is published in: `imagenet:DIR@val`, `cifar10:DIR@train`.

The sets stand in `fewvit/public_sets/`, which is a folder of plug-ins: what is asked of one is found by its name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import plugins
from ..errors import DataError, printable, some
from ..spellings import public_set
from . import Dataset, Listing

if TYPE_CHECKING:
    from ..public_sets import PublicSet


class Published:
    """`NAME:DIR@PART`; `fewvit data list` has the names. A file or folder of such a name is `./NAME:…`."""

    @staticmethod
    def accepts(source: str) -> bool:
        """Whether the source begins with the name of a public data set and a colon."""
        return public_set(source) is not None

    @staticmethod
    def open(source: str, listing: Listing) -> Dataset:
        """The images of that part of the set. Raises DataError as `Format.open`."""
        return _open(source, listing)


def _open(source: str, listing: Listing) -> Dataset:
    """The data set that `NAME:DIR@PART` names.

    Raises DataError for a folder that is not there, for a set of several parts where none is named, and as the set.
    """
    kind, folder, part = _asked(source)
    about = kind.about
    if not part:
        if len(about.parts) > 1:
            raise DataError(
                f"{about.title} has several parts, and none is named",
                file=source,
                fix=f"Say which after @: {some([f'{source}@{one}' for one in about.parts], 4)}.",
            )
        part = next(iter(about.parts))
    return kind.open(folder, part, listing)


def pair_of(source: str) -> tuple[str, str]:
    """The sources of a public set's training and test part. Raises DataError where it has none, or one is named."""
    kind, _, part = _asked(source)
    if part or kind.about.pair is None:
        what = f"names the part {part}" if part else f"{kind.about.title} has no training part of its own"
        raise DataError(f"{what}, and two sets are needed", file=source, fix="Give --train SRC and --test SRC.")
    first, second = kind.about.pair
    return f"{source}@{first}", f"{source}@{second}"


def _asked(source: str) -> tuple[type[PublicSet], str, str]:
    """The set, its folder and the part that is asked for, empty for none. Raises DataError."""
    named = public_set(source)
    if named is None:
        raise DataError("names no public data set", file=source)
    name, place = named
    kind: type[PublicSet] = plugins.find("public_sets", name)
    folder, _, part = place.rpartition("@")
    if folder and part not in kind.about.parts and not os.path.exists(place):
        raise DataError(
            f"{kind.about.title} has no part {printable(part)}: it has {some(list(kind.about.parts), 12)}", file=source
        )
    if not folder or part not in kind.about.parts:
        folder, part = place, ""
    if not folder.strip() or (folder[0] == "@" and folder[1:] in kind.about.parts):
        raise DataError(
            "no folder behind the colon", file=source, fix=f"Say where it lies: {source.partition(':')[0]}:DIR."
        )
    folder = os.path.expanduser(folder)  # the shell leaves a ~ behind a colon as it is
    if not os.path.exists(folder):
        raise DataError(
            "no such folder",
            file=folder,
            fix=f"`fewvit data fetch {name.replace('_', '-')}` tells what goes where.",
        )
    return kind, folder, part
